"""A time no plan can beat, and its proof: prices of cards under which no pipeline does more than its cards cost.

If in a step of T seconds every pipeline gets through no more sequences than the prices of its cards come to, all
pipelines of the fleet together get through no more than the prices of all cards: with prices that come to less than the
batch, no plan of any class here has a step of T seconds or less. That no pipeline does more is shown interval by
interval of its bottleneck k (seconds of a micro-batch on its slowest stage): on (low, high] a pipeline of micro-batches
of b sequences does at most b (1 + (T - fill) / low), its stages reach no further than `high` lets them, and a dynamic
programme over all covers of the model (plan/groups/covers.py) finds the least that cards and fill can cost.
Intervals are halved until each is proved. Optimizer states are shared over the pipelines, and gradients summed over
them: a bound holds from a fewest to a most pipelines, takes the memory of the most and the sums of the fewest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from danlu.plan.groups.covers import Tried, covers
from danlu.plan.groups.linear import Optimum, most
from danlu.plan.groups.pipelines import Pipeline, pipeline
from danlu.plan.groups.pricing import Columns, Space, bottlenecks
from danlu.plan.groups.stage_ways import Floats

SLACK = 0.002  # of the time: what the proof gives away so that intervals need not be narrow; more if that fails
FINEST = 1.0004  # of an interval's ends
TURNS = 16
ENOUGH = 300  # pipelines that do more than they cost: prices so wrong are mended before more are looked for
ASIDE = 1e-8  # of the batch: room for rounding in a checker's sums
HUGE = 1e30


@dataclass(frozen=True, slots=True)
class Bound:
    """No plan with `fewest` to `most` pipelines (None: any number) has a step of `seconds` or less.

    spaces     what pipelines are made of, one per micro-batch size
    prices     (groups,) sequences that a card must get through
    place      sequences that a pipeline must get through beside its cards' prices; 0 where `most` is None
    intervals  for each space the rising ends of the proved intervals; the first begins at 0, the last ends at infinity
    """

    fewest: int
    most: int | None
    seconds: float
    spaces: tuple[Space, ...]
    prices: Floats
    place: float
    intervals: tuple[tuple[float, ...], ...]


def bound(
    spaces: Sequence[Space], known: Sequence[Pipeline], there: Floats, batch: int, seconds: float,
    fewest: int = 1, most_pipelines: int | None = None,
) -> Bound:  # fmt: skip
    """A time no plan of `fewest` to `most_pipelines` pipelines can beat.

    spaces   one per micro-batch size, with the memory of `most_pipelines` and the step costs of `fewest`
    known    pipelines of these spaces
    seconds  of a plan, to begin from
    """
    capped = most_pipelines is not None
    columns = Columns(there)
    columns.add(known)
    whole = there if most_pipelines is None else np.append(there, float(most_pipelines))
    seconds, slack = _fluid_seconds(columns, whole, batch, seconds), SLACK
    for _ in range(TURNS):
        tried = seconds * (1 - slack)
        dual = _fluid(columns, whole, tried).prices
        if not dual.any():  # so little before the plan's time that no pipeline is through: any prices may prove it
            dual = 1.0 / np.maximum(whole, 1.0)
        dual = dual * (batch * (1 - ASIDE) / float(dual @ whole))
        prices, place = dual[: len(there)], float(dual[-1]) if capped else 0.0
        proofs = [prove(each, prices, place, tried) for each in spaces]
        if all(proof.whole for proof in proofs):
            ends = tuple(proof.ends for proof in proofs)
            return Bound(fewest, most_pipelines, tried, tuple(spaces), prices, place, ends)
        if not columns.add(each for proof in proofs for each in proof.against):
            slack *= 1.6
        seconds = min(seconds, _fluid_seconds(columns, whole, batch, seconds))
    return Bound(fewest, most_pipelines, 0.0, tuple(spaces), np.zeros(len(there)), 0.0, tuple((HUGE,) for _ in spaces))


@dataclass(frozen=True, slots=True)
class Proof:
    """Ends of the proved intervals, whether they are all there are, and pipelines that do more than they cost."""

    ends: tuple[float, ...]
    whole: bool
    against: tuple[Pipeline, ...]


def prove(where: Space, prices: Floats, place: float, seconds: float) -> Proof:
    """Halve intervals of the bottleneck until each is proved or too narrow."""
    ways, size = where.ways, where.ways.micro_batch
    price = prices[ways.group] * ways.cards
    first = bottlenecks(where, seconds, 1.15)
    if not len(first):
        return Proof((HUGE,), True, ())
    first[0] *= 0.999  # below it no stage holds the largest unit
    open_ = list(zip([0.0, *first], [*first, HUGE], strict=True))
    done: list[float] = []
    against: list[Pipeline] = []
    while open_:
        low, high = (np.array(each) for each in zip(*open_, strict=True))
        shown = np.maximum(low, 1e-30)
        can = size * (1.0 + seconds / shown) - place
        found = covers(ways, where.memory, Tried(price, high, seconds / shown, size / shown, can * (1 + 1e-9)))
        least = found.whole.min(axis=1)
        good = (least >= can * (1 + 1e-10)) | (can <= 0)
        done += [end for (_, end), proved in zip(open_, good, strict=True) if proved]
        bad = [int(at) for at in np.flatnonzero(~good)]
        for stages in found.stages([(at, int(np.argmin(found.whole[at]))) for at in bad if np.isfinite(least[at])]):
            each = pipeline(ways, stages, where.groups)
            if fluid(each, seconds) - place > float(prices @ each.cards) * (1 + 1e-9):
                against.append(each)
        narrow = [
            at for at in bad if open_[at][0] and (open_[at][1] < FINEST * open_[at][0] or open_[at][0] > 4 * seconds)
        ]
        if narrow or len(against) > ENOUGH or any(not open_[at][0] for at in bad):
            return Proof((), False, tuple(against))
        open_ = [half for at in bad for half in _halves(*open_[at])]
    return Proof(tuple(sorted(done)), not against, tuple(against))


def _halves(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    middle = 2 * low if high == HUGE else math.sqrt(low * high)
    return (low, middle), (middle, high)


def fluid(each: Pipeline, seconds: float) -> float:
    """Sequences a pipeline would do in so many seconds if a micro-batch could be had in parts."""
    left = float(((seconds - each.fill - each.step) / each.time).min())
    return each.micro_batch * (1.0 + left) if left >= 0 else 0.0


def _fluid(columns: Columns, there: Floats, seconds: float) -> Optimum:
    use = columns.cards().astype(float)
    if len(there) > len(use):
        use = np.concatenate([use, np.ones((1, use.shape[1]))])
    return most(columns.fluid(seconds), use, there)


def _fluid_seconds(columns: Columns, there: Floats, batch: float, guess: float) -> float:
    """Seconds in which fractional pipelines with fractional micro-batches get through a batch, from below."""
    low = high = guess
    while _fluid(columns, there, low).value >= batch:
        low /= 1.05
    while _fluid(columns, there, high).value < batch:
        high *= 1.05
    while high / low > 1.00002:
        middle = math.sqrt(low * high)
        if _fluid(columns, there, middle).value >= batch:
            high = middle
        else:
            low = middle
    return low
