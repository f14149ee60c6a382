"""NF4 as bitsandbytes keeps it: a fixed codebook, scaled by the absmax of every 64, which itself is kept in 8 bits.

The numbers are those of QLoRA (arXiv 2305.14314, section 3 and appendix E) as bitsandbytes fixes them, so that its
bytes mean the same values here: 64 weights of a row share one absmax, all absmax lose their common mean (`offset`), and
256 of them share one fp32 scale. 4 + 8/64 + 32/(64 * 256) = 4.127 bits per weight. Products are made in the order of
q4.py, which holds the same values (of_nf4, to_nf4).

Axes: N rows (outputs), K columns (inputs), B = ceil(K / 64) blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.errors import WeightsNotFinite, WrongNf4

BLOCK = 64
ABSMAX_BLOCK = 256
ZERO = 7  # index of the level 0.0
LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
PANEL_FLOATS = 1 << 22  # weights quantized at a time: 16 MiB


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
                raise WrongNf4(
                    f"the {name} of an NF4 matrix {rows} x {columns} is wrong",
                    why=f"it is {found.dtype} {tuple(found.shape)}, it must be {dtype} {shape}",
                    fix="quantize the model again: danlu quantize MODEL OUT",
                )
            if not found.is_contiguous():
                raise WrongNf4(
                    f"the {name} of an NF4 matrix {rows} x {columns} has gaps",
                    why=f"its strides are {found.stride()}",
                    fix="pass it through .contiguous()",
                )


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Index of the level nearest to each value, as uint8; a value halfway goes to the lower one."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def quantize_nf4(weight_NK: Tensor) -> Nf4:
    """Quantize a matrix of any float dtype; each block by its own absmax, each absmax to 8 bits.

    Raises WeightsNotFinite on NaN or Inf. Works on panels of rows, so beside the result it needs 300 MB at most.
    """
    rows, columns = weight_NK.shape
    step = max(1, PANEL_FLOATS // columns)
    panels = [_quantize_panel(weight_NK[n : n + step].detach().float()) for n in range(0, rows, step)]
    bad = sum(panel[2] for panel in panels)
    if bad:
        raise WeightsNotFinite(
            f"{bad} weights of {rows * columns} are NaN or infinite",
            why="no scale can hold them",
            fix="take a checkpoint from before the run diverged",
        )
    absmax = torch.cat([panel[1] for panel in panels])
    code, scale, offset = _quantize_absmax(absmax.flatten())
    return Nf4(torch.cat([panel[0] for panel in panels]), code.view(absmax.shape), scale, offset, (rows, columns))


def _quantize_panel(weight_NK: Tensor) -> tuple[Tensor, Tensor, int]:
    """Packed levels and fp32 absmax of some rows, and how many weights are not finite."""
    rows, columns = weight_NK.shape
    blocks = -(-columns // BLOCK)
    weight_NBk = torch.nn.functional.pad(weight_NK, (0, blocks * BLOCK - columns)).view(rows, blocks, BLOCK)
    absmax_NB = weight_NBk.abs().amax(-1)
    bad = 0 if bool(absmax_NB.isfinite().all()) else int((~weight_NK.isfinite()).sum())
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


def dequantize(w: Nf4) -> Tensor:
    """The matrix as float32 (N, K), on any card; what q4.of_nf4 makes of it is held to this."""
    device, (rows, columns) = w.packed.device, w.shape
    group = torch.arange(w.absmax.numel(), device=device) // ABSMAX_BLOCK
    absmax = ABSMAX_LEVELS.to(device)[w.absmax.flatten().int()] * w.scale[group] + w.offset
    byte = w.packed.int()
    code_NBk = torch.stack([byte >> 4, byte & 15], -1).view(rows, -1, BLOCK)
    weight_NBk = LEVELS.to(device)[code_NBk] * absmax.view(rows, -1, 1)
    return weight_NBk.view(rows, -1)[:, :columns].contiguous()
