"""Pipelines worth having at given prices of cards: the columns of the packing problem, and those prices.

A fleet in data parallel is a packing problem: each pipeline takes cards of each group and does so many sequences in
a step of T seconds. Its linear relaxation prices the cards (Gilmore and Gomory 1961); a pipeline that does more than
its cards cost is a better column, and when there is none the prices prove how much the fleet can do (proof/bound.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from danlu.plan.groups.covers import Tried, covers
from danlu.plan.groups.linear import Optimum, most
from danlu.plan.groups.pipelines import Pipeline, Span, pipelines
from danlu.plan.groups.stage_ways import Floats, Ints, StageWays, memory_ends

MOST_STAGES = 64  # of one pipeline
DEEPEST = 192  # of one pipeline where few hold all of a fleet
STEP = 1.04  # from one tried bottleneck to the next
LENIENT = 1.5  # pipelines that cost so much more than they do are kept while prices are guesses
NEAR = 1.05  # and later, for packings that prices cannot tell apart


@dataclass(frozen=True, slots=True)
class Space:
    """What pipelines may be made of: the ways of one micro-batch size, and how far memory lets a stage reach."""

    ways: StageWays
    memory: Ints
    groups: int

    def only(self, groups: Iterable[int]) -> Space:
        """Stages on some groups alone."""
        return self.of(np.isin(self.ways.group, list(groups)))

    @property
    def each(self) -> list[Space]:
        """Itself; and, where a message's seconds depend on the group it goes to, as if it went to the furthest, too.

        Looked at stage by stage (covers.py) messages are too cheap or too dear: the one finds pipelines that
        change from group to group too often, the other too seldom. What a pipeline takes is exact.
        """
        dear = replace(self.ways, dear=True)
        return [self] if np.allclose(dear.hop, self.ways.hop, rtol=1e-3) else [self, replace(self, ways=dear)]

    @property
    def apart(self) -> Space:
        """With stages that know nothing of each other: every message to the group that it reaches soonest."""
        hops = np.repeat(self.ways.hop[:, None], self.ways.hops.shape[1], axis=1)
        return replace(self, ways=replace(self.ways, hops=hops))

    def of(self, keep: Any) -> Space:
        """Some of the ways, by mask or index."""
        return Space(self.ways.only(keep), self.memory[:, keep], self.groups)


def space(ways: StageWays, groups: int, most: int = MOST_STAGES, fewest: int = 1) -> Space:
    """The space of these ways, in pipelines of up to `most` stages; memory is looked at as if of `fewest` or more."""
    return Space(ways, memory_ends(ways, min(most, ways.units), fewest), groups)


def bottlenecks(where: Space, seconds: float, step: float = STEP) -> Floats:
    """Seconds of a micro-batch on the slowest stage worth trying, rising."""
    ways = where.ways
    if not len(ways.ways):
        return np.zeros(0)
    each = np.where(where.memory[0][:, :-1] > np.arange(ways.units), np.diff(ways.time, axis=1), np.inf)
    least = float(each.min(axis=0).max())
    rows = np.arange(len(ways.ways))[:, None]
    stage = ways.time[rows, where.memory[0]] - ways.time + (2 * ways.hop + ways.more)[:, None]
    widest = min(float(stage.max()) * 1.01, seconds)
    if not least < widest:
        return np.zeros(0)
    count = max(2, int(np.ceil(np.log(widest / least) / np.log(step))) + 1)
    return np.asarray(np.geomspace(least, widest, count))


def singles(where: Space) -> list[Pipeline]:
    """Pipelines of one stage that hold the whole model: few, and without a fill, which prices cannot tell apart."""
    ways = where.ways
    able = np.flatnonzero(where.memory[0, :, 0] >= ways.units)
    return pipelines(ways, [(Span(int(way), 0, ways.units),) for way in able], where.groups)


def worth(
    where: Space, prices: Floats, seconds: float, tried: Floats, lenient: float = LENIENT
) -> list[Pipeline]:  # fmt: skip
    """For every number of stages the pipeline that is most worth its cards in a step of `seconds`.

    prices   (groups,) sequences a card must get through
    tried    bottlenecks
    lenient  times what it does that a pipeline may cost
    """
    ways = where.ways
    if not len(tried):
        return []
    many = np.maximum(seconds / tried - 1.0, 1.0)
    weight = ways.micro_batch / tried
    most_done = ways.micro_batch * (1.0 + seconds / tried)
    price = prices[ways.group] * ways.cards
    stages = (1.0 + seconds / tried).astype(np.int64)  # each has a micro-batch
    found = covers(ways, where.memory, Tried(price, tried, many, weight, lenient * most_done, stages))
    gain = most_done[:, None] - found.whole
    best = np.argmax(gain, axis=0)
    first = 1 if ways.chunks == 1 else 2
    wanted = sorted((int(best[n]), n) for n in range(first, gain.shape[1]) if np.isfinite(gain[best[n], n]))
    return [each for each in pipelines(ways, found.stages(wanted), where.groups) if each.even]


class Columns:
    """The pipelines found so far, one per set of stages, none larger than the fleet; and all of them as arrays."""

    def __init__(self, there: Floats) -> None:
        self.there = there
        self.pipelines: list[Pipeline] = []
        self._known: set[tuple[int, tuple[Span, ...], int]] = set()
        self._arrays: tuple[Floats, Floats, Ints, Floats, Floats, Ints, Ints, Ints] | None = None

    def add(self, found: Iterable[Pipeline]) -> int:
        """Take in what is new and no larger than the fleet; how many that were."""
        before = len(self.pipelines)
        for each in found:
            key = (each.micro_batch, each.stages, id(each.ways))
            if key not in self._known and (each.cards <= self.there).all():
                self._known.add(key)
                self.pipelines.append(each)
        if len(self.pipelines) > before:
            self._arrays = None
        return len(self.pipelines) - before

    def sequences(self, seconds: float) -> Floats:
        """(pipelines,) sequences each gets through in a step of so many seconds: Pipeline.sequences at once."""
        time, after, first, fill, size, _, depth, turn = self._stacked()
        left = np.repeat(seconds - fill, depth) - after
        count = np.floor(np.minimum.reduceat(left / time, first) + 1e-9) + 1.0
        busy = np.repeat(count - 1.0, depth) * time + after
        count -= np.maximum.reduceat(busy, first) + fill > seconds
        count -= count % turn
        return np.where((np.minimum.reduceat(left, first) < 0) | (count < depth), 0.0, count) * size

    def fluid(self, seconds: float) -> Floats:
        """The same as if micro-batches came in parts, by pipelines of more stages than one, and what is done after them
        grew with them: what covers.py can tell of a pipeline."""
        time, after, first, fill, size, _, depth, _ = self._stacked()
        left = (seconds - fill) * np.minimum.reduceat((1.0 - after / seconds) / time, first)
        done = np.where((left < 0) | (seconds < fill), 0.0, 1.0 + left) * size
        return np.where(depth > 1, done, self.sequences(seconds))

    def cards(self) -> Ints:
        """(groups, pipelines) cards each takes."""
        return self._stacked()[5]

    def least(self) -> Floats:
        """(pipelines,) fewest sequences each takes."""
        _, _, _, _, size, _, depth, _ = self._stacked()
        return np.asarray((depth - 1) * size + 1)

    def _stacked(self) -> tuple[Floats, Floats, Ints, Floats, Floats, Ints, Ints, Ints]:
        if self._arrays is None:
            each = self.pipelines
            time, after, fills = (np.concatenate([getattr(one, name) for one in each])
                                  for name in ("time", "after", "fills"))  # fmt: skip
            depth = np.array([len(one.stages) for one in each])
            first = np.cumsum(depth) - depth
            size, turn = (np.array([getattr(one, name) for one in each]) for name in ("micro_batch", "turn"))
            fill, cards = np.add.reduceat(fills, first), np.array([one.cards for one in each]).T
            self._arrays = time, after, first, fill, size, cards, depth, turn
        return self._arrays


def relaxed(columns: Columns, seconds: float, basis: Ints | None = None) -> Optimum:
    """The most sequences when a pipeline may be had in fractions, and the prices of cards; `basis` of another time."""
    return most(columns.sequences(seconds), columns.cards().astype(float), columns.there, basis)


def seconds_for(columns: Columns, batch: float, guess: float) -> float:
    """Seconds in which fractional pipelines get through a batch, to a thousandth."""
    low = high = guess
    best = relaxed(columns, guess)
    if best.value < batch:
        while best.value < batch:
            low, high = high, high * 1.3
            if high > 1e9 * guess:
                return float("inf")
            best = relaxed(columns, high, best.basis)
    else:
        while best.value >= batch:
            low, high = low / 1.3, low
            best = relaxed(columns, low, best.basis)
    while high / low > 1.0005:
        middle = (low * high) ** 0.5
        best = relaxed(columns, middle, best.basis)
        if best.value >= batch:
            high = middle
        else:
            low = middle
    return high


def grow(columns: Columns, spaces: Sequence[Space], batch: float, guess: float, turns: int) -> float:
    """Add pipelines until no better one is found or `turns` are over; the seconds their relaxation needs.

    Messages are taken for cheap and for dear in turn (Space.each). A micro-batch size none of whose pipelines is NEAR
    the worth of its cards is looked at no more.
    """
    seconds, open_ = seconds_for(columns, batch, guess), list(spaces)
    for turn in range(turns):
        prices = relaxed(columns, seconds).prices
        looked = [each.each[turn % len(each.each)] for each in open_]
        made = [worth(each, prices, seconds, bottlenecks(each, seconds), NEAR) for each in looked]
        new = sum(columns.add(each) for each in made)
        better = seconds_for(columns, batch, seconds)
        if not new or better > seconds * 0.9995:
            return better
        seconds, open_ = better, [each for each, one in zip(open_, made, strict=True) if one]
    return seconds
