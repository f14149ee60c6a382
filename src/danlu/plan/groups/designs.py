"""The best pipelines of a fleet with one set of ways, and how many of which.

What a card keeps of the optimizer's states depends on how many pipelines share them, so that a number of pipelines is
designed for, and the next one is chosen by how many the packing found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from danlu.plan.groups.assemble import Ask, again, finished
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.even import alike, of_columns
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pack import pack
from danlu.plan.groups.pipelines import Pipeline
from danlu.plan.groups.pricing import (
    DEEPEST,
    MOST_STAGES,
    Columns,
    Space,
    bottlenecks,
    grow,
    relaxed,
    seconds_for,
    singles,
    worth,
)
from danlu.plan.groups.spanning import spanning
from danlu.plan.groups.stage_ways import Floats, Ints

TURNS = 4  # of column generation
WOVEN = 2  # of it when stages may be in chunks
WIDER = 1.08  # from one tried bottleneck to the next, at guessed prices, and of stages in chunks or cut alike
FINER = 24  # times below the best packing that are tried
FEW = 4  # pipelines, or fewer, are made of counted cards where prices find none
DESIGNS = 6  # numbers of replicas tried to share optimizer states over


def best_pipelines(ask: Ask) -> tuple[GroupedPlan, list[GroupedPlan], list[Pipeline], int] | None:
    """The best plan, those of its classes, and the pipelines they were chosen from."""
    replicas, best, known = _first_design(ask), None, list[Pipeline]()
    for _ in range(DESIGNS):
        found = _designed(ask, replicas, known)
        if found is None:
            if replicas == 1:
                return best
            replicas, known = max(1, replicas // (4 if replicas > FEW else 2)), []
            continue
        plan, columns = found
        if plan.pipelines >= replicas:
            better = best is None or plan.seconds < best[0].seconds
            if better:
                best = plan, _classes(ask, columns, replicas), columns, replicas
            if not better or plan.pipelines <= 1.5 * replicas:
                return best
            replicas, known = max(replicas + 1, int(0.8 * plan.pipelines)), []
        else:
            if best is not None:
                return best
            replicas, known = max(1, int(0.8 * plan.pipelines)), columns
    return best


def _first_design(ask: Ask) -> int:
    """A number of pipelines to begin with: those whose states fill an eighth of the fleet's memory."""
    memory = sum(group.count * group.mem_bytes for group in ask.fleet.groups)
    return max(1, min(ask.batch, int(memory / 8 / (6 * ask.spec.params))))


def _designed(ask: Ask, replicas: int, known: Sequence[Pipeline]) -> tuple[GroupedPlan, list[Pipeline]] | None:
    """The best plan of at least so many pipelines; with fewer found, one that may not fit memory.

    known  pipelines of a design for more: those that still fit are begun from
    """
    found = _priced(ask, replicas, Columns(ask.there), MOST_STAGES, known) if replicas > 1 else None
    if found is not None or replicas > FEW:
        return found
    columns = Columns(ask.there)
    for each in ask.spaces(replicas, stages=min(DEEPEST, ask.deepest(replicas))):
        for one in each.each:
            columns.add(spanning(one, ask.there, ask.batch, replicas))
    return _priced(ask, replicas, columns, DEEPEST)


def _priced(
    ask: Ask, replicas: int, columns: Columns, stages: int, known: Sequence[Pipeline] = ()
) -> tuple[GroupedPlan, list[Pipeline]] | None:  # fmt: skip
    """The best plan of `columns` and of what prices of cards add to them, of up to so many stages."""
    spaces = ask.spaces(replicas, stages=min(stages, ask.deepest(replicas)))
    rate = sum(group.count * group.flops for group in ask.fleet.groups)
    guess = 12.0 * ask.spec.params * ask.batch * ask.seq / rate
    prices = np.array([ask.batch / rate * group.flops for group in ask.fleet.groups])
    for each in spaces:
        columns.add(singles(each))
    columns.add(_moved(known, spaces))
    for at in range(0 if known else len(ask.fleet.groups)):
        for each in spaces:
            part = each.only([at])
            columns.add(worth(part, prices, guess, bottlenecks(part, guess, WIDER)))
    if len(ask.fleet.groups) > 1 and not known:
        for each in spaces:
            columns.add(worth(each, prices, guess, bottlenecks(each, guess)))
    if not columns.pipelines:
        return None
    seconds = seconds_for(columns, ask.batch, guess)
    seconds = grow(columns, spaces, ask.batch, seconds, 1 if known else TURNS)
    plan = packed(ask, columns, seconds, "hybrid")
    if plan is None or not ORDERS[ask.schedule].chunks:
        return None if plan is None else (plan, columns.pipelines)
    woven = _woven(ask, replicas, columns, plan, spaces)
    return min(plan, woven or plan, key=lambda each: each.seconds), columns.pipelines


def _moved(known: Sequence[Pipeline], spaces: Sequence[Space]) -> list[Pipeline]:
    """Known pipelines by the costs of these spaces, where they fit their memory."""
    by_size = {each.ways.micro_batch: each.ways for each in spaces}
    moved = again([(each, by_size[each.micro_batch]) for each in known], spaces[0].groups)
    return [each for each in moved if each is not None and each.fits]


def _woven(
    ask: Ask, replicas: int, columns: Columns, plan: GroupedPlan, spaces: Sequence[Space]
) -> GroupedPlan | None:  # fmt: skip
    """The best plan when stages may be in chunks, of pipelines that are worth their cards beside those of `plan`."""
    able = [one for each in ask.chunked(replicas, stages=ask.deepest(replicas)) for one in each.each]
    seconds = plan.seconds
    for _ in range(WOVEN):
        prices = relaxed(columns, seconds).prices
        new = sum(columns.add(worth(each, prices, seconds, bottlenecks(each, seconds, WIDER))) for each in able)
        new += sum(columns.add(worth(each, prices, seconds, bottlenecks(each, seconds))) for each in spaces)
        better = seconds_for(columns, ask.batch, seconds)
        if not new or better > 0.999 * seconds:
            break
        seconds = better
    if len(ask.fleet.groups) == 1:
        for each in [*able, *spaces]:
            for part in alike(each):
                columns.add(worth(part, prices, seconds, bottlenecks(part, seconds, WIDER)))
    return packed(ask, columns, seconds, "hybrid")


def packed(ask: Ask, columns: Columns, seconds: float, kind: str) -> GroupedPlan | None:
    """Whole pipelines in the least time that is found, from a time below it."""
    there = ask.there.astype(np.int64)

    def at(limit: float) -> Ints | None:
        value = columns.sequences(limit)
        return filled(pack(value, columns.cards(), there, ask.batch).counts, value, columns.least(), ask.batch)

    low, high = seconds, seconds * 1.02
    while (counts := at(high)) is None:
        low, high = high, high * 1.5
        if high > 1e3 * seconds:
            return None
    while high / low > 1.0002:
        middle = (low * high) ** 0.5
        if (fewer := at(middle)) is None:
            low = middle
        else:
            high, counts = middle, fewer
    # The packing is no monotone function of time: a little less may do as well.
    for share in np.linspace(0.985, 0.9995, FINER):
        if (fewer := at(high * float(share))) is not None:
            counts = fewer
            break
    chosen = [(columns.pipelines[i], int(counts[i])) for i in map(int, np.flatnonzero(counts))]
    return finished(ask, chosen, kind)


def filled(counts: Ints, value: Floats, least: Floats, batch: int) -> Ints | None:
    """Without so many pipelines that the batch could not fill them; None where the others do not do it."""
    counts = counts.copy()
    for i in np.argsort(value / least, kind="stable"):
        over = float(counts @ least) - batch
        if over <= 0:
            break
        counts[i] -= min(int(counts[i]), math.ceil(over / least[i]))
    return counts if counts @ value >= batch else None


def _classes(ask: Ask, columns: Sequence[Pipeline], replicas: int) -> list[GroupedPlan]:
    """The best plan of the narrower classes: pipelines inside groups only, and copies of one mixed pipeline."""
    if len(ask.fleet.groups) == 1:
        found = of_columns(ask, columns, replicas) if ORDERS[ask.schedule].chunks else None
        return [] if found is None else [found]
    plans = []
    alone = [each for each in columns if (each.cards > 0).sum() == 1]
    if alone:
        one = Columns(ask.there)
        one.add(alone)
        seconds = seconds_for(one, ask.batch, alone[0].seconds(1))
        plan = packed(ask, one, seconds, "alone")
        if plan is not None and plan.pipelines >= replicas:
            plans.append(plan)
    best: tuple[float, Pipeline, int] | None = None
    for each in columns:
        if (each.cards > 0).sum() > 1:
            copies = int((ask.there[each.cards > 0] // each.cards[each.cards > 0]).min())
            copies = min(copies, ask.batch // each.least)
            if copies >= replicas:
                seconds = each.seconds(max(len(each.stages), math.ceil(ask.batch / copies / each.micro_batch)))
                if best is None or seconds < best[0]:
                    best = seconds, each, copies
    if best is not None:
        plans.append(finished(ask, [(best[1], best[2])], "mixed"))
    return plans
