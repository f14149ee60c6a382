"""The cores this process may run on, by the memory they are near, and which of them each of several ranks gets."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

NODES = Path("/sys/devices/system/node")
_PREFERRED, _PREFERRED_MANY = 1, 5  # of set_mempolicy(2); the second is of Linux 5.15
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}  # system calls that glibc has no function for


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


def nodes_near(cores: Collection[int], root: Path = NODES) -> tuple[int, ...]:
    """Numbers of the NUMA nodes that have one of these cores."""
    paths = {int(path.parent.name[4:]): path for path in root.glob("node[0-9]*/cpulist")}
    return tuple(number for number, path in sorted(paths.items())
                 if not set(cores).isdisjoint(_listed(path.read_text(encoding="ascii"))))  # fmt: skip


def prefer_memory_of(near: Sequence[int]) -> bool:
    """Let this thread, and those it starts, take memory of these NUMA nodes while they have some; False if refused.

    Memory comes from the node of the core that first writes it anyway, unless whoever started this process asked for
    another policy (numactl --interleave), which is inherited.
    """
    number = _SET_MEMPOLICY.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None or not near:
        return False
    bits = max(near) + 1
    mask = (ctypes.c_ulong * (bits // 64 + 1))()
    for node in near:
        mask[node // 64] |= 1 << node % 64
    call = ctypes.CDLL(None, use_errno=True).syscall
    found = (call(ctypes.c_long(number), policy, mask, ctypes.c_ulong(64 * len(mask) + 1))
             for policy in (_PREFERRED_MANY, _PREFERRED))  # fmt: skip
    return any(status == 0 for status in found)


def _listed(text: str) -> list[int]:
    """0-3,8 as numbers."""
    spans = [part.partition("-") for part in text.strip().split(",") if part]
    return [core for first, _, last in spans for core in range(int(first), int(last or first) + 1)]
