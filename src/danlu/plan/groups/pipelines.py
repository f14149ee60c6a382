"""One pipeline over unlike cards: what it costs and how many micro-batches it gets through in a time.

Seconds of a step with m micro-batches (Narayanan et al., arXiv 2104.04473, section 2.2, for unequal stages):

    T(m) = max_i (m time_i - fill_i + step_i) + sum_i fill_i

`time` is a stage's micro-batch both ways with its messages, `step` what it does once a step. Under 1F1B `fill` is
`time`; under ZB-H1 (arXiv 2401.10241) it is less by the weight gradients, once for the way there and once for the way
back; in chunks (chunks.py) it is a chunk's. So no stage does its m micro-batches in less than their time: all others
only fill and drain. Of an order played event by event, with stages of 0.2 to 1 of the slowest, T is 1.4 % over on
average (tests/plan/test_plan_covers.py plays it). The slower a stage's neighbours, the more T overstates: messages are
taken to block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from danlu.plan.groups.stage_ways import Floats, Ints, StageWays

UNEVEN = 1.03  # times its longest stage that a pipeline's longest chunks may take together


class Span(NamedTuple):
    """A stage: its way (an index into StageWays) and its units [start, stop)."""

    way: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline and what follows from its stages.

    cards      (groups,) cards it takes of each group
    time       (stages,) seconds of a micro-batch
    fills      (stages,) seconds by which each delays the first micro-batch
    after      (stages,) time - fills, and what is done once a step
    bytes      (stages,) that each card of a stage needs
    """

    ways: StageWays
    stages: tuple[Span, ...]
    cards: Ints
    time: Floats
    fills: Floats
    after: Floats
    bytes: Floats

    @property
    def fill(self) -> float:
        """Seconds until the first micro-batch is through."""
        return float(self.fills.sum())

    @property
    def micro_batch(self) -> int:
        """Sequences of a micro-batch."""
        return self.ways.micro_batch

    @property
    def turn(self) -> int:
        """Micro-batches come in so many at once: chunks take turns."""
        return len(self.stages) if self.ways.chunks > 1 else 1

    def whole(self, micro_batches: int) -> int:
        """The fewest micro-batches it can run of those that are no fewer."""
        found = max(len(self.stages), micro_batches)
        return found + -found % self.turn

    @property
    def even(self) -> bool:
        """Whether every stage's layers can be dealt over its chunks so that no stage waits for a longer chunk.

        All stages are about the same chunk at a time: where 9 layers and 5 are as long, 3, 2, 2, 2 and 2, 1, 1, 1 are
        not (by simulation 1.13 times the formula's seconds). Of stages that are not cut at layers, in one piece: true.
        """
        chunks = self.ways.chunks
        if chunks == 1:
            return True
        layers = np.array([span.stop - span.start for span in self.stages])
        dealt = layers[:, None] // chunks + (np.arange(chunks) < (layers % chunks)[:, None])
        rows = [span.way for span in self.stages]
        layer = self.ways.time[rows, 2] - self.ways.time[rows, 1]
        rest = self.time - layers * layer  # messages; the last stage's is the head's, in its last chunk
        took = dealt * layer[:, None] + np.append(rest[:-1], 0.0)[:, None] / chunks
        took[-1, -1] += rest[-1]
        return bool(dealt.min() > 0 and took.max(axis=0).sum() <= UNEVEN * self.time.max())

    @property
    def fits(self) -> bool:
        """Whether every stage's cards have room for what they need."""
        way = [span.way for span in self.stages]
        return bool((self.bytes <= self.ways.room[way, [0] * (len(way) - 1) + [1]]).all())

    @property
    def least(self) -> int:
        """The fewest sequences it takes: as many micro-batches as stages, or they would wait for most of a step."""
        return (len(self.stages) - 1) * self.micro_batch + 1

    def seconds(self, micro_batches: int) -> float:
        """Seconds of a step with so many micro-batches."""
        return float(((micro_batches - 1) * self.time + self.after).max()) + self.fill

    def sequences(self, seconds: float) -> int:
        """The most sequences it gets through in a step of so many seconds; 0 if fewer than `least`."""
        left = seconds - self.fill - self.after
        if left.min() < 0:
            return 0
        count = math.floor(float((left / self.time).min()) + 1e-9) + 1
        while count and self.seconds(count) > seconds:
            count -= 1
        count -= count % self.turn
        return count * self.micro_batch if count >= len(self.stages) else 0


def messages(ways: StageWays, way: Sequence[int] | Ints) -> tuple[Floats, Floats]:
    """(stages,) seconds of a message to the next stage, and to the one before, of a pipeline of these ways: by the two
    groups that it joins. Between chunks the last stage sends to the first."""
    at = np.arange(len(way))
    return _messages(ways, np.asarray(way), np.roll(at, -1), np.roll(at, 1))


def _messages(ways: StageWays, way: Ints, after: Ints, before: Ints) -> tuple[Floats, Floats]:
    group = ways.group[way]
    return ways.hops[way, group[after]], ways.hops[way, group[before]]


def pipeline(ways: StageWays, stages: Sequence[Span], groups: int) -> Pipeline:
    """The pipeline of these stages, first to last; memory is not looked at."""
    return pipelines(ways, [tuple(stages)], groups)[0]


def pipelines(ways: StageWays, each: Sequence[tuple[Span, ...]], groups: int) -> list[Pipeline]:
    """The pipelines of these stages, looked at all at once."""
    if not each:
        return []
    way, start, stop = np.array([span for stages in each for span in stages]).T
    count = np.array([len(stages) for stages in each])
    ends = np.cumsum(count)
    firsts, of, at = ends - count, np.repeat(np.arange(len(each)), count), np.arange(ends[-1])
    after, before = at + 1, at - 1
    after[ends - 1], before[firsts] = firsts, ends - 1
    ahead, back = _messages(ways, way, after, before)
    hops, more = ahead * (stop < ways.units) + back * (start > 0), (ways.chunks - 1) * (ahead + back)
    time = ways.time[way, stop] - ways.time[way, start] + hops + more
    fill = ways.fill[way, stop] - ways.fill[way, start] + hops
    late = ways.after[way, stop] - ways.after[way, start] + more
    flight = ways.in_flight(count[of], ends[of] - 1 - at)
    need = ways.held[way, stop] - ways.held[way, start] + flight * (ways.kept[way, stop] - ways.kept[way, start])
    cards = np.zeros((len(each), groups), dtype=np.int64)
    np.add.at(cards, (of, ways.group[way]), ways.cards[way])
    spans = zip(each, cards, firsts.tolist(), ends.tolist(), strict=True)
    return [Pipeline(ways, stages, taken, time[a:b], fill[a:b], late[a:b], need[a:b]) for stages, taken, a, b in spans]
