"""Shingles and signatures of many texts in one native pass over their bytes, or in numpy where there is no library."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.data import minhash

BEST_FIRST = ("avx2", "ref")


@dataclass(frozen=True, slots=True)
class Signed:
    """What one pass finds: every text's shingle hashes, one after the other, and its signature.

    starts      where each text's shingles begin in `flat`
    signatures  (texts, BANDS * ROWS)
    """

    flat: minhash.Hashes
    starts: npt.NDArray[np.int64]
    signatures: npt.NDArray[np.uint32]


class _Texts(ctypes.Structure):
    """`danlu_texts` of csrc/text/text.h."""

    _fields_ = [
        ("bytes", ctypes.c_char_p), ("bytes_count", ctypes.c_int64), ("ends", ctypes.c_void_p),
        ("texts", ctypes.c_int64), ("places", ctypes.c_void_p), ("factors", ctypes.c_void_p),
        ("addends", ctypes.c_void_p), ("order", ctypes.c_void_p),
    ]  # fmt: skip


def sign(texts: Sequence[bytes], *, once: bool = False) -> Signed:
    """Shingle and sign texts (UTF-8) by the rules of minhash.py; the answer is the same whatever runs.

    once  by one permutation, not by as many as a signature has values
    Cost: one pass; 8 bytes of memory for each shingle, 2 for each byte of the longest text.
    """
    return with_native(isa, texts, once=once) if (isa := best()) else with_numpy(texts, once=once)


def with_numpy(texts: Sequence[bytes], *, once: bool = False) -> Signed:
    """The same in numpy: the reference."""
    flat, starts = minhash.shingles(texts)
    return Signed(flat, starts, (minhash.once if once else minhash.signatures)(flat, starts))


def with_native(isa: str, texts: Sequence[bytes], *, once: bool = False) -> Signed:
    """The same in the native code for that instruction set, which must be there."""
    function = implementation(isa)
    assert function is not None, isa
    data = b"".join(texts)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    flat = np.empty(len(data) + len(texts), np.uint64)  # pages that nothing is written to take no memory
    starts = np.empty(len(texts) + 1, np.int64)
    signatures = np.empty((len(texts), minhash.BANDS * minhash.ROWS), np.uint32)
    given = _Texts(
        data, len(data), ends.ctypes.data, len(texts), minhash.PLACES.ctypes.data, minhash.FACTORS.ctypes.data,
        minhash.ADDENDS.ctypes.data, minhash.ORDER.ctypes.data if once else None,
    )  # fmt: skip
    status = function(
        ctypes.byref(given), ctypes.c_void_p(flat.ctypes.data), ctypes.c_int64(len(flat)),
        ctypes.c_void_p(starts.ctypes.data), ctypes.c_void_p(signatures.ctypes.data),
    )  # fmt: skip
    if status == 2:
        raise MemoryError(f"no memory to sign a text of {max(map(len, texts))} bytes")
    assert status == 0, f"danlu_sign_{isa} refused its sizes"
    return Signed(flat[: starts[-1]].copy(), starts[:-1], signatures)


def implementation(isa: str) -> Callable[..., int] | None:
    """The native function for that instruction set; None where library or CPU lack it."""
    return getattr(native.library(), f"danlu_sign_{isa}", None) if native.runs(isa) else None


@functools.cache
def best() -> str | None:
    """The instruction set whose code runs here; None for numpy."""
    return next((isa for isa in BEST_FIRST if implementation(isa)), None)
