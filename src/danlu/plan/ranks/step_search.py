"""The best plan of pipelines that go in step: parts of the same sequences, or copies that share experts, or both.

Each is a pipeline over cards of its own, cut at the same units, since they meet in every layer. Cards are placed by
every permutation while they are few, by speed when they are many; plan/ranks/step_split.py shares the work out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from danlu.errors import BadContext, DoesNotFit
from danlu.nouns import Card, Fleet, Plan, Replica, Stage
from danlu.plan.candidates import Ask
from danlu.plan.forecast import forecast
from danlu.plan.ranks.seats import seats
from danlu.plan.ranks.step_split import Grid, Split, Splitter

EVERY = 4  # cards up to which every placement is looked at
FINALISTS = 3  # placements that are forecast in full
DEPTHS = ("1f1b", "1f1b:2", "1f1b:3")


@dataclass(frozen=True, slots=True)
class Ways:
    """What is wanted: `count` pipelines in step.

    parts   they are parts of the same sequences; else copies, each with the same number of micro-batches
    spread  each layer's experts are shared out among them
    """

    count: int
    parts: bool = True
    spread: bool = False


def best(ask: Ask, fleet: Fleet, ways: Ways) -> Plan:
    """The plan with the shortest forecast step; every card has a place.

    Raises BadContext when cards, tokens, experts or micro-batches do not allow it, DoesNotFit when a card of every plan
    that was looked at is full.
    """
    cards = [card for card in fleet.cards if card.health != "quarantined"]
    _check(ask, cards, ways)
    stages, splitter = len(cards) // ways.count, Splitter(ask, parts=ways.parts, spread=ways.spread)
    tried = sorted((splitter.split(grid) for grid in _grids(cards, ways.count, stages)), key=lambda each: each.seconds)
    schedules = DEPTHS[:1] if stages == 1 else DEPTHS
    plans = [forecast(_plan(ask, fleet, each, name)) for each in tried[:FINALISTS] for name in schedules]
    plans.sort(key=lambda plan: plan.forecast.step_s if plan.forecast else 0.0)
    return next((plan for plan in plans if not _full(plan)), None) or _refuse(plans[0])


def _check(ask: Ask, cards: Sequence[Card], ways: Ways) -> None:
    """Raise BadContext where so many pipelines cannot go in step."""
    each = ask.micro_batches if ways.parts else ask.micro_batches // ways.count
    longest, divide = min(len(ask.spec.units), each), [n for n in range(1, len(cards) + 1) if len(cards) % n == 0]
    limits = [ask.seq] * ways.parts + [ask.spec.experts] * ways.spread
    key = "plan.context" if ways.parts else "plan.copies"
    if not ways.parts and ask.micro_batches % ways.count:
        why = f"{ask.micro_batches} micro-batches do not part evenly over copies that go in step"
        raise _bad(ask, cards, ways, why, f"plan.micro_batches: {ways.count * max(1, each)}")
    if ways.count not in divide or len(cards) // ways.count > longest or ways.count > min(limits):
        fits = [n for n in divide if n <= min(limits) and len(cards) // n <= longest]
        why = (
            f"each takes as many cards as the others, one for each stage: {len(cards) / ways.count:.3g} here; of this "
            f"model and {each} micro-batches a pipeline has at most {longest} stages, and {min(limits)} may share"
        )
        fix = f"{key}: {' or '.join(map(str, fits))}" if fits else "more micro-batches, or fewer cards"
        raise _bad(ask, cards, ways, why, fix)


def _bad(ask: Ask, cards: Sequence[Card], ways: Ways, why: str, fix: str) -> BadContext:
    what = f"parts of sequences of {ask.seq} tokens" if ways.parts else f"copies that share {ask.spec.experts} experts"
    return BadContext(f"{ways.count} {what} have no place on {len(cards)} cards",
                      where="plan.context" if ways.parts else "plan.copies", why=why, fix=fix)  # fmt: skip


def _grids(cards: Sequence[Card], count: int, stages: int) -> Iterator[Grid]:
    """Placements: all of few cards; of many, pipelines by speed, or like cards in one stage, either end first."""
    if len(cards) <= EVERY:
        for order in itertools.permutations(cards):
            yield tuple(tuple(order[at * stages : (at + 1) * stages]) for at in range(count))
        return
    fast = sorted(cards, key=lambda card: -max(card.flops.values()))
    for turned in (fast, fast[::-1]):
        yield tuple(tuple(turned[at * stages : (at + 1) * stages]) for at in range(count))
        yield tuple(tuple(turned[at::count]) for at in range(count))


def _plan(ask: Ask, fleet: Fleet, split: Split, schedule: str) -> Plan:
    """The plan of a split."""
    starts, shares = (0, *split.cuts), split.shares
    count = len(split.grid)
    batches = ask.micro_batches if shares.tokens else ask.micro_batches // count
    held = zip(split.grid, shares.tokens or (0,) * count, shares.experts or (0,) * count, strict=True)
    pipelines = [
        Replica(tuple(Stage((card.name,), start, stop)
                      for card, start, stop in zip(row, starts, split.cuts, strict=False)),
                batches, context=tokens, experts=experts)
        for row, tokens, experts in held
    ]  # fmt: skip
    first, *rest = pipelines
    return Plan(ask.spec, fleet, first.stages, schedule, batches, ask.micro_batch, ask.seq, ask.dtype,
                replicas=tuple(rest), context=first.context, experts=first.experts)  # fmt: skip


def _full(plan: Plan) -> list[tuple[int, str]]:
    """Bytes that a plan wants beyond a card's memory, and which; the worst first."""
    assert plan.forecast is not None
    wanted = zip(seats(plan), plan.forecast.stage_bytes, strict=True)
    over = [(size - plan.fleet.card(seat.card).mem_bytes, seat.card) for seat, size in wanted]
    return sorted((each for each in over if each[0] > 0), reverse=True)


def _refuse(plan: Plan) -> Plan:
    (size, card), *_ = _full(plan)
    raise DoesNotFit(
        f"the model does not fit {len(seats(plan))} cards with pipelines in step",
        where=card,
        why=f"the fastest plan wants {size / 2**30:.2f} GiB more than {card} has",
        fix="a smaller --plan.micro_batch, more cards, or other memory: --plan.context 1 looks at more plans",
    )
