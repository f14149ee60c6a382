"""A sum over two islands of two ranks that a slow link joins: leaders only, beside a flat ring in rank order."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.comm.sockets import even
from danlu.comm.team import Team
from danlu.nouns import Link

ISLANDS = ((0, 1), (2, 3))
SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "4 MiB": 1 << 22}
LINK = Link("a", "b", latency_s=1e-3, bandwidth=125e6)


def ring(group: Any, array: np.ndarray) -> None:
    """The textbook ring: size - 1 hops of a part to sum, size - 1 hops to share."""
    counts = even(array.size, group.size)
    parts = np.split(array, np.cumsum(counts)[:-1])
    right, left = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    for hop in range(2 * (group.size - 1)):
        out, come = (group.rank - hop) % group.size, (group.rank - hop - 1) % group.size
        tag = group.post({right: parts[out].copy()}, array)
        came = group.take(tag, {left: counts[come]}, array)[left]
        if hop < group.size - 1:
            parts[come] += came
        else:
            parts[come][...] = came


def measure(rounds: int) -> dict[str, Any]:
    """Keys: islands_vs_ring (time of the ring / ours, the worst size)."""
    return compared(load("comm/crowd").crowd(4, lambda *who: one_rank(*who, rounds)))


def compared(by_rank: list[dict[str, Any]], link: Link = LINK) -> dict[str, Any]:
    """The table and its worst row, of what `one_rank` gave on every rank; `link` is what lay between the islands."""
    rows, ratios = [], []
    for name, size in SIZES.items():
        took = np.max([each[name] for each in by_rank], axis=0)  # a sum is done when the last rank has it
        ours, theirs = (1e3 * statistics.median(each) for each in took)
        ratios.append(theirs / ours)
        bound = 1e3 * link.seconds(size)
        rows.append([name, f"{bound:.1f}", f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}x"])
    between = f"{link.bandwidth * 8e-9:g} Gb/s and {link.latency_s * 1e3:g} ms between"
    print(table([f"2 + 2 ranks, {between}", "one crossing, ms", "islands, ms", "ring, ms", "gain"], rows))
    return {"islands_vs_ring": min(ratios)}


def one_rank(rank: int, door: Any, addresses: dict[int, str], rounds: int, link: Link | None = LINK) -> dict[str, Any]:
    """Seconds of every sum of one rank, by size: [ours, ring]. link  paces it between islands; None: it is real."""
    home = next(i for i, island in enumerate(ISLANDS) if rank in island)
    links = {peer: link for peer in addresses if peer not in ISLANDS[home] and link is not None}
    team = Team(rank, door, addresses, b"k" * 16, links=links, place=bytes([home]) * 32)
    group, found = team.form(), {}
    flat = team.sockets()
    for name, size in SIZES.items():
        took: list[list[float]] = [[], []]
        for each in range(rounds + 1):
            for way, times in ((lambda a: group.all_reduce(a), took[0]), (lambda a: ring(flat, a), took[1])):
                array = np.full(size // 4, rank + 1.0, np.float32)
                flat.all_reduce(np.zeros(1, np.float32))
                began = time.perf_counter()
                way(array)
                if each:
                    times.append(time.perf_counter() - began)
                assert (array == 10).all()
        found[name] = took
    team.close()
    return found
