"""The store's part of the native library: its structures, and how numpy arrays are given to it."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from danlu import native

if TYPE_CHECKING:
    from danlu.store.offsets import Offsets


class COffsets(ctypes.Structure):
    """`danlu_offsets` of csrc/store/offsets.h."""

    _fields_ = [("high", ctypes.c_void_p), ("low", ctypes.c_void_p), ("marks", ctypes.c_void_p),
                ("base", ctypes.c_int64), ("shift", ctypes.c_int64)]  # fmt: skip


class CPack(ctypes.Structure):
    """`danlu_pack` of csrc/store/store.h."""

    _fields_ = [("offsets", COffsets), ("buckets", ctypes.c_int64), ("seen", ctypes.c_void_p),
                ("bits", ctypes.c_int32), ("fd", ctypes.c_int32), ("direct", ctypes.c_int32),
                ("prefix", ctypes.c_uint64)]  # fmt: skip


class CTable(ctypes.Structure):
    """`danlu_table` of csrc/store/store.h."""

    _fields_ = [("packs", ctypes.c_void_p), ("young", ctypes.c_int64), ("count", ctypes.c_int64),
                ("left", ctypes.c_int64), ("memory", ctypes.c_int64), ("bits", ctypes.c_int32),
                ("merged", ctypes.c_int32)]  # fmt: skip


class CBatch(ctypes.Structure):
    """`danlu_batch` of csrc/store/store.h."""

    _fields_ = [("data", ctypes.c_void_p), ("data_count", ctypes.c_int64), ("hash", ctypes.c_void_p),
                ("key_at", ctypes.c_void_p), ("key_count", ctypes.c_void_p), ("value_at", ctypes.c_void_p),
                ("value_count", ctypes.c_void_p), ("count", ctypes.c_int64)]  # fmt: skip


def offsets_at(of: Offsets) -> COffsets:
    """What native code knows an index by; it does not keep it alive."""
    return COffsets(at(of.high), at(of.low), at(of.marks), of.base, of.shift)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The native library with the signatures of the store's functions set; None where there is none."""
    found = native.library()
    if found is None:
        return None
    at, count, status = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    for name, result, arguments in (
        ("hash", status, [at, at, at, count, at]),
        ("get", status, [at, ctypes.c_char_p, count, at, count, at]),
        ("want", status, [at, at, count]),
        ("find", status, [at, at, count, at, at, at]),
        ("between", status, [at, count, count, at]),
        ("count", count, [at, count, at, at, count]),
        ("parse", count, [at, at, at, count]),
        ("lay", count, [at, count, count, count, status, at, count, at]),
    ):
        function = getattr(found, f"danlu_store_{name}")
        function.restype, function.argtypes = result, arguments
    return found


def at(array: npt.NDArray[Any]) -> int:
    """Address of an array's first number; it must be kept alive by the caller."""
    return int(array.ctypes.data)


def start(data: bytes | bytearray | memoryview) -> int:
    """Address of the first of some bytes; they must be kept alive, and as long as they are, by the caller."""
    return at(np.frombuffer(data, np.uint8)) if len(data) else 0
