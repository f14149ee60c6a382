"""The structs of csrc/engine/program.h, filled from an op program; docs/formats.md, "op program"."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from danlu.kernels import q4
from danlu.kernels.interpret import Weight
from danlu.kernels.program import Code, Op, Program
from danlu.kernels.step import Cache, Step, width

KINDS: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
Q4, INT8 = 3, 4  # danlu_kind of a q4.Q4, and of pages in 8 bits (kernels/kv8.py)


class NativeOp(ctypes.Structure):
    """struct danlu_op."""

    _fields_ = [
        ("code", ctypes.c_int32), ("out", ctypes.c_int32), ("source", ctypes.c_int32), ("other", ctypes.c_int32),
        ("weight", ctypes.c_int32 * 3), ("bias", ctypes.c_int32 * 3), ("n", ctypes.c_int32 * 4),
        ("scale", ctypes.c_float), ("unused", ctypes.c_int32),
    ]  # fmt: skip


class NativeWeight(ctypes.Structure):
    """struct danlu_weight."""

    _fields_ = [("data", ctypes.c_void_p), ("rows", ctypes.c_int64), ("cols", ctypes.c_int64),
                ("kind", ctypes.c_int32), ("unused", ctypes.c_int32)]  # fmt: skip


class NativeBuffer(ctypes.Structure):
    """struct danlu_buffer."""

    _fields_ = [("data", ctypes.c_void_p), ("cols", ctypes.c_int64), ("rows", ctypes.c_int32),
                ("times", ctypes.c_int32)]  # fmt: skip


class NativeKv(ctypes.Structure):
    """struct danlu_kv."""

    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("edges", ctypes.c_void_p),
                ("kind", ctypes.c_int32), ("page", ctypes.c_int32), ("heads", ctypes.c_int32),
                ("size", ctypes.c_int32)]  # fmt: skip


class NativePiece(ctypes.Structure):
    """struct danlu_piece."""

    _fields_ = [("row", ctypes.c_int32), ("count", ctypes.c_int32), ("start", ctypes.c_int32),
                ("pages", ctypes.c_int32)]  # fmt: skip


class NativeProgram(ctypes.Structure):
    """struct danlu_program."""

    _fields_ = [
        ("ops", ctypes.c_void_p), ("weights", ctypes.c_void_p), ("buffers", ctypes.c_void_p), ("kv", NativeKv),
        ("scratch", ctypes.c_void_p), ("scratch_bytes", ctypes.c_int64), ("seconds", ctypes.c_void_p),
        ("count", ctypes.c_int32), ("version", ctypes.c_int32), ("precision", ctypes.c_int32),
        ("unused", ctypes.c_int32), ("ranks", ctypes.c_void_p), ("patience_ns", ctypes.c_int64),
        ("stop", ctypes.c_void_p),
    ]  # fmt: skip


class NativeStop(ctypes.Structure):
    """struct danlu_stop."""

    _fields_ = (("status", ctypes.c_int32), ("rank", ctypes.c_int32))


class NativeStep(ctypes.Structure):
    """struct danlu_step."""

    _fields_ = [
        ("tokens", ctypes.c_void_p), ("wanted", ctypes.c_void_p), ("pieces", ctypes.c_void_p),
        ("pages", ctypes.c_void_p), ("rows", ctypes.c_int32), ("wanted_rows", ctypes.c_int32),
        ("piece_count", ctypes.c_int32), ("unused", ctypes.c_int32),
    ]  # fmt: skip


def ops_of(program: Program) -> ctypes.Array[NativeOp]:
    """All operators, with weights as indices into `program.weights`."""
    index = {name: i for i, name in enumerate(program.weights)}
    return (NativeOp * len(program.ops))(*(_op(op, index) for op in program.ops))


def _op(op: Op, index: Mapping[str, int]) -> NativeOp:
    # Experts' matrices stand one behind the other in the table, each kind from where its first is.
    each = op.n[0] if op.code in (Code.EXPERTS, Code.COLLECT) else 1
    weights = [index[name] for name in op.weights[::each]]
    biases = [-1 if name is None else index[name] for name in op.biases]
    weight, bias = ((ctypes.c_int32 * 3)(*some, *[-1] * (3 - len(some))) for some in (weights, biases))
    n = (ctypes.c_int32 * 4)(*op.n)
    return NativeOp(op.code, op.out, op.source, op.other, weight, bias, n, op.scale)


def weights_of(weights: Sequence[Weight]) -> ctypes.Array[NativeWeight]:
    """All weights in the order given; the tensors must outlive the result."""
    return (NativeWeight * len(weights))(*(_weight(weight) for weight in weights))


def _weight(weight: Weight) -> NativeWeight:
    if isinstance(weight, q4.Q4):
        return NativeWeight(ctypes.addressof(weight.view), *weight.shape, Q4)
    columns = weight.shape[-1] if weight.dim() > 1 else weight.numel()
    return NativeWeight(weight.data_ptr(), weight.numel() // columns, columns, KINDS[weight.dtype])


def buffers_of(buffers: Sequence[Tensor], program: Program) -> ctypes.Array[NativeBuffer]:
    """All buffers, by index."""
    made = (NativeBuffer(whole.data_ptr(), b.columns, b.wanted, b.times)
            for whole, b in zip(buffers, program.buffers, strict=True))  # fmt: skip
    return (NativeBuffer * len(buffers))(*made)


class NativeCache:
    """The page pointers of a Cache, kept alive beside the tensors they point into."""

    def __init__(self, cache: Cache) -> None:
        count = len(cache.layers)
        keys, values = cache.layers[0]
        assert all(each.is_contiguous() for pair in cache.layers for each in pair)
        self._cache = cache
        self._keys = (ctypes.c_void_p * count)(*(pair[0].data_ptr() for pair in cache.layers))
        self._values = (ctypes.c_void_p * count)(*(pair[1].data_ptr() for pair in cache.layers))
        edges = [each.data_ptr() for layer in cache.edges for each in layer]
        self._edges = (ctypes.c_void_p * len(edges))(*edges)
        places = (ctypes.addressof(each) for each in (self._keys, self._values, self._edges))
        kind = INT8 if keys.dtype == torch.int8 else KINDS[keys.dtype]
        self.struct = NativeKv(*places, kind, cache.page, keys.shape[1], width(keys))


class NativeSteps:
    """The arrays of one step, kept alive while it runs."""

    def __init__(self, step: Step, page: int) -> None:
        pages: list[int] = []
        pieces, row = [], 0
        for piece in step.pieces:
            count = piece.stop - piece.start
            pieces.append(NativePiece(row, count, piece.start, len(pages)))
            pages += piece.pages[: -(-piece.stop // page)]
            row += count
        self._tokens = (ctypes.c_int32 * len(step.tokens))(*step.tokens)
        self._wanted = (ctypes.c_int32 * len(step.wanted))(*step.wanted)
        self._pieces = (NativePiece * len(pieces))(*pieces)
        self._pages = (ctypes.c_int32 * len(pages))(*pages)
        self.struct = NativeStep(
            ctypes.addressof(self._tokens), ctypes.addressof(self._wanted), ctypes.addressof(self._pieces),
            ctypes.addressof(self._pages), row, len(step.wanted), len(pieces),
        )  # fmt: skip
