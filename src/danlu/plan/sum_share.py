"""U_sum where a card type cannot hold the model alone: its throughput is that with the least more memory that would.

U_sum is a plan's throughput over the sum of those of each type by itself. A type that does not hold the model has none;
counting it as nothing would praise the mixture for what it did not do. So such a type is counted as if its cards had
more memory, at no cost: in steps of a tenth, the least with which some plan of it holds the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from danlu.errors import DoesNotFit
from danlu.plan.assemble import Ask
from danlu.plan.large import Found, search

STEP, MOST = 1.1, 16.0  # of a card's memory


@dataclass(frozen=True, slots=True)
class SumShare:
    """U_sum, and for each type the share of its own memory with which it was counted; infinite: not counted at all."""

    value: float
    memory: Mapping[str, float]


def sum_share(found: Found) -> SumShare:
    """U_sum of a search's plan. Cost: a search of one type for every step of memory that is tried."""
    total, memory = 0.0, {}
    for at, (name, plan) in enumerate(found.alone.items()):
        per_s, memory[name] = (1.0 / plan.seconds, 1.0) if plan is not None else _with_more(found.ask.part(at))
        total += per_s
    return SumShare(1.0 / found.plan.seconds / total if total else math.inf, memory)


def _with_more(ask: Ask) -> tuple[float, float]:
    """Steps a second with the least memory, a multiple of the card's, that holds the model; and the multiple."""
    (group,) = ask.fleet.groups
    share = STEP
    while share < MOST:
        larger = replace(group, mem_bytes=int(group.mem_bytes * share))
        try:
            found = search(ask.spec, replace(ask.fleet, groups=(larger,)), batch=ask.batch, seq=ask.seq,
                           schedule=ask.schedule, most_sequences=ask.most_sequences, stack=ask.stack,
                           constants=ask.constants)  # fmt: skip
        except DoesNotFit:
            share *= STEP
            continue
        return 1.0 / found.plan.seconds, share
    return 0.0, math.inf
