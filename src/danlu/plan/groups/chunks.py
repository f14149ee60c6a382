"""Interleaved 1F1B in the search: the ways of stages that hold several chunks of layers, and what they keep.

With v chunks of each of p stages (Narayanan et al., arXiv 2104.04473, section 2.2) a stage delays the first micro-batch
by one chunk instead of all, sends every micro-batch v times, takes micro-batches in groups of p, and keeps more of them
(Korthikanti et al., arXiv 2205.05198, section 4.2.3). So one table of ways becomes another one with shorter fill, more
messages and more in flight, which the same search reads. interleaved.py plays the order event by event:
a plan's seconds are what it says where that is more.

There is no proof of how good these plans are (bound.py): a bound that lets turns of p micro-batches and chunks of
layers come in parts is loose. Of llama-3-70b on 128 A100-80 and 640 H20 it proves 6.4 % of "any", where the plan in
one piece has 1.1 %, and the step is 0.5 % shorter at most for twice the search: so "zb-h1" is what is searched unasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from danlu.nouns import ModelSpec
from danlu.plan.groups.stage_ways import StageWays


@dataclass(frozen=True, slots=True)
class Orders:
    """What `schedule` of a search stands for: the order of stages in one piece, and numbers of chunks beside it."""

    plain: str
    chunks: tuple[int, ...] = ()


# Under zero bubbles a stage delays the first micro-batch by about a third of its time: fewer than 4 chunks do more.
ORDERS: Mapping[str, Orders] = {
    "1f1b": Orders("1f1b"), "zb-h1": Orders("zb-h1"),
    "interleaved": Orders("1f1b", (2, 4, 8)), "any": Orders("zb-h1", (4, 8)),
}  # fmt: skip


def in_chunks(ways: StageWays, chunks: int) -> StageWays:
    """The same ways, of 1F1B, for stages of so many chunks."""
    return replace(ways, chunks=chunks, fill=ways.time / chunks)


def of_layers(ways: StageWays, spec: ModelSpec) -> StageWays:
    """The same ways cut between whole layers alone; embed and head stay with the first and the last."""
    per = len(spec.recipe)
    places = np.array([0, *(1 + per * layer for layer in range(1, spec.layers)), ways.units])
    sums = {name: getattr(ways, name)[:, places] for name in ("time", "fill", "step", "held", "kept")}
    return replace(ways, places=tuple(places.tolist()), **sums)


def depths(most: int) -> Iterator[int]:
    """Numbers of stages that are looked at: twice as many each time, up to the most."""
    stages = 4
    while stages < most:
        yield stages
        stages *= 2
    if most > 1:
        yield most
