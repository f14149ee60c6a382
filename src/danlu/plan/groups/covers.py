"""The cheapest ways to cover a model's units with stages: one dynamic programme for each of many bottlenecks.

From the model's end backwards: least[q][s] is the least cost of the units [s, end) on q stages. A stage pays the price
of its cards and, weighed, the seconds it adds to the pipeline's fill; it holds at most what its bottleneck and its
memory allow. Cost: bottlenecks * stages * ways * units, about 5 ns each in the native library (csrc/plan/covers.cpp);
`in_numpy` is the same without a compiler, and the reference.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu import native
from danlu.plan.groups.pipelines import Span
from danlu.plan.groups.stage_ways import Floats, Ints, StageWays

FEWEST = 4  # bottlenecks that are worth a thread


@dataclass(frozen=True, slots=True)
class Tried:
    """What is tried: prices and bottlenecks.

    price   (ways,) of one stage's cards
    limit   (bottlenecks,) seconds a stage's micro-batch may take, messages and its share of the step's end included
    many    (bottlenecks,) micro-batches over which what a stage does after them is spread
    weight  (bottlenecks,) price of a second of fill
    budget  (bottlenecks,) covers that cost more are of no use
    most    (bottlenecks,) stages of a cover
    """

    price: Floats
    limit: Floats
    many: Floats
    weight: Floats
    budget: Floats
    most: Ints

    def part(self, rows: slice) -> Tried:
        """Some of the bottlenecks."""
        figures = self.limit, self.many, self.weight, self.budget, self.most
        return Tried(self.price, *(each[rows] for each in figures))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Covers:
    """Least costs; inf where there is none, or one as cheap on fewer stages, and maybe where none within budget ends.

    least  (bottlenecks, stages + 1, units + 1) of the units behind each place; rows of more stages than the last
           cover are not written
    whole  (bottlenecks, stages + 1) of the whole model
    """

    ways: StageWays
    memory: Ints
    tried: Tried
    least: Floats
    whole: Floats

    def stages(self, wanted: Sequence[tuple[int, int]]) -> list[tuple[Span, ...]]:
        """The stages of the cheapest covers; `wanted` pairs of a bottleneck and a number of stages, rising."""
        library = native.library()
        if library is None:
            return [self._stages(at, count) for at, count in wanted]
        given, held = _given(self.ways, self.memory, self.tried)
        pairs = np.ascontiguousarray(wanted, dtype=np.int64).reshape(-1, 2)
        way, stop = np.zeros((2, len(pairs), len(self.memory)), dtype=np.int64)
        library.danlu_cover_stages.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] + [ctypes.c_void_p] * 2
        status = library.danlu_cover_stages(ctypes.addressof(given), self.least.ctypes.data, pairs.ctypes.data,
                                            len(pairs), way.ctypes.data, stop.ctypes.data)  # fmt: skip
        assert status == 0 and held, f"danlu_cover_stages answered {status}"
        found = []
        for (_, count), ways, stops in zip(wanted, way.tolist(), stop.tolist(), strict=True):
            starts = [0, *stops[: count - 1]]
            found.append(tuple(map(Span, ways[:count], starts, stops[:count])))
        return found

    def _stages(self, at: int, count: int) -> tuple[Span, ...]:
        found, start, ways = [], 0, self.ways
        inner, last = load_ends(ways, self.tried.limit[at : at + 1], self.tried.many[at : at + 1])
        stops = np.arange(ways.units + 1)
        for place in range(count - 1, -1, -1):
            end = np.minimum((inner if place else last)[0, :, start], self.memory[place, :, start])
            hops = ways.hop * ((place > 0) + (start > 0))
            seconds = ways.fill - ways.fill[:, start, None] + hops[:, None]
            cost = self.tried.price[:, None] + self.tried.weight[at] * seconds + self.least[at, place]
            cost[(stops <= start) | (stops > end[:, None])] = np.inf
            way, stop = divmod(int(np.argmin(cost)), len(stops))
            found.append(Span(way, start, stop))
            start = stop
        return tuple(found)


def load_ends(ways: StageWays, limit: Floats, many: Floats) -> tuple[Ints, Ints]:
    """(bottlenecks, ways, units + 1): furthest stop of a stage by its load, without and with the last unit."""
    shape, hops, more = (len(limit), len(ways.ways), ways.units + 1), ways.hop, ways.more
    inner, last = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    for at in range(shape[0]):
        load = ways.time + ways.after / many[at]
        for way in range(shape[1]):
            room = np.full(shape[2], limit[at] - hops[way] - more[way] * (1 + 1 / many[at]))
            room[0] += hops[way]
            for found, hop in ((inner, hops[way]), (last, 0.0)):
                stop = np.searchsorted(load[way], load[way] + (room - hop) * (1 + 1e-12), side="right") - 1
                found[at, way] = np.maximum(stop, np.arange(shape[2]))
    return inner, last


def covers(ways: StageWays, memory: Ints, tried: Tried) -> Covers:
    """Least costs; `memory` as of stage_ways.memory_ends."""
    if not len(ways.ways) or not len(tried.limit):
        none = np.full((len(tried.limit), len(memory) + 1, ways.units + 1), np.inf)
        return Covers(ways, memory, tried, none, none[:, :, 0])
    library = native.library()
    return in_numpy(ways, memory, tried) if library is None else _natively(library, ways, memory, tried)


def in_numpy(ways: StageWays, memory: Ints, tried: Tried) -> Covers:
    """The same, stop by stop: a stage's stop is tried at every distance from its start at once for all starts."""
    inner, last = load_ends(ways, tried.limit, tried.many)
    count, places, weight = len(tried.limit), ways.units + 1, tried.weight[:, None, None]
    least = np.full((count, len(memory) + 1, places), np.inf)
    least[:, 0, -1] = 0.0
    best, cheapest = tried.budget.copy(), np.full((count, places), np.inf)
    for place in range(min(len(memory), int(tried.most.max()))):
        end = np.minimum(inner if place else last, memory[place][None]) - np.arange(places)
        fill = weight * ways.fill[None]
        stage = tried.price + tried.weight[:, None] * ways.hop * (2.0 if place else 1.0)
        for long in range(1, int(end.max(initial=0)) + 1):
            cost = least[:, None, place, long:] + fill[:, :, long:] - fill[:, :, :-long] + stage[:, :, None]
            cost[:, :, 0] -= tried.weight[:, None] * ways.hop
            cost[end[:, :, :-long] < long] = np.inf
            least[:, place + 1, :-long] = np.minimum(least[:, place + 1, :-long], cost.min(axis=1))
        least[place >= tried.most, place + 1] = np.inf
        best = np.minimum(best, least[:, place + 1, 0])
        # A cover that costs no less than one of the same units on fewer stages, which leaves those in front more
        # memory, is of no use; and one that already costs more than a whole one only grows.
        least[:, place + 1][least[:, place + 1] >= cheapest] = np.inf
        cheapest = np.minimum(cheapest, least[:, place + 1])
        least[~(least[:, place + 1, 1:].min(axis=1) < best), place + 1, 1:] = np.inf
        if np.isinf(least[:, place + 1, 1:]).all():
            break
    return Covers(ways, memory, tried, least, least[:, :, 0])


class _In(ctypes.Structure):
    """`danlu_covers_in` of csrc/plan/covers.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("ways", "places", "depth", "count")),
        *((name, ctypes.c_void_p) for name in ("time", "fill", "after", "hop", "more", "price", "memory")),
        *((name, ctypes.c_void_p) for name in ("limit", "many", "weight", "budget", "most")),
    ]  # fmt: skip


def _given(ways: StageWays, memory: Ints, tried: Tried) -> tuple[_In, list[Any]]:
    """The arguments, and the arrays that must live as long as they do."""
    floats = (ways.time, ways.fill, ways.after, ways.hop, ways.more, tried.price)
    held: list[Any] = [np.ascontiguousarray(each, dtype=np.float64) for each in floats]
    held.append(np.ascontiguousarray(memory, dtype=np.int64))
    then = (tried.limit, tried.many, tried.weight, tried.budget)
    held += [np.ascontiguousarray(each, dtype=np.float64) for each in then]
    held.append(np.ascontiguousarray(tried.most, dtype=np.int64))
    sizes = len(ways.ways), ways.units + 1, len(memory), len(tried.limit)
    return _In(*sizes, *(each.ctypes.data for each in held)), held


def _natively(library: ctypes.CDLL, ways: StageWays, memory: Ints, tried: Tried) -> Covers:
    """Bottlenecks know nothing of each other: every core that this process may use takes some."""
    least = np.empty((len(tried.limit), len(memory) + 1, ways.units + 1))
    whole = np.empty(least.shape[:2])
    cores = len(os.sched_getaffinity(0))
    step = max(FEWEST, -(-len(least) // (4 * cores)))

    def some(first: int) -> None:
        given, held = _given(ways, memory, tried.part(slice(first, first + step)))
        out = (ctypes.c_void_p(each[first:].ctypes.data) for each in (least, whole))
        status = library.danlu_covers(ctypes.byref(given), *out)
        assert status == 0 and held, f"danlu_covers answered {status}"

    firsts = range(0, len(least), step)
    with ThreadPoolExecutor(min(cores, len(firsts))) as pool:
        list(pool.map(some, firsts) if cores > 1 else map(some, firsts))
    return Covers(ways, memory, tried, least, whole)
