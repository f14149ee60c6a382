"""The cheapest ways to cover a model's units with stages: one dynamic programme over many bottlenecks at once.

From the model's end backwards: f[q][s] is the least cost of the units [s, end) on q stages. A stage pays the price of
its cards and, weighed, the seconds it adds to the pipeline's fill; it holds what its bottleneck and its memory allow.
Cost: bottlenecks * stages * ways * units, in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from danlu.plan.pipelines import Span
from danlu.plan.stage_ways import Floats, Ints, StageWays


@dataclass(frozen=True, slots=True)
class Covers:
    """Least costs, for backtracking: `least` is (stages + 1, bottlenecks, units + 1)."""

    ways: StageWays
    inner: Ints
    last: Ints
    memory: Ints
    price: Floats
    weight: Floats
    least: Floats

    @property
    def whole(self) -> Floats:
        """(stages + 1, bottlenecks) least cost of the whole model on so many stages."""
        return np.asarray(self.least[:, :, 0])

    def stages(self, count: int, at: int) -> tuple[Span, ...]:
        """The stages of the cheapest cover on `count` stages at bottleneck `at`."""
        found, start, rows = [], 0, np.arange(len(self.ways.ways))
        for place in range(count - 1, -1, -1):
            stops = np.minimum((self.inner if place else self.last)[at, :, start], self.memory[place, :, start])
            fill = self.ways.fill if place else self.ways.time
            seconds = fill[rows, stops] - fill[:, start] + self.ways.hop * ((place > 0) + (start > 0))
            cost = self.price + self.weight[at] * seconds + self.least[place, at, stops]
            cost[stops <= start] = np.inf
            way = int(np.argmin(cost))
            found.append(Span(way, start, int(stops[way])))
            start = int(stops[way])
        return tuple(found)


def load_ends(ways: StageWays, limit: Floats, micro_batches: Floats) -> tuple[Ints, Ints]:
    """(bottlenecks, ways, units + 1): furthest stop of a stage whose load stays below `limit` seconds; with the head.

    micro_batches   (bottlenecks,) over which what a stage does once a step is spread
    """
    load = ways.time[None] + ways.step[None] / micro_batches[:, None, None]
    count, kinds, places = load.shape
    # One search in one sorted row: each way's sums are moved beyond the last one's.
    beyond = load[:, :, -1].max() + 1.0
    shift = np.arange(count * kinds).reshape(count, kinds, 1) * (2 * beyond + limit.max())
    row = (load + shift).ravel()
    hop = ways.hop[None, :, None] * np.ones((1, 1, places))
    hop[:, :, 0] = 0.0
    first = load + limit[:, None, None] - hop
    base = (np.arange(count * kinds) * places).reshape(count, kinds, 1)

    def stops(target: Floats) -> Ints:
        found = np.searchsorted(row, (np.minimum(target, load[:, :, -1:]) + shift).ravel() + 1e-12, side="right")
        return np.asarray(np.maximum(found.reshape(load.shape) - 1 - base, 0))

    inner = stops(first - ways.hop[None, :, None])
    return inner, stops(first)


def covers(
    ways: StageWays, memory: Ints, price: Floats, limit: Floats, micro_batches: Floats, weight: Floats, budget: float
) -> Covers:
    """Least costs when every stage is as long as bottleneck and memory let it be.

    memory    stage_ways.memory_ends
    price     (ways,) of one stage's cards
    limit     (bottlenecks,) seconds a stage's micro-batch may take; micro_batches as in load_ends
    weight    (bottlenecks,) price of a second of fill
    budget    covers that cost more are of no use
    """
    inner, last = load_ends(ways, limit, micro_batches)
    count, places = len(limit), ways.units + 1
    least = [np.full((count, places), np.inf)]
    least[0][:, -1] = 0.0
    best, open_ = np.full(count, budget), np.arange(count)
    for place in range(len(memory)):
        stop = np.minimum((inner if place else last)[open_], memory[place][None])
        fill = weight[open_, None, None] * (ways.fill if place else ways.time)[None]
        stage = price + weight[open_, None] * (ways.hop * (2.0 if place else 1.0))
        cost = least[-1][open_[:, None, None], stop] + np.take_along_axis(fill, stop, axis=2) - fill
        cost += stage[:, :, None]
        cost[:, :, 0] -= weight[open_, None] * ways.hop
        cost[stop <= np.arange(places)] = np.inf
        found = np.full((count, places), np.inf)
        found[open_] = cost.min(axis=1)
        least.append(found)
        best[open_] = np.minimum(best[open_], found[open_, 0])
        # A cover that already costs more than a whole one only grows.
        open_ = open_[found[open_, 1:].min(axis=1) < best[open_]]
        if not len(open_):
            break
    return Covers(ways, inner, last, memory, price, weight, np.stack(least))
