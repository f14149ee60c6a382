"""Copies of the model: which cards form which copy, and how many micro-batches of a step each of them takes.

Every way to part the cards of a small fleet is tried, each part as the best pipeline over its cards (plan/search.py);
micro-batches go one by one to the copy that would end first. What copies pay for summing gradients is in the forecast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from danlu.errors import DoesNotFit
from danlu.nouns import Card, Fleet, Plan, Replica
from danlu.plan import search
from danlu.plan.candidates import EXACT_CARDS, Ask
from danlu.plan.forecast import forecast, stage_cost
from danlu.plan.ranks.seats import seats

Block = tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """One part of the cards as a pipeline: what a micro-batch adds to its step, and what the step takes beside."""

    plan: Plan
    each_s: float
    fixed_s: float


def best(ask: Ask, fleet: Fleet, most: int) -> Plan | None:
    """The fastest plan of two to `most` copies that fits its cards, by forecast; None where there is none.

    Of more than EXACT_CARDS cards only one copy a card is looked at.
    Cost: a search for every set of cards that some parting has, and a forecast for every parting and schedule.
    """
    cards = tuple(card for card in fleet.cards if card.health != "quarantined")
    known: dict[tuple[str, ...], Copy | None] = {}
    found: Plan | None = None
    for parts in partings(cards):
        if not 2 <= len(parts) <= min(most, ask.micro_batches):
            continue
        names = [tuple(card.name for card in part) for part in parts]
        for part, name in zip(parts, names, strict=True):
            if name not in known:
                known[name] = copy_of(ask, fleet, part)
        copies = [copy for name in names if (copy := known[name]) is not None]
        if len(copies) == len(parts):
            plans = filter(fits, joined(ask, fleet, copies))
            found = min((*plans, *([found] if found else [])), key=_step_s, default=None)
    return found


def faster(one: Plan, other: Plan | None) -> Plan:
    """The one with the shorter forecast step; the first where they are equal."""
    return one if other is None else min(one, other, key=_step_s)


def partings(cards: Block) -> Iterator[tuple[Block, ...]]:
    """Every way to part a few cards into sets; of many, each card by itself."""
    if len(cards) > EXACT_CARDS:
        yield tuple((card,) for card in cards)
        return
    if not cards:
        yield ()
        return
    first, rest = cards[0], cards[1:]
    for parts in partings(rest):
        yield ((first,), *parts)
        for at, part in enumerate(parts):
            yield (*parts[:at], (first, *part), *parts[at + 1 :])


def copy_of(ask: Ask, fleet: Fleet, part: Block) -> Copy | None:
    """The best pipeline over some cards, with their part of the micro-batches; None where the model does not fit."""
    speed = {card.name: max(card.flops.values()) for card in fleet.cards}
    share = sum(speed[card.name] for card in part) / sum(speed.values())
    count = max(1, round(ask.micro_batches * share))
    try:
        plan = search.search(ask.spec, replace(fleet, cards=part), micro_batch=ask.micro_batch, micro_batches=count,
                             seq=ask.seq, dtype=ask.dtype, schedule="1f1b")  # fmt: skip
    except DoesNotFit:
        return None
    assert plan.forecast is not None
    costs = [stage_cost(plan, stage) for stage in range(len(plan.stages))]
    each_s = max(cost.forward_s + cost.backward_s for cost in costs)
    return Copy(plan, each_s, plan.forecast.step_s - count * each_s)


def joined(ask: Ask, fleet: Fleet, copies: Sequence[Copy]) -> Iterator[Plan]:
    """The copies as one plan, under every schedule one of them has: a plan has one for all."""
    counts = dealt(copies, ask.micro_batches)
    if not copies or any(many < len(copy.plan.stages) for many, copy in zip(counts, copies, strict=True)):
        return
    (first, count), *others = zip((copy.plan for copy in copies), counts, strict=True)
    replicas = tuple(Replica(plan.stages, many) for plan, many in others)
    for schedule in sorted({copy.plan.schedule for copy in copies}):
        yield forecast(Plan(ask.spec, fleet, first.stages, schedule, count, ask.micro_batch, ask.seq, ask.dtype,
                            replicas=replicas))  # fmt: skip


def dealt(copies: Sequence[Copy], micro_batches: int) -> list[int]:
    """Micro-batches of each copy: the next one goes to the copy that ends first with it."""
    counts = [0] * len(copies)
    for _ in range(micro_batches if copies else 0):
        ends = [copy.fixed_s + (count + 1) * copy.each_s for copy, count in zip(copies, counts, strict=True)]
        counts[ends.index(min(ends))] += 1
    return counts


def _step_s(plan: Plan) -> float:
    assert plan.forecast is not None
    return plan.forecast.step_s


def fits(plan: Plan) -> bool:
    """Whether every card has the memory that the forecast says it needs."""
    assert plan.forecast is not None
    held = zip(seats(plan), plan.forecast.stage_bytes, strict=True)
    return all(size <= plan.fleet.card(seat.card).mem_bytes for seat, size in held)
