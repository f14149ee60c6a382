"""Copies of the model: which cards form which copy, and how many micro-batches of a step each of them takes.

Every way to part the cards of a small fleet is tried, each part as the best pipeline over its cards (plan/splits.py),
or as the best of those that share stages (tensor_search.py) or sequences (step_search.py) where they may;
micro-batches go one by one to the copy that would end first. What copies pay for summing gradients is in the forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from danlu.errors import BadContext, DoesNotFit, ShortBatch
from danlu.nouns import Card, Fleet, Plan
from danlu.plan import splits
from danlu.plan.candidates import EXACT_CARDS, Ask
from danlu.plan.forecast import charged, forecast
from danlu.plan.ranks.seats import seats

Block = tuple[Card, ...]
Search = Callable[[Ask, Fleet], Plan]


@dataclass(frozen=True, slots=True)
class Copy:
    """One part of the cards as a pipeline: what a micro-batch adds to its step, and what the step takes beside."""

    plan: Plan
    each_s: float
    fixed_s: float


def plain(ask: Ask, fleet: Fleet) -> Plan:
    """The best pipeline under 1F1B, a card for each stage. Raises DoesNotFit, ShortBatch."""
    return splits.search(ask.spec, fleet, micro_batch=ask.micro_batch, micro_batches=ask.micro_batches, seq=ask.seq,
                         dtype=ask.dtype, schedule="1f1b")  # fmt: skip


def best(ask: Ask, fleet: Fleet, most: int, pipeline: Search = plain, least: int = 1) -> Plan | None:
    """The fastest plan of two to `most` copies that fits its cards, by forecast; None where there is none.

    pipeline  the best plan for one copy over some cards, under 1F1B; it may share their stages or sequences
    least     cards of a copy, which has a multiple of them
    Of more than EXACT_CARDS cards only copies of `least` cards are looked at.
    Cost: a search for every set of cards that some parting has, and a forecast for every parting and schedule.
    """
    cards = tuple(card for card in fleet.cards if card.health != "quarantined")
    known: dict[tuple[str, ...], Copy | None] = {}
    found: Plan | None = None
    for parts in partings(cards, least):
        if not 2 <= len(parts) <= min(most, ask.micro_batches) or any(len(part) % least for part in parts):
            continue
        names = [tuple(card.name for card in part) for part in parts]
        for part, name in zip(parts, names, strict=True):
            if name not in known:
                known[name] = copy_of(ask, fleet, part, pipeline)
        copies = [copy for name in names if (copy := known[name]) is not None]
        if len(copies) == len(parts):
            plans = filter(fits, joined(ask, fleet, copies))
            found = min((*plans, *([found] if found else [])), key=_step_s, default=None)
    return found


def faster(one: Plan, other: Plan | None) -> Plan:
    """The one with the shorter forecast step; the first where they are equal."""
    return one if other is None else min(one, other, key=_step_s)


def partings(cards: Block, least: int = 1) -> Iterator[tuple[Block, ...]]:
    """Every way to part a few cards into sets; of many, sets of `least` as they stand."""
    if len(cards) > EXACT_CARDS:
        yield tuple(cards[at : at + least] for at in range(0, len(cards), least))
        return
    if not cards:
        yield ()
        return
    first, rest = cards[0], cards[1:]
    for parts in partings(rest):
        yield ((first,), *parts)
        for at, part in enumerate(parts):
            yield (*parts[:at], (first, *part), *parts[at + 1 :])


def copy_of(ask: Ask, fleet: Fleet, part: Block, pipeline: Search = plain) -> Copy | None:
    """The best plan of one copy over some cards, with their part of the micro-batches; None where there is none."""
    speed = {card.name: max(card.flops.values()) for card in fleet.cards}
    share = sum(speed[card.name] for card in part) / sum(speed.values())
    count = max(1, round(ask.micro_batches * share))
    try:
        plan = pipeline(replace(ask, micro_batches=count), replace(fleet, cards=part))
    except (BadContext, DoesNotFit, ShortBatch):
        return None
    assert plan.forecast is not None
    each_s = max(cost.forward_s + cost.backward_s for cost in charged(plan)[1])
    return Copy(plan, each_s, plan.forecast.step_s - count * each_s)


def joined(ask: Ask, fleet: Fleet, copies: Sequence[Copy]) -> Iterator[Plan]:
    """The copies as one plan, under every schedule one of them has: a plan has one for all."""
    counts = dealt(copies, ask.micro_batches)
    if not copies or any(many < len(copy.plan.stages) for many, copy in zip(counts, copies, strict=True)):
        return
    first, *others = (
        replace(each, micro_batches=many)
        for copy, many in zip(copies, counts, strict=True)
        for each in copy.plan.pipelines
    )
    for schedule in sorted({copy.plan.schedule for copy in copies}):
        yield forecast(Plan(ask.spec, fleet, first.stages, schedule, first.micro_batches, ask.micro_batch, ask.seq,
                            ask.dtype, replicas=tuple(others), context=first.context,
                            experts=first.experts))  # fmt: skip


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
