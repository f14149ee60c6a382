"""A plan that is easier to run and hardly slower: fewer different stages, of the pipelines a search has found.

A fleet is packed best by many kinds of pipelines that fill its last cards. People write each kind down, start it and
look after it, so that of plans WITHIN the fastest's seconds the one with the fewest different stages is preferred: one
or two kinds on each group beside the mixed ones that prices chose, every number of copies looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from danlu.nouns import GroupedFleet
from danlu.plan.groups.assemble import finished
from danlu.plan.groups.choose import Chosen
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.designs import filled
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.large import Found
from danlu.plan.groups.outlook import outlook
from danlu.plan.groups.pricing import Columns, relaxed
from danlu.plan.groups.stage_ways import Floats, Ints
from danlu.plan.groups.unit_cost import Stack

WITHIN = 0.005  # of the fastest plan's seconds
GOOD = 0.97  # of the best pipeline's sequences a card does the kind that has most of a group
KINDS = 2  # of mixed pipelines, of which prices have the most


def simplest(found: Found) -> GroupedPlan | None:
    """The plan with fewest different stages, WITHIN the seconds of the search's and no slower than a type alone.

    None where the search's own is as simple, or made by counting cards (spanning.py, small.py).
    """
    ask, plan = found.ask, found.plan
    columns = Columns(ask.there)
    columns.add(found.columns)
    one = len(ask.fleet.groups) == 1
    if not columns.pipelines or not (one or plan.kind in ("hybrid", "mixed", "alone")):
        return None
    singles = (each.seconds for each in found.alone.values() if each is not None)
    seconds = min(plan.seconds * (1 + WITHIN), *singles, float("inf"))
    counts = _counts(columns, seconds, ask.batch, different(plan))
    if counts is None:
        return None
    chosen = [(columns.pipelines[i], int(counts[i])) for i in map(int, np.flatnonzero(counts))]
    mixed = [int((each.cards > 0).sum()) > 1 for each, _ in chosen]
    kind = plan.kind if one else "alone" if not any(mixed) else "hybrid" if len(chosen) > 1 else "mixed"
    made = finished(ask, chosen, kind)
    good = made.seconds <= seconds and made.pipelines >= found.design and different(made) < different(plan)
    return made if good else None


def preferred(chosen: Chosen, fleet: GroupedFleet, stack: Stack | None = None) -> Chosen:
    """The same with the simplest plan, the fastest beside it; of a goal that is not time, or of chunks, as it is.

    fleet, stack  as of choose.best
    """
    whole = chosen.goal == "time" and chosen.sites is None and not ORDERS[chosen.found.ask.schedule].chunks
    plan = simplest(chosen.found) if whole else None
    if plan is None:
        return chosen
    best = outlook(plan, chosen.spec, fleet, stack, chosen.found.ask.constants)
    others = sorted((chosen.best, *chosen.others), key=lambda each: each.seconds)
    fastest = chosen.best if chosen.best.seconds < best.seconds else None
    return replace(chosen, best=best, others=tuple(others), found=replace(chosen.found, plan=plan), fastest=fastest)


def different(plan: GroupedPlan) -> int:
    """Stages of a plan's different pipelines: what has to be written down."""
    return sum(len(stages) for stages in {tuple((s.group, s.way, s.start, s.stop) for s in each.stages)
                                          for each in plan.replicas})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """Of one group, by number of different stages: the most sequences, and (pipeline, copies) that do them."""

    value: Floats
    counts: Sequence[tuple[tuple[int, int], ...]]


def _counts(columns: Columns, seconds: float, batch: int, most: int) -> Ints | None:
    """(pipelines,) how many of each: the fewest different stages, below `most`, that do the batch in time."""
    value, use, there = columns.sequences(seconds), columns.cards(), columns.there.astype(np.int64)
    depth = np.array([len(each.stages) for each in columns.pipelines])
    best: tuple[int, Ints] | None = None
    for part in _mixed(columns, seconds):
        left = there - use @ part
        least = int(depth[part > 0].sum())
        if (left < 0).any() or least >= most:
            continue
        groups = [_options(value, use, depth, group, int(n), most - least) for group, n in enumerate(left)]
        for stages, chosen in _together(groups, batch - float(part @ value)):
            if least + stages >= most:
                break
            counts = part.copy()
            for column, copies in chosen:
                counts[column] += copies
            few = filled(counts, value, columns.least(), batch)
            if few is not None:
                best, most = (least + stages, few), least + stages
                break
    return None if best is None else best[1]


def _mixed(columns: Columns, seconds: float) -> Iterator[Ints]:
    """(pipelines,) how many of each mixed pipeline: none, or about as many as prices chose, of every set of kinds."""
    amounts = relaxed(columns, seconds).amounts
    many = np.where((columns.cards() > 0).sum(axis=0) > 1, np.floor(amounts + 1e-9), 0).astype(np.int64)
    kinds = np.argsort(-many, kind="stable")[: min(KINDS, int((many > 0).sum()))]
    for each in itertools.product(*([0, *range(max(1, many[kind] - 1), many[kind] + 3)] for kind in kinds)):
        part = np.zeros_like(many)
        part[kinds] = each
        yield part


def _options(value: Floats, use: Ints, depth: Ints, group: int, cards: int, most: int) -> Options:
    """Nothing, one kind or two kinds of pipelines inside a group of so many cards, up to `most` stages."""
    mine = np.flatnonzero((use[group] > 0) & (use.sum(axis=0) == use[group]) & (value > 0) & (depth < most)
                          & (use[group] <= cards))  # fmt: skip
    found, counts = np.full(most, -np.inf), [tuple[tuple[int, int], ...]()] * most
    found[0] = 0.0
    # Of pipelines of as many cards and stages, the one that does most.
    order = mine[np.lexsort((-value[mine], depth[mine], use[group, mine]))]
    alike = np.stack([use[group, order], depth[order]])
    mine = order[np.append(True, (np.diff(alike, axis=1) != 0).any(axis=0))[: len(order)]]
    if not len(mine):
        return Options(found, counts)
    size, done, long = use[group, mine], value[mine], depth[mine]
    rate = done / size
    for one in np.flatnonzero(rate >= GOOD * rate.max()):
        copies = np.arange(cards // size[one], 0, -1)
        rest = (cards - copies * size[one])[:, None] // size
        both = copies[:, None] * done[one] + rest * done
        row = np.argmax(both, axis=0)
        pairs = [(int(long[one]), float(copies[0] * done[one]), 0, -1)]
        pairs += [(int(long[one] + long[i]), float(both[at, i]), int(at), i) for i, at in enumerate(row) if i != one]
        for stages, sequences, at, other in pairs:
            if stages < most and sequences > found[stages]:
                second = ((int(mine[other]), int(rest[at, other])),) if other >= 0 and rest[at, other] else ()
                found[stages], counts[stages] = sequences, ((int(mine[one]), int(copies[at])), *second)
    return Options(found, counts)


def _together(groups: Sequence[Options], enough: float) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """(different stages, (pipeline, copies) of all groups) that do enough together, by rising number of stages."""
    tables = [np.zeros(1)]
    for each in groups:
        before = tables[-1]
        table = np.full(len(before) + len(each.value) - 1, -np.inf)
        for stages in np.flatnonzero(np.isfinite(each.value)):
            part = table[stages : stages + len(before)]
            np.maximum(part, before + each.value[stages], out=part)
        tables.append(table)
    for stages in np.flatnonzero(tables[-1] >= enough - 1e-6):
        chosen, at = list[tuple[int, int]](), int(stages)
        for each, before in zip(reversed(groups), reversed(tables[:-1]), strict=True):
            first, last = max(0, at - len(before) + 1), min(at + 1, len(each.value))
            taken = first + int(np.argmax(each.value[first:last] + before[at - np.arange(first, last)]))
            chosen += each.counts[taken]
            at -= taken
        yield int(stages), tuple(chosen)
