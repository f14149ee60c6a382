"""NF4: 4-bit weights with a fixed codebook, scaled by the absmax of every 64, which itself is kept in 8 bits.

The numbers are those of QLoRA (arXiv 2305.14314, section 3 and appendix E) as bitsandbytes fixes them, so that its
bytes mean the same values here: 64 weights of a row share one absmax, all absmax lose their common mean (`offset`), and
256 of them share one fp32 scale. 4 + 8/64 + 32/(64 * 256) = 4.127 bits per weight.

Axes: N rows (outputs), K columns (inputs), B = ceil(K / 64) blocks of a row, R input rows.
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

from danlu.errors import WeightsNotFinite, WrongNf4
from danlu.kernels import ops

BLOCK = 64
ABSMAX_BLOCK = 256
ZERO = 7  # index of the level 0.0
LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
PANEL_FLOATS = 1 << 22  # weights unpacked at a time when they are multiplied by torch: 16 MiB


def absmax_levels() -> Tensor:
    """The 256 values of an 8-bit absmax: for each of 7 decades below 1, the middles of 2^i equal steps of [0.1, 1].

    Dettmers, arXiv 2110.02861, section 1.3 (dynamic tree quantization), both signs, with 0 and 1 added.
    """
    positive = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        positive.append(10.0 ** (i - 6) * ((edges[1:] + edges[:-1]) / 2))
    some = torch.cat(positive)
    return torch.cat([some, -some, torch.tensor([0.0, 1.0])]).sort().values


ABSMAX_LEVELS = absmax_levels()


@dataclass(frozen=True)
class Nf4:
    """A quantized (N, K) matrix.

    packed  uint8 (N, 32 B)   two levels a byte, the even element in the high half; rows are padded to whole blocks
    absmax  uint8 (N, B)      index into ABSMAX_LEVELS
    scale   float32 (ceil(N B / 256),)
    offset  float32 ()        absmax = ABSMAX_LEVELS[code] * scale + offset
    Raises WrongNf4 when the parts do not belong together.
    """

    packed: Tensor
    absmax: Tensor
    scale: Tensor
    offset: Tensor
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, columns = self.shape
        blocks = -(-columns // BLOCK)
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "packed": (torch.uint8, (rows, blocks * BLOCK // 2)),
            "absmax": (torch.uint8, (rows, blocks)),
            "scale": (torch.float32, (-(-rows * blocks // ABSMAX_BLOCK),)),
            "offset": (torch.float32, ()),
        }
        for name, (dtype, shape) in wanted.items():
            found = getattr(self, name)
            if found.dtype != dtype or tuple(found.shape) != shape:
                raise WrongNf4(f"the {name} of an NF4 matrix {rows} x {columns} is wrong",
                               why=f"it is {found.dtype} {tuple(found.shape)}, it must be {dtype} {shape}",
                               fix="quantize the model again: danlu quantize MODEL OUT")
            if not found.is_contiguous():
                raise WrongNf4(f"the {name} of an NF4 matrix {rows} x {columns} has gaps",
                               why=f"its strides are {found.stride()}", fix="pass it through .contiguous()")

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return self.packed.nbytes + self.absmax.nbytes + self.scale.nbytes + self.offset.nbytes

    def map(self, change: Callable[[Tensor], Tensor]) -> Nf4:
        """The same matrix with `change` applied to every part, for example to move it to a card."""
        return Nf4(change(self.packed), change(self.absmax), change(self.scale), change(self.offset), self.shape)

    @functools.cached_property
    def view(self) -> NativeView:
        """The struct the native kernels read; it points into the parts, which this object keeps alive."""
        return NativeView(
            self.packed.data_ptr(), self.packed.numel(), self.absmax.data_ptr(), self.absmax.numel(),
            self.scale.data_ptr(), self.scale.numel(), LEVELS.data_ptr(), ABSMAX_LEVELS.data_ptr(),
            float(self.offset), *self.shape,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the pointers of `view` behind."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class NativeView(ctypes.Structure):
    """struct danlu_nf4 of csrc/nf4/nf4.h."""

    _fields_ = [
        ("packed", ctypes.c_void_p), ("packed_bytes", ctypes.c_int64), ("absmax", ctypes.c_void_p),
        ("absmax_bytes", ctypes.c_int64), ("scale", ctypes.c_void_p), ("scales", ctypes.c_int64),
        ("levels", ctypes.c_void_p), ("map", ctypes.c_void_p), ("offset", ctypes.c_float),
        ("rows", ctypes.c_int64), ("cols", ctypes.c_int64),
    ]  # fmt: skip


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Index of the level nearest to each value, as uint8; a value halfway goes to the lower one."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def quantize_nf4(weight_NK: Tensor, scales_NB: Tensor | None = None) -> Nf4:
    """Quantize a matrix of any float dtype; each block by its own absmax, each absmax to 8 bits.

    scales_NB  what blocks are scaled by instead, float32: codebooks.nf4_scales searches better ones
    Raises WeightsNotFinite on NaN or Inf. Works on panels of rows, so beside the result it needs 300 MB at most.
    """
    rows, columns = weight_NK.shape
    step = max(1, PANEL_FLOATS // columns)
    panels = []
    for n in range(0, rows, step):
        scales = None if scales_NB is None else scales_NB[n : n + step]
        panels.append(_quantize_panel(weight_NK[n : n + step].detach().float(), scales))
    bad = sum(panel[2] for panel in panels)
    if bad:
        raise WeightsNotFinite(f"{bad} weights of {rows * columns} are NaN or infinite", why="no scale can hold them",
                               fix="take a checkpoint from before the run diverged")
    absmax = torch.cat([panel[1] for panel in panels])
    code, scale, offset = _quantize_absmax(absmax.flatten())
    return Nf4(torch.cat([panel[0] for panel in panels]), code.view(absmax.shape), scale, offset, (rows, columns))


def _quantize_panel(weight_NK: Tensor, scales_NB: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Packed levels and fp32 scales of some rows (absmax unless given), and how many weights are not finite."""
    rows, columns = weight_NK.shape
    blocks = -(-columns // BLOCK)
    weight_NBk = torch.nn.functional.pad(weight_NK, (0, blocks * BLOCK - columns)).view(rows, blocks, BLOCK)
    absmax_NB = weight_NBk.abs().amax(-1)
    bad = 0 if bool(absmax_NB.isfinite().all()) else int((~weight_NK.isfinite()).sum())
    absmax_NB = absmax_NB if scales_NB is None else scales_NB
    # A block of zeros has no scale; dividing by 1 sends it to the level 0.
    share_NBk = weight_NBk * (1 / absmax_NB.where(absmax_NB > 0, 1.0)).unsqueeze(-1)
    code_NBk = nearest(share_NBk, LEVELS.to(weight_NK.device))
    return (code_NBk[..., 0::2] << 4 | code_NBk[..., 1::2]).view(rows, -1), absmax_NB, bad


def _quantize_absmax(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit codes, one scale per 256 and the common mean of a row of absmax values."""
    offset = absmax.mean()
    count = absmax.numel()
    groups = -(-count // ABSMAX_BLOCK)
    centred = torch.nn.functional.pad(absmax - offset, (0, groups * ABSMAX_BLOCK - count)).view(groups, ABSMAX_BLOCK)
    scale = centred.abs().amax(-1)
    code = nearest(centred * (1 / scale.where(scale > 0, 1.0)).unsqueeze(-1), ABSMAX_LEVELS.to(absmax.device))
    return code.flatten()[:count].contiguous(), scale, offset


def dequantize(w: Nf4, first: int = 0, stop: int | None = None) -> Tensor:
    """Rows [first, stop) of the matrix as float32 (rows, K)."""
    stop = w.shape[0] if stop is None else stop
    native = ops.find("dequantize_nf4") if w.packed.device.type == "cpu" else None
    if native is None:
        return dequantize_torch(w, first, stop)
    out = torch.empty(stop - first, w.shape[1])
    if out.numel():
        status = native(ctypes.byref(w.view), ctypes.c_int64(first), ctypes.c_int64(stop - first),
                        ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(out.numel()), torch.get_num_threads())
        ops.check(status, "dequantize_nf4")
    return out


def dequantize_torch(w: Nf4, first: int, stop: int) -> Tensor:
    """The same in torch, on any card; every other path is held to it."""
    device, blocks = w.packed.device, w.absmax.shape[1]
    group = torch.arange(first * blocks, stop * blocks, device=device) // ABSMAX_BLOCK
    absmax = ABSMAX_LEVELS.to(device)[w.absmax[first:stop].flatten().int()] * w.scale[group] + w.offset
    byte = w.packed[first:stop].int()
    code_NBk = torch.stack([byte >> 4, byte & 15], -1).view(stop - first, blocks, BLOCK)
    weight_NBk = LEVELS.to(device)[code_NBk] * absmax.view(-1, blocks, 1)
    return weight_NBk.view(stop - first, -1)[:, : w.shape[1]].contiguous()


def linear(x: Tensor, w: Nf4, bias: Tensor | None = None) -> Tensor:
    """x (..., K) @ w.T + bias (N,), in the dtype of x.

    On a CPU with a native kernel the packed bytes are read once and the input is brought to 15 bits per 64 values
    (relative error 6e-5 beside the exact product). Where a gradient is wanted, or there is no kernel, torch multiplies
    panels of fp32 weights.
    """
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    native = ops.find("linear_nf4") if x.device.type == "cpu" and not wants_grad else None
    x_RK = x.reshape(-1, w.shape[1])
    if native is None or not len(x_RK):
        out_RN = linear_torch(x_RK, w, bias)
    else:
        out_RN = linear_native(native, x_RK, w, bias).to(x.dtype)
    return out_RN.view(*x.shape[:-1], w.shape[0])


def linear_native(native: ops.Native, x_RK: Tensor, w: Nf4, bias: Tensor | None) -> Tensor:
    """The product by one native function, float32 (R, N)."""
    x_RK = x_RK.detach().float().contiguous()
    bias = None if bias is None else bias.detach().float().contiguous()
    out_RN = torch.empty(x_RK.shape[0], w.shape[0])
    status = native(ctypes.byref(w.view), ctypes.c_void_p(x_RK.data_ptr()), ctypes.c_int64(x_RK.shape[0]),
                    ctypes.c_int64(x_RK.numel()), ctypes.c_void_p(None if bias is None else bias.data_ptr()),
                    ctypes.c_void_p(out_RN.data_ptr()), ctypes.c_int64(out_RN.numel()), torch.get_num_threads())
    ops.check(status, "linear_nf4")
    return out_RN


def linear_torch(x_RK: Tensor, w: Nf4, bias: Tensor | None) -> Tensor:
    """The product by torch, a panel of rows at a time to bound memory; differentiable in x and bias."""
    step = max(1, PANEL_FLOATS // w.shape[1])
    panels = [x_RK @ dequantize(w, n, min(n + step, w.shape[0])).to(x_RK.dtype).T for n in range(0, w.shape[0], step)]
    out_RN = panels[0] if len(panels) == 1 else torch.cat(panels, -1)
    return out_RN if bias is None else out_RN + bias.to(x_RK.dtype)


def bits_per_weight(w: Nf4) -> float:
    """Bits stored per weight, everything counted."""
    return w.nbytes * 8 / math.prod(w.shape)


def strength(weight_NK: Tensor, w: Nf4) -> tuple[float, float]:
    """Energy of a matrix, and of what quantizing it changed; both panel by panel."""
    signal = noise = 0.0
    step = max(1, PANEL_FLOATS // w.shape[1])
    for n in range(0, w.shape[0], step):
        panel = weight_NK[n : n + step].float()
        signal += float(panel.square().sum(dtype=torch.float64))
        noise += float((panel - dequantize(w, n, n + len(panel))).square().sum(dtype=torch.float64))
    return signal, noise
