"""Pipelines for a fleet that can hold few of them: each within its part of the cards of every group.

Where a model's states fill most of a fleet, a plan is a handful of pipelines over all of it, and prices of cards
(pricing.py) lead nowhere: at any price one type is the better buy, and no pipeline within the counted cards is
found between the two. Here cards are counted. For one bottleneck, `reach` finds how far from the model's end so many
cards of each group can cover it with so many stages: of two ends of a pipeline with the same cards and stages the one
that covers more is never worse, so that one number a state is enough, and the least bottleneck is found by bisection.
The fill is what follows; a few longer bottlenecks, with the fewest stages that reach, are tried for its sake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from danlu.plan.groups.covers import load_ends
from danlu.plan.groups.pipelines import Pipeline, Span, pipeline
from danlu.plan.groups.pricing import Space
from danlu.plan.groups.stage_ways import Floats, Ints, StageWays

CLOSE = 1.002  # of the least bottleneck
LONGER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)  # bottlenecks tried, times the least
MOST_STATES = 30_000  # numbers of cards of each group that are looked at
Firsts = npt.NDArray[np.int16]  # first units
SHARES = (2, 1)  # of the most cards a stage takes, half as many are tried too where that leaves few enough states


def spanning(where: Space, there: Floats, batch: int, pipelines: int) -> list[Pipeline]:
    """Pipelines of which `pipelines` copies fit the cards, by rising bottleneck; none where memory holds none.

    there   (groups,) cards
    batch   sequences of a step, shared evenly
    Cost: about 25 ms for each of some 16 bottlenecks and 5,000 states.
    """
    for share in SHARES:
        keep = _wide(where.ways, share)
        many = max(1, math.ceil(batch / pipelines / where.ways.micro_batch))
        part = Space(where.ways.only(keep), where.memory[:many, keep], where.groups)
        units = _units(part.ways, part.groups)
        counts = tuple(np.minimum(there // pipelines // units, part.memory.shape[0] * 8 // units).astype(int).tolist())
        if len(keep) and math.prod(n + 1 for n in counts) <= MOST_STATES:
            return _within(part, units, counts, many)
    return []


def _within(where: Space, units: Ints, counts: Sequence[int], many: int) -> list[Pipeline]:
    """Pipelines within so many units of cards."""
    ways = where.ways
    rate = sum(n * u * float((1.0 / (ways.time[:, -1] * ways.cards))[ways.group == group].max(initial=0.0))
               for group, (n, u) in enumerate(zip(counts, units, strict=True)))  # fmt: skip
    high = float((ways.time[:, -1] + ways.after[:, -1] / many + 2 * ways.hop).max()) * 1.01
    low = min(1.0 / rate, high) if rate else high
    if _pipeline(where, units, counts, high, many) is None:
        return []
    step = 1.5
    while step > CLOSE:
        while low * step < high and _pipeline(where, units, counts, low * step, many) is None:
            low *= step
        high, step = min(high, low * step), step**0.5
    found = (_pipeline(where, units, counts, high * times, many) for times in LONGER)
    return [each for each in found if each is not None]


def _wide(ways: StageWays, share: int) -> Ints:
    """Ways of at least the most cards that a stage of their group can take, over `share`."""
    most = {group: ways.cards[ways.group == group].max() for group in set(ways.group.tolist())}
    return np.flatnonzero([share * cards >= most[g] for g, cards in zip(ways.group, ways.cards, strict=True)])


def _units(ways: StageWays, groups: int) -> Ints:
    """(groups,) cards by which a pipeline's number of cards of a group can grow."""
    return np.array([max(1, int(np.gcd.reduce(ways.cards[ways.group == group]))) for group in range(groups)])


def _pipeline(where: Space, units: Ints, counts: Sequence[int], limit: float, many: int) -> Pipeline | None:
    """The pipeline of fewest stages, then cards, whose stages stay within the limit; None where there is none."""
    ways, taken = where.ways, where.ways.cards // units[where.ways.group]
    starts = _starts(where, limit, many)
    tables = reach(starts, ways.group, taken, counts)
    if tables[-1].min() > 0:
        return None
    whole = np.argwhere(tables[-1] == 0)
    at = whole[int(np.argmin(whole @ units))]
    spans: list[Span] = []
    for place in range(len(tables) - 2, -1, -1):
        start = int(tables[place + 1][tuple(at)])
        for way in range(len(ways.ways)):
            before = at.copy()
            before[ways.group[way]] -= taken[way]
            if before.min() >= 0:
                stop = int(tables[place][tuple(before)])
                if starts[place, way, stop] == start:
                    spans.append(Span(way, start, stop))
                    at = before
                    break
    return pipeline(ways, spans, where.groups)


def _starts(where: Space, limit: float, many: int) -> Firsts:
    """(places, ways, units + 2): the first unit from which a stage can reach each stop; `units + 1` for none."""
    ways, units = where.ways, where.ways.units
    inner, last = (each[0] for each in load_ends(ways, np.array([limit]), np.array([float(many)])))
    far = np.maximum(np.minimum(inner, where.memory), 0)
    far[0] = np.maximum(np.minimum(last, where.memory[0]), 0)
    # Of a row that never falls, as many places end before a stop as lie before the first that reaches it; the first
    # place has no message before it, and is looked at by itself.
    rows, stops = math.prod(far.shape[:2]), np.arange(units + 1)
    at = np.arange(rows)[:, None] * (units + 1) + far[:, :, 1:].reshape(rows, units)
    ends = np.bincount(at.ravel(), minlength=rows * (units + 1)).reshape(rows, units + 1)
    start = (np.cumsum(ends, axis=1) - ends + 1).reshape(*far.shape[:2], units + 1)
    start[far[:, :, :1] >= stops] = 0
    found = np.full((*far.shape[:2], units + 2), units + 1, dtype=np.int16)
    found[:, :, :-1] = np.where(start < stops, start, units + 1)
    return found


def reach(starts: Firsts, group: Ints, taken: Ints, counts: Sequence[int]) -> list[Firsts]:
    """For 0, 1, ... stages the first unit from which so many cards of each group cover the model to its end.

    starts  as of _starts
    taken   (ways,) units of cards of a stage
    Returns arrays of shape (counts + 1); `units + 1` where there is no cover, or one with fewer stages covers as much.
    Ends with the fewest stages that cover the whole model, or with the most there are.
    """
    never = starts.shape[2] - 1
    tables = [np.full([n + 1 for n in counts], never, dtype=np.int16)]
    tables[0].flat[0] = never - 1
    best = tables[0].copy()
    for place in starts:
        before, after = tables[-1], np.full_like(best, never)
        for way, row in enumerate(place):
            front, behind = [slice(None)] * len(counts), [slice(None)] * len(counts)
            if taken[way] <= counts[group[way]]:
                front[group[way]] = slice(int(taken[way]), None)
                behind[group[way]] = slice(None, counts[group[way]] + 1 - int(taken[way]))
                np.minimum(after[tuple(front)], row[before[tuple(behind)]], out=after[tuple(front)])
        after[after >= best] = never
        np.minimum(best, after, out=best)
        tables.append(after)
        if not after.min() or (after == never).all():
            break
    return tables
