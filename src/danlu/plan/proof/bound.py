"""A time no plan can beat, and its proof: prices of cards under which no pipeline does more than its cards cost.

If in a step of T seconds every pipeline gets through no more sequences than the prices of its cards come to, all
pipelines of the fleet together get through no more than the prices of all cards: with prices that come to less than the
batch, no plan of any class here has a step of T seconds or less. That no pipeline does more is plain for each of one
stage, and shown for others interval by interval of their bottleneck k (seconds of a micro-batch on the slowest stage,
no more than T): on (low, high] a pipeline of micro-batches of b sequences does at most b (1 + (T - fill) / low), has
1 + T / low stages at most, for it has a micro-batch for each, its stages reach no further than `high` lets them, and a
dynamic programme over all covers of the model (plan/groups/covers.py) finds the least that cards and fill can cost.
Intervals are halved until each is proved. Optimizer states are shared over the pipelines, and gradients summed over
them: a bound holds from a fewest to a most pipelines, takes the memory of the most and the sums of the fewest. So many
pipelines have a price, too, their place: above 0 where more than the most would do more, below 0 where fewer than the
fewest would. Where the memory of the most has no room for the fewest, a place far below 0 shows that there is no plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from danlu.plan.groups.covers import Tried, covers
from danlu.plan.groups.linear import most
from danlu.plan.groups.pipelines import Pipeline, pipelines
from danlu.plan.groups.pricing import Columns, Space, bottlenecks, singles
from danlu.plan.groups.stage_ways import Floats

SLACK = 0.002  # of the time: what the proof gives away so that intervals need not be narrow; more if that fails
FINEST = 1.0004  # of an interval's ends
TURNS = 16
ENOUGH = 300  # pipelines that do more than they cost: prices so wrong are mended before more are looked for
ASIDE = 1e-8  # of the batch: room for rounding in a checker's sums
HUGE = 1e30
EARNED = 100.0  # by a pipeline up to the fewest, of the most that one does: there are so many wherever there can be
FAR = 4.0  # times the plan's seconds: a bound that long needs no number


@dataclass(frozen=True, slots=True)
class Bound:
    """No plan with `fewest` to `most` pipelines has a step of `seconds` or less.

    spaces     what pipelines are made of, one per micro-batch size
    prices     (groups,) sequences that a card must get through
    place      sequences that a pipeline must get through beside its cards' prices; below 0: that it may do less
    intervals  for each space the rising ends of the proved intervals; the first begins at 0, the last ends at infinity
    """

    fewest: int
    most: int
    seconds: float
    spaces: tuple[Space, ...]
    prices: Floats
    place: float
    intervals: tuple[tuple[float, ...], ...]


def bound(
    spaces: Sequence[Space], known: Sequence[Pipeline], there: Floats, batch: int, seconds: float,
    fewest: int, most_pipelines: int,
) -> Bound:  # fmt: skip
    """A time no plan of `fewest` to `most_pipelines` pipelines can beat; `seconds` where that is less.

    spaces   one per micro-batch size, with the memory of `most_pipelines` and the step costs of `fewest`
    known    pipelines of these spaces
    seconds  of a plan, to begin from: no bound need be better
    """
    # Also pipelines larger than the fleet: a cover of the proof may be one.
    columns, whole = Columns(np.full_like(there, np.inf)), Whole(there, batch, fewest, most_pipelines)
    columns.add(known)
    least, slack = _fluid_seconds(columns, whole, seconds), SLACK
    for _ in range(TURNS):
        tried = min(seconds, least * (1 - slack))
        prices, place = _priced(columns, whole, tried)
        proofs = [prove(each, prices, place, tried) for each in spaces]
        if all(proof.whole for proof in proofs):
            ends = tuple(proof.ends for proof in proofs)
            return Bound(fewest, most_pipelines, tried, tuple(spaces), prices, place, ends)
        if not columns.add(each for proof in proofs for each in proof.against):
            slack = min(2 * slack, 0.5)
        least = min(least, _fluid_seconds(columns, whole, tried))
    return Bound(fewest, most_pipelines, 0.0, tuple(spaces), np.zeros(len(there)), 0.0, tuple((HUGE,) for _ in spaces))


@dataclass(frozen=True, slots=True)
class Whole:
    """What all pipelines together have: cards of each group, a batch to do, and their own number."""

    there: Floats
    batch: int
    fewest: int
    most: int

    def spent(self, prices: Floats, place: float) -> float:
        """Sequences that all cards and pipelines come to, at most."""
        return float(prices @ self.there) + max(place * self.fewest, place * self.most)


def _priced(columns: Columns, whole: Whole, seconds: float) -> tuple[Floats, float]:
    """Prices and place that come to just less than the batch, as fair as the pipelines known can tell."""
    _, prices, place = _fluid(columns, whole, seconds)
    if not prices.any() and place <= 0:  # so early that no pipeline is through: any prices may prove it
        prices, place = 1.0 / np.maximum(whole.there, 1.0), 0.0
    spent, aim = whole.spent(prices, place), whole.batch * (1 - ASIDE)
    if spent <= 0 and place < 0:  # there are no such plans: cards may cost all that places give, and one sequence less
        return prices * ((aim - place * whole.fewest) / float(prices @ whole.there)), place
    return prices * (aim / spent), place * (aim / spent)


@dataclass(frozen=True, slots=True)
class Proof:
    """Ends of the proved intervals, whether they are all there are, and pipelines that do more than they cost."""

    ends: tuple[float, ...]
    whole: bool
    against: tuple[Pipeline, ...]


def prove(where: Space, prices: Floats, place: float, seconds: float) -> Proof:
    """Look at pipelines of one stage, then halve intervals of the bottleneck until each is proved or too narrow."""
    ways, size = where.ways, where.ways.micro_batch
    price = prices[ways.group] * ways.cards
    against = [each for each in singles(where) if _over(each, prices, place, seconds)]
    first = bottlenecks(where, seconds, 1.15)
    if not len(first):
        return Proof((HUGE,), not against, tuple(against))
    first[0] *= 0.999  # below it no stage holds the largest unit
    memory = where.memory.copy()
    memory[0, :, 0] = np.minimum(memory[0, :, 0], ways.units - 1)
    open_ = list(zip([0.0, *first], [*first, HUGE], strict=True))
    done: list[float] = []
    while open_:
        low, high = (np.array(each) for each in zip(*open_, strict=True))
        shown = np.maximum(low, 1e-30)
        can = size * (1.0 + seconds / shown) - place
        most_ = np.minimum(1.0 + seconds / shown * (1 + 1e-9), len(memory)).astype(np.int64)
        found = covers(ways, memory, Tried(price, high, seconds / shown, size / shown, can * (1 + 1e-9), most_))
        least = found.whole.min(axis=1)
        good = (least >= can * (1 + 1e-10)) | (can <= 0) | (low >= seconds)
        done += [end for (_, end), proved in zip(open_, good, strict=True) if proved]
        bad = [int(at) for at in np.flatnonzero(~good)]
        wanted = [(at, int(np.argmin(found.whole[at]))) for at in bad if np.isfinite(least[at])]
        made = pipelines(ways, found.stages(wanted), where.groups)
        against += [each for each in made if _over(each, prices, place, seconds)]
        narrow = [at for at in bad if open_[at][0] and open_[at][1] < FINEST * open_[at][0]]
        if narrow or len(against) > ENOUGH or any(not open_[at][0] for at in bad):
            return Proof((), False, tuple(against))
        open_ = [half for at in bad for half in _halves(*open_[at])]
    return Proof(tuple(sorted(done)), not against, tuple(against))


def _over(each: Pipeline, prices: Floats, place: float, seconds: float) -> bool:
    """Whether a pipeline does more than it costs."""
    done = fluid(each, seconds)
    return done > 0 and done - place > float(prices @ each.cards) * (1 + 1e-9)


def _halves(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    middle = 2 * low if high == HUGE else math.sqrt(low * high)
    return (low, middle), (middle, high)


def fluid(each: Pipeline, seconds: float) -> float:
    """Columns.fluid of one pipeline: sequences in so many seconds, if micro-batches came in parts."""
    if len(each.stages) == 1:
        return float(each.sequences(seconds))
    left = (seconds - each.fill) * float(((1.0 - each.after / seconds) / each.time).min())
    return each.micro_batch * (1.0 + left) if left >= 0 and seconds >= each.fill else 0.0


def _fluid(columns: Columns, whole: Whole, seconds: float) -> tuple[float, Floats, float]:
    """Sequences that fractional pipelines of fractional micro-batches do, fair prices of cards and of a place.

    Rows beside the cards: pipelines up to the most; up to the fewest of them, counted, earn more than any does.
    """
    done = columns.fluid(seconds) if columns.pipelines else np.zeros(0)
    able = done > 0
    if not able.any():
        return 0.0, np.zeros(len(whole.there)), 0.0
    use, count = columns.cards()[:, able].astype(float), int(able.sum())
    earn = EARNED * float(done.max())
    rows = np.concatenate([use, np.ones((1, count)), -np.ones((1, count)), np.zeros((1, count))])
    counted = np.concatenate([np.zeros(len(use) + 1), [1.0, 1.0]])
    found = most(np.append(done[able], earn), np.column_stack([rows, counted]),
                 np.concatenate([whole.there, [float(whole.most), 0.0, float(whole.fewest)]]))  # fmt: skip
    price = found.prices
    return found.value - earn * whole.fewest, price[: len(use)], float(price[-3] - price[-2])


def _fluid_seconds(columns: Columns, whole: Whole, guess: float) -> float:
    """Seconds in which they get through a batch, from below; infinity where there cannot be so many pipelines."""
    low = high = guess
    while _fluid(columns, whole, low)[0] >= whole.batch:
        low /= 1.05
    while _fluid(columns, whole, high)[0] < whole.batch:
        high *= 1.05
        if high > FAR * guess:
            return math.inf
    while high / low > 1.00002:
        middle = math.sqrt(low * high)
        if _fluid(columns, whole, middle)[0] >= whole.batch:
            high = middle
        else:
            low = middle
    return low
