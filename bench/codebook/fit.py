"""Fit the 16 levels of the codebook "fitted" to Gaussian weights: python bench/codebook/fit.py prints them.

Lloyd's iteration: quantize with the search that users run, then move every level to the middle of its weights.
"""

from __future__ import annotations

import torch

from danlu.kernels import codebooks, q4


def fit(rounds: int = 25, with_sign: bool = True) -> tuple[float, ...]:
    """The levels after so many rounds from NF4's; the one nearest to zero is kept at zero, so that zeros stay zeros."""
    weight = torch.randn(512, 4096, generator=torch.Generator().manual_seed(1))
    levels = codebooks.CODEBOOKS["nf4"].levels
    for _ in range(rounds):
        codebooks.CODEBOOKS["draft"] = codebooks.Codebook(levels, with_sign)
        w = codebooks.quantize(weight, "draft")
        codes, scale = q4.separate(w.codes)[:512].long().flatten(), q4.absmax_of(w).repeat_interleave(64, 1)
        along = torch.zeros(16).scatter_add_(0, codes, (scale * weight).flatten())
        moved = along / torch.zeros(16).scatter_add_(0, codes, scale.square().flatten()).clamp_min(1e-9)
        moved[moved.abs().argmin()] = 0
        levels = tuple((moved.sort().values / moved.abs().max()).tolist())
    return levels


if __name__ == "__main__":
    print(", ".join(f"{level:.4f}" for level in fit()))
