"""Codebooks of 16 levels, and the quantizing of a matrix by any of them: the scale of every 64 weights by search."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.errors import UnknownPlugin, WeightsNotFinite
from danlu.kernels import nf4, ops, pages, q4

# Multiples of a block's largest weight that its scale is searched from. Below 1 the largest weights are clipped.
TRIES = tuple(0.70 + 0.025 * i for i in range(16))


@dataclass(frozen=True, slots=True)
class Codebook:
    """16 ascending levels in [-1, 1]; with_sign: a scale takes the sign of the block's largest weight."""

    levels: tuple[float, ...]
    with_sign: bool


CODEBOOKS = {
    # QLoRA, arXiv 2305.14314, appendix E: equally likely for Gaussian weights scaled by their largest.
    "nf4": Codebook(tuple(nf4.LEVELS.tolist()), False),
    # E2M1: OCP Microscaling formats, table 5; one of the two zeros is spent on half of its neighbour.
    "fp4": Codebook(tuple(i / 6 for i in (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6)), False),
    # llama.cpp, kvalues_iq4nl of ggml-common.h.
    "iq4nl": Codebook(
        tuple(i / 127 for i in (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)), True
    ),
}


# Lloyd's iteration on Gaussian weights through the very search below (bench/codebook/fit.py): the levels that leave the
# least error when a scale carries a sign and zero is kept. 21.8 dB where NF4 by search has 21.4; heavy tails: a tie.
FITTED = (
    -0.8664, -0.6743, -0.5272, -0.4034, -0.2931, -0.1911, -0.0943, 0.0,
    0.0839, 0.1695, 0.2599, 0.3583, 0.4692, 0.5997, 0.7647, 1.0,
)  # fmt: skip
CODEBOOKS["fitted"] = Codebook(FITTED, True)


def codebook(name: str) -> Codebook:
    """A codebook by its name. Raises UnknownPlugin naming what there is."""
    if name not in CODEBOOKS:
        raise UnknownPlugin(
            f"there is no codebook {name!r}",
            why=f"there are: {', '.join(sorted(CODEBOOKS))}",
            fix="danlu quantize MODEL OUT --codebook nf4",
        )
    return CODEBOOKS[name]


def quantize(
    weight_NK: Tensor, name: str = "nf4", tries: tuple[float, ...] = TRIES, threads: int | None = None
) -> q4.Q4:
    """Quantize a matrix on a CPU; tries () takes each block's largest weight for its scale, as plain NF4 does.

    Raises WeightsNotFinite on NaN or Inf, UnknownPlugin for another codebook.
    """
    book, weight_NK = codebook(name), weight_NK.detach().float().contiguous()
    if not weight_NK.sum().isfinite():  # a sum may overflow, so this only says where to look
        bad = int((~weight_NK.isfinite()).sum())
        if bad:
            raise WeightsNotFinite(
                f"{bad} weights of {weight_NK.numel()} are NaN or infinite",
                why="no scale can hold them",
                fix="take a checkpoint from before the run diverged",
            )
    rows, columns = weight_NK.shape
    parts = {n: torch.empty(shape, dtype=dtype) for n, (dtype, shape) in q4.parts_of(rows, columns).items()}
    parts["codes"] = pages.room(parts["codes"].numel()).view(parts["codes"].shape)
    levels = torch.tensor(book.levels)
    native = ops.find("quantize_q4")
    if native is None:
        return quantize_torch(weight_NK, book, tries)
    multiples = torch.tensor(tries)
    status = native(
        ctypes.c_void_p(weight_NK.data_ptr()),
        ctypes.c_int64(weight_NK.numel()),
        ctypes.c_int64(rows),
        ctypes.c_int64(columns),
        ctypes.c_void_p(levels.data_ptr()),
        ctypes.c_void_p(multiples.data_ptr()),
        ctypes.c_int64(len(tries)),
        int(book.with_sign),
        ctypes.c_void_p(parts["codes"].data_ptr()),
        ctypes.c_void_p(parts["absmax"].data_ptr()),
        ctypes.c_void_p(parts["scale"].data_ptr()),
        threads or torch.get_num_threads(),
    )
    ops.check(status, "quantize_q4")
    return q4.Q4(parts["codes"], parts["absmax"], parts["scale"], levels, (rows, columns))


def quantize_torch(weight_NK: Tensor, book: Codebook, tries: tuple[float, ...]) -> q4.Q4:
    """The same in torch, block by block for every try; what the native kernel is held to."""
    (rows, columns), levels = weight_NK.shape, torch.tensor(book.levels)
    padded = torch.nn.functional.pad(weight_NK, (0, -columns % q4.BLOCK, 0, -rows % q4.ROWS))
    x_NBk = padded.view(padded.shape[0], -1, q4.BLOCK)
    scale_NB = _search(x_NBk, levels, tries, book.with_sign)
    spans = -(-x_NBk.shape[1] // q4.SPAN)
    # Whole spans; what pads the last one and the last rows repeats a scale that is there, so that it widens no range.
    repeated = scale_NB[torch.arange(len(scale_NB)).clamp(max=rows - 1)]
    repeated = repeated[:, torch.arange(spans * q4.SPAN).clamp(max=x_NBk.shape[1] - 1)]
    span_GrSb = repeated.view(-1, q4.ROWS, spans, q4.SPAN)
    low_GS, high_GS = span_GrSb.amin((1, 3)), span_GrSb.amax((1, 3))
    step_GS = (high_GS - low_GS) / 255
    inverse = torch.where(step_GS > 0, 1 / step_GS, torch.zeros(()))[:, None, :, None]
    wanted = scale_NB - low_GS.repeat_interleave(q4.ROWS, 0).repeat_interleave(q4.SPAN, 1)[:, : x_NBk.shape[1]]
    wanted = wanted * inverse.expand_as(span_GrSb).reshape(repeated.shape)[:, : x_NBk.shape[1]]
    absmax_NB = wanted.round().clamp(0, 255).to(torch.uint8)
    absmax_GBr = absmax_NB.view(-1, q4.ROWS, x_NBk.shape[1]).transpose(1, 2).contiguous()
    draft = q4.Q4(
        torch.zeros(q4.parts_of(rows, columns)["codes"][1], dtype=torch.uint8),
        absmax_GBr,
        torch.stack([step_GS, low_GS], -1).contiguous(),
        levels,
        (rows, columns),
    )
    read = torch.nn.functional.pad(q4.absmax_of(draft), (0, 0, 0, -rows % q4.ROWS)).unsqueeze(-1)
    value = torch.where(read != 0, x_NBk / read, torch.zeros(()))
    codes = q4.interleave(nf4.nearest(value, levels).view(padded.shape))
    return q4.Q4(codes, absmax_GBr, draft.scale, levels, (rows, columns))


def _search(x_NBk: Tensor, levels: Tensor, tries: tuple[float, ...], with_sign: bool) -> Tensor:
    """The scale of every block (N, B): the try whose rounding lies best along the block, at its own best length."""
    most = x_NBk.gather(-1, x_NBk.abs().argmax(-1, keepdim=True))
    best = most = most if with_sign else most.abs()
    gain = torch.full_like(best, -1)
    for multiple in tries:
        level = levels[nf4.nearest(torch.where(most != 0, x_NBk / (most * multiple), torch.zeros(())), levels).int()]
        along, length = (x_NBk * level).sum(-1, keepdim=True), level.square().sum(-1, keepdim=True)
        better = (length > 0) & (along.square() > gain * length) & (most != 0)
        best, gain = torch.where(better, along / length, best), torch.where(better, along.square() / length, gain)
    return best.squeeze(-1)
