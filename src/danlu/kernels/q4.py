"""A matrix in 4 bits as the fast kernels read it: any 16 levels, 16 rows interleaved (csrc/q4/q4.h).

64 weights of a row share one absmax, kept in 8 bits: either linearly between the least and the largest of 256
neighbours (`map` is None: 4.129 bits per weight), or as bitsandbytes keeps it (`map` is its table: 4.127), so that its
matrices lose nothing here.

Axes: N rows (outputs), K columns (inputs), G = ceil(N / 16) groups of rows, B = ceil(K / 64) blocks of a row,
S = ceil(B / 16) spans of blocks.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.errors import WrongNf4
from danlu.kernels import nf4, ops, pages

ROWS, BLOCK, SPAN = 16, 64, 16


@dataclass(frozen=True)
class Q4:
    """A quantized (N, K) matrix.

    codes   uint8 (G, B, 512)   8 vectors of 16 rows x 4 bytes: byte i has column i low and column 4 + i high
    absmax  uint8 (G, B, 16)
    scale   float32 (G, S, 2)   absmax = code * step + low
            with a map (ceil(N B / 256),), absmax = map[code] * scale + offset
    levels  float32 (16,)       within [-1, 1]
    map     float32 (256,) or None; offset float32 ()
    rest    another such matrix to add, without a rest of its own, or None: in 8 bits, what the first 4 left
    shift   of a part of a larger matrix (kernels/cut.py): where its first block is in its first span
    stride  with a map, also the blocks of a row of the whole matrix; 0 for a matrix that is whole
    Raises WrongNf4 when the parts do not belong together.
    """

    codes: Tensor
    absmax: Tensor
    scale: Tensor
    levels: Tensor
    shape: tuple[int, int]
    map: Tensor | None = None
    offset: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    rest: Q4 | None = None
    shift: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        wanted = parts_of(*self.shape, mapped=self.map is not None, shift=self.shift, stride=self.stride)
        for name, (dtype, shape) in wanted.items():
            found = getattr(self, name)
            if found.dtype != dtype or tuple(found.shape) != shape or not found.is_contiguous():
                raise WrongNf4(
                    f"the {name} of a 4-bit matrix {self.shape[0]} x {self.shape[1]} is wrong",
                    why=f"it is {found.dtype} {tuple(found.shape)} with strides {found.stride()}, "
                    f"it must be {dtype} {shape} without gaps",
                    fix="quantize the model again: danlu quantize MODEL OUT",
                )
        if self.rest is not None and (self.rest.shape != self.shape or self.rest.rest is not None):
            raise WrongNf4(
                f"the rest of a matrix {self.shape[0]} x {self.shape[1]} is wrong",
                why=f"it is {self.rest.shape[0]} x {self.rest.shape[1]}, and must be one matrix of the same shape",
                fix="quantize the model again: danlu quantize MODEL OUT",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all parts that a matrix has of its own: levels and map belong to the codebook."""
        own = self.codes.nbytes + self.absmax.nbytes + self.scale.nbytes + self.offset.nbytes
        return own + (self.rest.nbytes if self.rest is not None else 0)

    def each(self, change: Callable[[Tensor], Tensor]) -> Q4:
        """The same matrix with `change` applied to every part, for example to move it to a card."""
        found: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found |= {name: change(part) for name, part in found.items() if isinstance(part, Tensor)}
        return Q4(**found | {"rest": self.rest and self.rest.each(change)})

    @functools.cached_property
    def view(self) -> NativeView:
        """The struct the native kernels read; it points into the parts, which this object keeps alive."""
        return NativeView(
            self.codes.data_ptr(), self.codes.numel(), self.absmax.data_ptr(), self.absmax.numel(),
            self.scale.data_ptr(), self.scale.numel(), None if self.map is None else self.map.data_ptr(),
            float(self.offset), self.levels.data_ptr(), *self.shape,
            None if self.rest is None else ctypes.addressof(self.rest.view), self.shift, self.stride,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the pointers of `view` behind."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class NativeView(ctypes.Structure):
    """struct danlu_q4 of csrc/q4/q4.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p), ("codes_bytes", ctypes.c_int64), ("absmax", ctypes.c_void_p),
        ("absmax_bytes", ctypes.c_int64), ("scale", ctypes.c_void_p), ("scales", ctypes.c_int64),
        ("map", ctypes.c_void_p), ("offset", ctypes.c_float), ("levels", ctypes.c_void_p),
        ("rows", ctypes.c_int64), ("cols", ctypes.c_int64), ("rest", ctypes.c_void_p),
        ("shift", ctypes.c_int64), ("stride", ctypes.c_int64),
    )  # fmt: skip


def parts_of(
    rows: int, columns: int, mapped: bool = False, shift: int = 0, stride: int = 0
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of every part of a matrix."""
    groups, blocks = -(-rows // ROWS), -(-columns // BLOCK)
    looked_up = shift + (rows - 1) * (stride or blocks) + blocks
    scale = (-(-looked_up // nf4.ABSMAX_BLOCK),) if mapped else (groups, -(-(shift + blocks) // SPAN), 2)
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "codes": (torch.uint8, (groups, blocks, ROWS * BLOCK // 2)),
        "absmax": (torch.uint8, (groups, blocks, ROWS)),
        "scale": (torch.float32, scale),
        "levels": (torch.float32, (16,)),
        "offset": (torch.float32, ()),
    }
    return parts | ({"map": (torch.float32, (256,))} if mapped else {})


def interleave(codes_NK: Tensor) -> Tensor:
    """Codes uint8 (16 G, 64 B), each below 16, as `Q4.codes`."""
    groups, blocks = codes_NK.shape[0] // ROWS, codes_NK.shape[1] // BLOCK
    split = codes_NK.view(groups, ROWS, blocks, 8, 2, 4)
    bytes_GrBv4 = split[:, :, :, :, 0] | split[:, :, :, :, 1] << 4
    out = (
        pages.room(codes_NK.numel() // 2) if codes_NK.device.type == "cpu" else torch.empty_like(bytes_GrBv4).flatten()
    )
    out.view(groups, blocks, 8, ROWS, 4).copy_(bytes_GrBv4.permute(0, 2, 3, 1, 4))
    return out.view(groups, blocks, -1)


def separate(codes: Tensor) -> Tensor:
    """The reverse of `interleave`: one code a byte, (16 G, 64 B)."""
    groups, blocks, _ = codes.shape
    bytes_GrBv4 = codes.view(groups, blocks, 8, ROWS, 4).permute(0, 3, 1, 2, 4)
    return torch.stack([bytes_GrBv4 & 15, bytes_GrBv4 >> 4], 4).reshape(groups * ROWS, blocks * BLOCK)


def of_nf4(w: nf4.Nf4) -> Q4:
    """The same matrix in the order of these kernels: the same values, bit for bit."""
    rows, blocks = w.absmax.shape
    more = -rows % ROWS
    codes_NK = torch.stack([w.packed >> 4, w.packed & 15], -1).view(rows, -1)
    codes_NK = torch.nn.functional.pad(codes_NK, (0, 0, 0, more), value=nf4.ZERO)
    absmax_NB = torch.nn.functional.pad(w.absmax, (0, 0, 0, more))
    absmax_GBr = absmax_NB.view(-1, ROWS, blocks).transpose(1, 2).contiguous()
    device = w.packed.device
    return Q4(
        interleave(codes_NK),
        absmax_GBr,
        w.scale,
        nf4.LEVELS.to(device),
        w.shape,
        nf4.ABSMAX_LEVELS.to(device),
        w.offset,
    )


def to_nf4(w: Q4) -> nf4.Nf4:
    """The reverse of `of_nf4`. Raises WrongNf4 for a matrix that NF4 cannot hold: another codebook, linear absmax."""
    mapped = w.map is not None and torch.equal(w.map.cpu(), nf4.ABSMAX_LEVELS) and not w.shift and not w.stride
    if not mapped or not torch.equal(w.levels.cpu(), nf4.LEVELS):
        raise WrongNf4(
            "this 4-bit matrix is not NF4 with double quantization",
            why="its levels or its absmax are others, or it is a part of one",
            fix="quantize with --codebook nf4 --absmax bitsandbytes",
        )
    rows, codes_NK = w.shape[0], separate(w.codes)
    packed = (codes_NK[:, ::2] << 4 | codes_NK[:, 1::2])[:rows].contiguous()
    return nf4.Nf4(packed, absmax_codes(w)[:rows].contiguous(), w.scale, w.offset, w.shape)


def absmax_codes(w: Q4) -> Tensor:
    """The 8-bit absmax row by row, (16 G, B)."""
    return w.absmax.transpose(1, 2).reshape(-1, w.absmax.shape[1])


def absmax_of(w: Q4) -> Tensor:
    """The absmax of every block as float32 (N, B), the bits the kernels use."""
    rows, blocks = w.shape[0], w.absmax.shape[1]
    if w.map is None:
        step, low = w.scale.repeat_interleave(SPAN, 1)[:, w.shift : w.shift + blocks].unsqueeze(-1).unbind(2)
        return (w.absmax * step + low).transpose(1, 2).reshape(-1, blocks)[:rows].contiguous()
    row_N, block_B = (torch.arange(count, device=w.codes.device) for count in (rows, blocks))
    index_NB = (w.shift + row_N[:, None] * (w.stride or blocks) + block_B) // nf4.ABSMAX_BLOCK
    return w.map[absmax_codes(w)[:rows].int()] * w.scale[index_NB] + w.offset


def dequantize(w: Q4, first: int = 0, stop: int | None = None) -> Tensor:
    """Rows [first, stop) of the matrix as float32 (rows, K)."""
    stop = w.shape[0] if stop is None else stop
    native = ops.find("dequantize_q4") if w.codes.device.type == "cpu" else None
    if native is None:
        return dequantize_torch(w)[first:stop]
    out = torch.empty(stop - first, w.shape[1])
    if out.numel():
        status = native(
            ctypes.byref(w.view),
            ctypes.c_int64(first),
            ctypes.c_int64(stop - first),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_int64(out.numel()),
            torch.get_num_threads(),
        )
        ops.check(status, "dequantize_q4")
    return out if w.rest is None else out + dequantize(w.rest, first, stop)


def dequantize_torch(w: Q4) -> Tensor:
    """The whole matrix by torch, on any card; every other path is held to it."""
    rows, columns = w.shape
    level_NBk = w.levels[separate(w.codes)[:rows].int()].view(rows, -1, BLOCK)
    first = (level_NBk * absmax_of(w).unsqueeze(-1)).view(rows, -1)[:, :columns].contiguous()
    return first if w.rest is None else first + dequantize_torch(w.rest)


def bits_per_weight(w: Q4) -> float:
    """Bits stored per weight, everything counted."""
    return w.nbytes * 8 / math.prod(w.shape)
