"""The best plan of a small fleet by looking at all of them; shares the costs with the planner, and no search.

`by_enumeration` makes every pipeline one by one: up to about 4 cards and 2 layers. `none_beats` goes further, to 16
cards and 8 layers: cards of a group are alike, so it keeps, for every number of micro-batches, first unit and number of
cards of each group, group of the first stage and of the one before it, all (longest load, fill) that no other pair
beats, stage by stage from the model's end.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from danlu.errors import DoesNotFit
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.assemble import Ask
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pipelines import Pipeline, Span, pipeline
from danlu.plan.groups.stage_ways import StageWays, micro_batch_sizes

CLOSE = 1e-9


def random_ask(rng: random.Random, cards: int, layers: int, batch: int) -> Ask:
    """A small fleet of 1 to 3 groups of up to so many cards, a model of up to so many layers, and a batch."""
    kinds = rng.randint(1, min(3, cards))
    ends = [0, *sorted(rng.sample(range(1, cards), kinds - 1)), rng.randint(cards - 1, cards)]
    groups = tuple(
        Group(f"card{i}", max(1, stop - start), rng.randint(2, 40) * 1e13, rng.choice([6, 8, 12, 24, 40]) << 30, 1e12,
              2e11, rng.choice([1e9, 2.5e10]), rng.choice([1, 2, 4]))
        for i, (start, stop) in enumerate(itertools.pairwise(ends))
    )  # fmt: skip
    model = ModelSpec("llama", rng.randint(1, layers), 4096, 8, 4, 512, 11008, 32000, 4096)
    fleet = GroupedFleet("small", groups)
    return Ask(model, fleet, rng.randint(1, batch), 2048, rng.choice(["1f1b", "zb-h1"]))


def is_best(ask: Ask) -> bool:
    """The search's plan can be run as it says, and no plan of its level of ZeRO or of one asked for beats it; there is
    none with a level that it says does not fit; or there is no plan at all and it says so."""
    try:
        found = large.search(
            ask.spec,
            ask.fleet,
            batch=ask.batch,
            seq=ask.seq,
            schedule=ask.schedule,
            most_sequences=ask.most_sequences,
            zero=ask.zero,
        )
    except DoesNotFit:
        return none_beats(replace(ask, zero=large.MOST_ZERO), math.inf)
    empty = all(none_beats(replace(ask, zero=level), math.inf) for level in found.unfit)
    # Pipelines of one group alone may sum their gradients inside a host.
    parts = [found.ask.part(at) for at in range(len(ask.fleet.groups))] if len(ask.fleet.groups) > 1 else []
    best = all(none_beats(each, found.plan.seconds) for each in (found.ask, *parts))
    return empty and holds(found.ask, found.plan) and best


def holds(ask: Ask, plan: GroupedPlan) -> bool:
    """Pipelines within the cards and their memory do the batch, and take as long as the plan says."""
    used, done, least, seconds = np.zeros(len(ask.fleet.groups)), 0, 0, 0.0
    for each in plan.replicas:
        ways = ask.ways(each.micro_batch, plan.pipelines, every=True, apart=sum(n > 0 for n in plan.used) > 1)
        names = [(int(g), way) for g, way in zip(ways.group, ways.ways, strict=True)]
        spans = [Span(names.index((s.group, s.way)), s.start, s.stop) for s in each.stages]
        made = pipeline(ways, spans, len(used))
        room = [ways.room[span.way, int(i == len(spans) - 1)] for i, span in enumerate(spans)]
        if [0, *(s.stop for s in spans)] != [*(s.start for s in spans), ways.units] or (made.bytes > room).any():
            return False
        used += each.copies * made.cards
        done += each.sequences
        least += each.copies * made.least
        if each.micro_batches < len(spans):
            return False
        seconds = max(seconds, made.seconds(each.micro_batches))
    there = [group.count for group in ask.fleet.groups]
    return bool((used <= there).all()) and least <= ask.batch <= done and abs(seconds / plan.seconds - 1) < CLOSE


def none_beats(ask: Ask, seconds: float) -> bool:
    """No plan of any number of pipelines does the batch in less than `seconds`, by more than rounding."""
    there = tuple(group.count for group in ask.fleet.groups)
    limit = seconds * (1 - CLOSE)
    for count in range(1, min(sum(there), ask.batch) + 1):
        done: dict[tuple[int, ...], int] = {}
        for size in micro_batch_sizes(ask.batch, ask.most_sequences):
            needed = -(-(ask.batch - count + 1) // size)
            longest = ask.longest(count, size)
            for cards, many in most_micro_batches(ask.ways(size, count), there, needed, limit, longest).items():
                done[cards] = max(done.get(cards, 0), many * size)
        if _together(done, there, count) >= ask.batch:
            return False
    return True


def _together(done: dict[tuple[int, ...], int], there: tuple[int, ...], count: int) -> float:
    """The most sequences that so many pipelines do within the cards."""
    shape = tuple(n + 1 for n in there)
    best = np.full(shape, -np.inf)
    best[(0,) * len(there)] = 0.0
    for _ in range(count):
        after = np.full(shape, -np.inf)
        for cards, sequences in done.items():
            here = tuple(slice(n, None) for n in cards)
            before = tuple(slice(0, size - n) for n, size in zip(cards, shape, strict=True))
            after[here] = np.maximum(after[here], best[before] + sequences)
        best = after
    return float(best.max())


def most_micro_batches(
    ways: StageWays, there: tuple[int, ...], needed: int, limit: float, longest: int
) -> dict[tuple[int, ...], int]:  # fmt: skip
    """For every number of cards the most micro-batches, up to `needed`, of a pipeline that ends before `limit`.

    Of up to `longest` stages, and no more than its micro-batches.
    """
    shape = (needed, ways.units + 1, *(n + 1 for n in there), len(there), len(there))
    found: dict[tuple[int, ...], int] = {}
    if not len(ways.ways):
        return found
    # columns: index of micro-batches, first unit, cards of each group, group of the stage at the front and of the one
    # before it; and longest load, fill
    at = np.zeros((needed * len(there), 4 + len(there)), dtype=np.int64)
    at[:, 0], at[:, -1] = np.divmod(np.arange(len(at)), len(there))
    at[:, 1] = ways.units
    load, fill = np.zeros(len(at)), np.zeros(len(at))
    for place in range(min(ways.units, sum(there), longest)):
        enough = at[:, 0] >= place
        at, load, fill = at[enough], load[enough], fill[enough]
        at, load, fill = _extended(ways, np.array(there), at, load, fill, place, limit)
        whole = at[:, 1] == 0
        for row in at[whole].tolist():
            cards = tuple(row[2:-2])
            found[cards] = max(found.get(cards, 0), row[0] + 1)
        kept = _unbeaten(np.ravel_multi_index(tuple(at[~whole].T), shape), load[~whole], fill[~whole])
        at, load, fill = (each[~whole][kept] for each in (at, load, fill))
        if not len(at):
            break
    return found


def _extended(ways: StageWays, there: Any, at: Any, load: Any, fill: Any, place: int, limit: float) -> Any:
    """Every label with every stage in front of it that memory, cards and the limit allow."""
    starts, parts = np.arange(ways.units), []
    for way, before in itertools.product(range(len(ways.ways)), range(len(there))):
        able = at[:, 2 + ways.group[way]] + ways.cards[way] <= there[ways.group[way]]
        able &= at[:, -1] == ways.group[way]
        mine, many, stop = at[able], at[able, :1], at[able, 1:2]
        held, kept = (each[way, stop] - each[way, starts] for each in (ways.held, ways.kept))
        good = (starts < stop) & (held + (place + 1) * kept <= ways.room[way, 1 if place == 0 else 0])
        good &= (starts > 0) | (before == 0)  # nothing comes before the first one
        behind = ways.hops[way, mine[:, -2:-1]] * (place > 0)
        hops = ways.hops[way, before] * (starts > 0) + behind
        time = ways.time[way, stop] - ways.time[way, starts] + hops
        late = ways.fill[way, stop] - ways.fill[way, starts] + hops
        longest = np.maximum(load[able, None], many * time + ways.after[way, stop] - ways.after[way, starts])
        filled = fill[able, None] + late
        row, start = np.nonzero(good & (longest + filled < limit))
        then = mine[row]
        then[:, 1] = start
        then[:, 2 + ways.group[way]] += ways.cards[way]
        then[:, -2], then[:, -1] = ways.group[way], before
        parts.append((then, longest[row, start], filled[row, start]))
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(3))


def _unbeaten(key: Any, load: Any, fill: Any) -> Any:
    """Of the labels of one key those for which no other has both a load and a fill as small."""
    order = np.lexsort((fill, load, key))
    group = np.cumsum(np.diff(key[order], prepend=-1) != 0)
    rank = np.unique(fill, return_inverse=True)[1][order]
    lowered = rank - group * (len(fill) + 1)  # so that a running minimum begins anew with each key
    least = np.minimum.accumulate(lowered)
    new = np.ones(len(order), dtype=bool)
    new[1:] = lowered[1:] < least[:-1]
    return order[new]


def every_pipeline(ways: StageWays, there: tuple[int, ...]) -> list[Pipeline]:
    """All that fit cards and memory."""

    @cache
    def all_of(start: int, left: tuple[int, ...]) -> list[tuple[Span, ...]]:
        if start == ways.units:
            return [()]
        found = []
        for way, (group, cards) in enumerate(zip(ways.group.tolist(), ways.cards.tolist(), strict=True)):
            after = tuple(n - cards * (at == group) for at, n in enumerate(left))
            if after[group] >= 0:
                found += [(Span(way, start, stop), *rest) for stop in range(start + 1, ways.units + 1)
                          for rest in all_of(stop, after)]  # fmt: skip
        return found

    found = []
    for stages in all_of(0, there):
        each = pipeline(ways, stages, len(there))
        room = np.array([ways.room[s.way, int(i == len(stages) - 1)] for i, s in enumerate(stages)])
        if (each.bytes <= room).all():
            found.append(each)
    return found


def by_enumeration(ask: Ask) -> float:
    """Seconds of the best plan: every number of pipelines, every multiset of numbers of cards, every time one takes."""
    there = tuple(group.count for group in ask.fleet.groups)
    best = math.inf
    for count in range(1, min(sum(there), ask.batch) + 1):
        every = [each for size in micro_batch_sizes(ask.batch, ask.most_sequences)
                 for each in every_pipeline(ask.ways(size, count), there)
                 if len(each.stages) <= ask.longest(count, size)]  # fmt: skip
        times = sorted({each.seconds(m) for each in every for m in range(len(each.stages), ask.batch + 1)})
        while times:
            middle = len(times) // 2
            if _enough(every, there, ask.batch, count, times[middle] * (1 + 1e-12)):
                best, times = min(best, times[middle]), times[:middle]
            else:
                times = times[middle + 1 :]
    return best


def _enough(every: list[Pipeline], there: tuple[int, ...], batch: int, count: int, seconds: float) -> bool:
    most: dict[Any, int] = {}
    for each in every:
        cards = tuple(each.cards.tolist())
        most[cards] = max(most.get(cards, 0), each.sequences(seconds))
    able = [cards for cards, done in most.items() if done]
    return any(
        (np.sum(chosen, axis=0) <= there).all() and sum(most[cards] for cards in chosen) >= batch
        for chosen in itertools.combinations_with_replacement(able, count)
    )
