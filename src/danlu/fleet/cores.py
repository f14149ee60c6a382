"""The cores this process may run on, by the memory they are near, and which of them each of several ranks gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

NODES = Path("/sys/devices/system/node")


def nodes(root: Path = NODES, allowed: Sequence[int] | None = None) -> tuple[tuple[int, ...], ...]:
    """Cores by NUMA node, of those this process may use; one node of all of them where the system names none.

    allowed  cores to choose from; None asks the system
    """
    if allowed is None:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    found = []
    for path in sorted(root.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:])):
        mine = tuple(core for core in _listed(path.read_text(encoding="ascii")) if core in set(allowed))
        if mine:
            found.append(mine)
    return tuple(found) or (tuple(allowed),)


def deal(nodes: Sequence[Sequence[int]], shares: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cores of every rank: whole nodes where they can be dealt out, else all cores in proportion to the shares.

    At least one each; there must be as many cores as shares.
    """
    ranks = len(shares)
    if len(nodes) % ranks == 0:
        each = len(nodes) // ranks
        return tuple(tuple(core for node in nodes[r * each : (r + 1) * each] for core in node) for r in range(ranks))
    cores = [core for node in nodes for core in node]
    assert len(cores) >= ranks
    spare, total = len(cores) - ranks, sum(shares)
    edges = [rank + round(spare * edge / total) for rank, edge in enumerate(accumulate(shares, initial=0))]
    return tuple(tuple(cores[start:stop]) for start, stop in pairwise(edges))


def _listed(text: str) -> list[int]:
    """0-3,8 as numbers."""
    spans = [part.partition("-") for part in text.strip().split(",") if part]
    return [core for first, _, last in spans for core in range(int(first), int(last or first) + 1)]
