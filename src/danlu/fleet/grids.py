"""The sizes a probe measures at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """Sizes to measure at.

    most_flop  a product of more is left out: its rate is that of a smaller one
    few        rows of products alone, fewer than `rows`: what an expert gets of a small micro-batch
    passes     times the whole grid is gone through
    pauses     seconds of sleep after which a thread goes on
    spend_s    least CPU seconds of repeats of one point in one pass
    """

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    seqs: tuple[int, ...]
    head_dims: tuple[int, ...]
    elements: tuple[int, ...]
    most_flop: float
    pauses: tuple[float, ...]
    passes: int
    spend_s: float
    few: tuple[int, ...] = ()


GRIDS = {
    "quick": Grid((64, 256, 1024), (64, 192, 512, 2048), (64, 128, 256, 512), (32, 64),
                  (2**12, 2**15, 2**18, 2**21), 3e8, (0.001, 0.003, 0.01, 0.03), 2, 0.002, (16,)),
    "full": Grid((16, 64, 256, 512, 1024, 4096), (64, 128, 192, 256, 384, 512, 1024, 2048, 4096),
                 (32, 64, 128, 256, 512, 1024), (16, 32, 64, 128), (2**10, 2**14, 2**18, 2**20, 2**22), 2e9,
                 (0.001, 0.003, 0.01, 0.03, 0.1), 3, 0.004, (4, 8)),
}  # fmt: skip
# What a training in bf16 runs, at fewer sizes.
BF16 = Grid((64, 256), (64, 512), (128,), (32, 64), (2**15, 2**18, 2**21), 3e8, (), 1, 0.002, (16,))
ROUTES = ((8, 2), (64, 2), (64, 8))  # experts, and how many of them a token uses
