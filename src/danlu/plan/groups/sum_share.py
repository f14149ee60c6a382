"""U_sum where a card type cannot hold the model alone: its throughput is its share of that of more such cards.

U_sum is a plan's throughput over the sum of those of each type by itself. A type that does not hold the model with its
cards has none; counting it as nothing would praise the mixture for what it did not do, and more memory on its cards
than any was built with is no fleet that anyone could measure. So such a type is counted by what a real fleet of it
does: the same step on so many more of its cards that they hold the model, up to MOST times as many as there are, and
of all those fleets the one that does most per card; times the cards there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from danlu.errors import DoesNotFit
from danlu.plan.groups.assemble import Ask
from danlu.plan.groups.large import Found, search

TIMES = (1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # as many cards
FURTHER = 4.0  # times the fewest cards that hold it: beyond, the batch is spread ever thinner
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SumShare:
    """U_sum, and for each type the cards whose rate it was counted at; 0 where even the most did not hold the model."""

    value: float
    cards: Mapping[str, int]


def sum_share(found: Found, say: Say | None = None) -> SumShare:
    """U_sum of a search's plan. Cost: a search of one type for every larger fleet of a type that cannot alone."""
    total, cards = 0.0, {}
    for at, (name, plan) in enumerate(found.alone.items()):
        count = found.ask.fleet.groups[at].count
        if plan is None:
            per_s, cards[name] = _of_more(found.ask.part(at), name, say)
        else:
            per_s, cards[name] = 1.0 / plan.seconds, count
        total += per_s
    return SumShare(1.0 / found.plan.seconds / total if total else math.inf, cards)


def _of_more(ask: Ask, name: str, say: Say | None) -> tuple[float, int]:
    """Steps a second of the type's share of the fleet that does most per card, and that fleet's cards."""
    (group,) = ask.fleet.groups
    best, fewest = (0.0, 0), math.inf
    for times in TIMES:
        count = math.ceil(group.count * times / group.per_host) * group.per_host
        if count > FURTHER * fewest:
            break
        if say is not None:
            say(f"U_sum: {name} cannot alone; {count} of them")
        larger = replace(ask.fleet, groups=(replace(group, count=count),))
        try:
            plan = search(ask.spec, larger, batch=ask.batch, seq=ask.seq, schedule=ask.schedule, zero=ask.zero,
                          most_sequences=ask.most_sequences, stack=ask.stack, constants=ask.constants).plan  # fmt: skip
        except DoesNotFit:
            continue
        fewest = min(fewest, count)
        best = max(best, (group.count / count / plan.seconds, count))
    return best
