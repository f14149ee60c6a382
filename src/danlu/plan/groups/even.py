"""The best plan of copies of one pipeline whose stages are cut alike: what Megatron-LM and torchtitan run whole.

Over several types of cards every number of copies that divides the batch is designed for by itself: its cards are
counted, not priced (spanning.py), so that unlike cards are joined in one pipeline just as they are there (llama-3-70b
on 128 A100-80 and 640 H20: 21.3 s, where pipelines worth their prices made 26.8 s). Of one type they are those of the
search: prices look at the fill of a pipeline, too (256 H100: 4.28 s, counted 4.49 s).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from danlu.plan.groups.assemble import Ask, finished
from danlu.plan.groups.chunks import of_layers
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pipelines import Pipeline
from danlu.plan.groups.pricing import Space, space
from danlu.plan.groups.spanning import spanning
from danlu.plan.groups.unit_cost import Way

WORSE = 2  # numbers of copies in turn that make a longer step, after which fewer are not looked at
STATES = 100  # numbers of cards of a pipeline up to which all are looked at, while a plan is known


def even(ask: Ask) -> GroupedPlan | None:
    """The plan, with as many micro-batches for every copy; None where memory holds none."""
    best: tuple[float, Pipeline, int] | None = None
    worse = 0
    for copies in range(min(ask.batch, ask.fleet.cards), 0, -1):
        if ask.batch % copies:
            continue
        found = min(_of(ask, copies, best is not None), key=lambda each: each[0], default=None)
        if found is not None and (best is None or found[0] < best[0]):
            best, worse = (*found, copies), 0
        elif best is not None:
            worse += 1
            if worse == WORSE:
                break
    return None if best is None else finished(ask, [(best[1], best[2])], "even")


def of_columns(ask: Ask, columns: Sequence[Pipeline], replicas: int) -> GroupedPlan | None:
    """The best plan of `replicas` copies, or more, of one of these pipelines; None where there is none."""
    best: tuple[float, Pipeline, int] | None = None
    for each in columns:
        if len({cut(each.ways.ways[span.way]) for span in each.stages}) > 1:
            continue
        most = int((ask.there[each.cards > 0] // each.cards[each.cards > 0]).min())
        for copies in range(max(1, replicas), most + 1):
            many, left = divmod(ask.batch, copies * each.micro_batch)
            if not left and many and each.whole(many) == many:
                seconds = each.seconds(many)
                if best is None or seconds < best[0]:
                    best = seconds, each, copies
    return None if best is None else finished(ask, [(best[1], best[2])], "even")


def _of(ask: Ask, copies: int, few: bool) -> Iterator[tuple[float, Pipeline]]:
    """Pipelines of which so many copies do the batch, with the seconds of a step."""
    # Those frameworks cut between whole layers alone.
    whole = [space(of_layers(each.ways, ask.spec), each.groups) for each in ask.spaces(copies)]
    for where in [*whole, *ask.chunked(copies)]:
        many, left = divmod(ask.batch, copies * where.ways.micro_batch)
        if left:
            continue
        for part in alike(where):
            states, cards = 1.0, int(part.ways.cards[0])
            for count in ask.there:
                states *= count // copies // cards + 1
            if states == 1 or (few and states > STATES):
                continue
            for each in spanning(part, ask.there, ask.batch, copies):
                if each.whole(many) == many and each.even and (copies * each.cards <= ask.there).all():
                    yield each.seconds(many), each


def alike(where: Space) -> Iterator[Space]:
    """The ways of every cut alone."""
    cuts = [cut(way) for way in where.ways.ways]
    for one in dict.fromkeys(cuts):
        yield where.of([at for at, each in enumerate(cuts) if each == one])


def cut(way: Way) -> tuple[int, ...]:
    """What other frameworks have one of for all stages."""
    return way.tp, way.cp, way.ep, way.zero
