"""A sum over two hosts that a slow link joins: islands with one leader each, beside a flat ring in rank order.

A ring of n ranks carries 2 (n - 1) / n arrays each way over the link, islands one: by bytes they gain 1.5 times with
hosts of two cards, 1.67 of three, 1.75 of four. The key is the worst size of hosts of four cards, since hosts hold four
or eight accelerators, over the slower link: at 1 Gb/s eight ranks on two cores take as long as the link, and that is a
figure of this machine. All rows are printed. Every sum is compared with numpy's, and bit for bit between ranks.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.comm.sockets import even
from danlu.comm.team import Team
from danlu.nouns import Link

HOSTS = (2, 3, 4)  # cards of each of the two
SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "4 MiB": 1 << 22, "16 MiB": 1 << 24}
FAST, SLOW = Link("a", "b", latency_s=1e-3, bandwidth=125e6), Link("a", "b", latency_s=5e-3, bandwidth=12.5e6)
KEY = (4, SLOW)
AHEAD_S = 0.02  # longer than a broadcast over the slower link takes
CLOSE = 1e-6  # largest relative error of an fp32 sum of so few terms


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
    """Keys: islands_vs_ring (time of the ring / ours, the worst size of KEY), and that of every row."""
    rows, keys, worst = [], dict[str, Any](), list[float]()
    for each in HOSTS:
        for link in (FAST, SLOW):
            by_rank = load("comm/crowd").crowd(
                2 * each, lambda *who, each=each, link=link: one_rank(*who, rounds, each, link),
                place=lambda rank, each=each: rank // each,
            )  # fmt: skip
            for size, (ours, theirs) in seconds(by_rank).items():
                name = f"{each} + {each} cards, {link.bandwidth * 8e-9:g} Gb/s {link.latency_s * 1e3:g} ms, {size}"
                keys[f"islands_vs_ring.{name}"] = gain = theirs / ours
                worst += [gain] if (each, link) == KEY else []
                crossing, limit = link.seconds(SIZES[size]), 2 * (2 * each - 1) / (2 * each)
                rows.append([name, *(f"{1e3 * time:.1f}" for time in (crossing, ours, theirs)),
                             f"{gain:.2f}x", f"{limit:.2f}x"])  # fmt: skip
    head = ["two hosts, a paced link", "one crossing, ms", "islands, ms", "ring, ms", "gain", "limit by bytes"]
    print(table(head, rows))
    return keys | {"islands_vs_ring": min(worst)}


def together(group: Any) -> float:
    """Wait for the moment at which all ranks begin: a barrier over a slow link ends a latency sooner for some."""
    group.all_reduce(np.zeros(1, np.float32))
    moment = np.array([time.monotonic() + AHEAD_S])
    group.broadcast(moment, 0)
    time.sleep(max(0.0, moment[0] - time.monotonic()))
    return float(moment[0])


def seconds(by_rank: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """By size, median seconds of ours and of the ring, of what `one_rank` gave on every rank."""
    found = {}
    for name in by_rank[0]:
        took = np.max([each[name]["seconds"] for each in by_rank], axis=0)  # a sum is done when the last rank has it
        assert len({each[name]["bits"] for each in by_rank}) == 1, f"ranks have other sums of {name}"
        found[name] = (statistics.median(took[0]), statistics.median(took[1]))
    return found


def one_rank(
    rank: int, door: Any, addresses: dict[int, str], rounds: int, each: int = 2, link: Link | None = FAST
) -> dict[str, Any]:
    """Of one rank, by size: `seconds` of every sum, [ours, ring], and the `bits` of ours (CRC-32).

    each  cards of a host; link  paces it between hosts; None: it is real
    """
    home = rank // each
    links = {peer: link for peer in addresses if peer // each != home and link is not None}
    team = Team(rank, door, addresses, b"k" * 16, links=links, place=bytes([home]) * 32)
    group, found = team.form(), {}
    flat = team.sockets()
    ways: tuple[Callable[[np.ndarray], None], ...] = (group.all_reduce, lambda array: ring(flat, array))
    for name, size in SIZES.items():
        given = [np.random.default_rng([r, size]).standard_normal(size // 4, dtype=np.float32) for r in addresses]
        wanted, largest = np.sum(given, axis=0, dtype=np.float64), np.sum(np.abs(given), axis=0)
        took: list[list[float]] = [[], []]
        for way in ways:
            way(np.zeros(1 << 14, np.float32))  # every line has carried something
        for _ in range(rounds):
            for at, way in enumerate(ways):
                array = given[rank].copy()
                began = together(flat)
                way(array)
                took[at].append(time.monotonic() - began)
                assert (np.abs(array - wanted) <= CLOSE * largest).all(), f"a wrong sum of {name}"
                if way is ways[0]:
                    bits = zlib.crc32(array)
        found[name] = {"seconds": took, "bits": bits}
    team.close()
    return found
