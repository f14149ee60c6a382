"""Pipelines whose stages may be cut over several cards of a host: which cards share a stage, and the heads of each.

Every ordered way to part the cards of a small fleet into sets is tried. A set of several cards holds the heads of a
stage in proportion to their speed, in whole groups that share keys and values; all other axes follow (danlu/shares.py).
A unit takes as long as on the card that is last with it, and then as long as its sums (sharing.py). Splits of the
units are searched as for single cards; the best few are forecast whole, with the weights that are handed out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from danlu.errors import BadShares
from danlu.nouns import Card, Fleet, ModelSpec, Plan, Stage
from danlu.plan.candidates import EXACT_CARDS, Ask, Holds, Sums
from danlu.plan.cost import entry_s, unit_costs
from danlu.plan.forecast import forecast
from danlu.plan.ranks.copies import fits, partings
from danlu.plan.ranks.seats import seats
from danlu.plan.ranks.sharing import cut_units, part_of
from danlu.plan.room import hold, levels
from danlu.plan.schedule import depth_of, in_flight
from danlu.plan.splits import SCHEDULES, Row, row_of
from danlu.shares import Share, cut, whole

FINALISTS = 24  # plans that are forecast in full, each the best split of its teams
SLACK = 1.25  # by which what sets of cards exchange at a step's end may change their order
BESIDE = {"fp32": 8}  # bytes of a parameter more than where no card shares any; else MIXED
MIXED = 4

Set = tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Team:
    """Cards that share a stage: the heads of each (none for one card), what they hold, what units cost them."""

    cards: Set
    heads: tuple[int, ...]
    shares: tuple[Share, ...]
    sums: Sums


def best(ask: Ask, fleet: Fleet, most: int) -> Plan | None:
    """The fastest plan, by forecast, with a stage of 2 to `most` cards that fits; None where there is none.

    Cost: a search of splits for every way to part up to EXACT_CARDS cards, of more for a few; FINALISTS forecasts.
    """
    found: list[tuple[float, Plan]] = []
    for row in sorted(_rows(ask, fleet, most), key=lambda row: row.least):
        limit = SLACK * min((seconds for seconds, _ in found), default=np.inf)
        if row.least >= limit:
            break
        if (each := row.best(limit)) is not None:
            found.append(each)
    chosen = sorted(found, key=lambda each: each[0])[:FINALISTS]
    plans = [plan for plan in (forecast(plan) for _, plan in chosen) if fits(plan)]
    return min(plans, key=lambda plan: plan.forecast.step_s if plan.forecast else np.inf, default=None)


def dealt(groups: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """How many of `groups` each card gets so that the last one ends as early as it can, at least one each.

    Exact: with equal groups, taking the earliest finish time again and again is optimal.
    """
    counts = [1] * len(speeds)
    while sum(counts) < groups:
        counts[min(range(len(counts)), key=lambda at: (counts[at] + 1) / speeds[at])] += 1
    return tuple(counts)


def _rows(ask: Ask, fleet: Fleet, most: int) -> Iterator[Row]:
    """All splits of all ways to form teams, one of which has several cards at least."""
    teams: dict[tuple[str, ...], Team | None] = {}
    for sets in _arrangements(ask, fleet, most):
        names = [tuple(card.name for card in each) for each in sets]
        for name, each in zip(names, sets, strict=True):
            if name not in teams:
                teams[name] = _team(ask, fleet, each)
        chosen = [team for name in names if (team := teams[name]) is not None]
        if len(chosen) < len(sets):
            continue
        stages = tuple(Stage(tuple(card.name for card in team.cards), 0, 0, team.heads) for team in chosen)
        for schedule in SCHEDULES if len(sets) > 1 else SCHEDULES[:1]:
            plan = Plan(ask.spec, fleet, stages, schedule, ask.micro_batches, ask.micro_batch, ask.seq, ask.dtype)
            row = row_of(ask, plan, tuple(team.sums for team in chosen), _holds(ask, chosen, schedule))
            if row is not None:
                yield row


def _arrangements(ask: Ask, fleet: Fleet, most: int) -> Iterator[tuple[Set, ...]]:
    """Ordered sets of cards worth trying: those of a set share a host, neighbours are linked, like cards are not
    swapped. Of more than EXACT_CARDS, teams of as many as may be, of cards of like speed."""
    usable = [card for card in fleet.cards if card.health != "quarantined"]
    speed = {card.name: max(card.flops.values()) for card in usable}
    if len(usable) <= EXACT_CARDS:
        some = (part for k in range(2, len(usable) + 1) for part in itertools.combinations(usable, k))
        every = (order for part in some for sets in partings(part) for order in itertools.permutations(sets))
    else:
        ranked = sorted(usable, key=lambda card: (card.host, -speed[card.name]))
        hosts = [list(cards) for _, cards in itertools.groupby(ranked, key=lambda card: card.host)]
        chunks = [tuple(cards[at : at + most]) for cards in hosts for at in range(0, len(cards), most)]
        by_speed = sorted(chunks, key=lambda cards: -sum(speed[card.name] for card in cards))
        every = (tuple(order[:count]) for order in (chunks, by_speed) for count in range(1, len(order) + 1))
    alike = len({(link.latency_s, link.bandwidth) for link in fleet.links}) <= 1
    seen = set()
    for sets in every:
        mark = tuple(tuple(sorted(_kind(card, alike) for card in cards)) for cards in sets)
        if mark not in seen and _possible(ask, fleet, sets, most):
            seen.add(mark)
            yield sets


def _kind(card: Card, alike: bool) -> str:
    return repr(replace(card, name="")) if alike else card.name


def _possible(ask: Ask, fleet: Fleet, sets: Sequence[Set], most: int) -> bool:
    sizes = [len(cards) for cards in sets]
    if max(sizes) < 2 or max(sizes) > min(most, ask.spec.kv_heads) or len(sets) > ask.longest:
        return False
    inside = [(a, b) for cards in sets for a, b in itertools.combinations(cards, 2)]
    across = [(a, b) for one, two in itertools.pairwise(sets) for a in one for b in two]
    return all(a.host == b.host for a, b in inside) and all(fleet.link(a.name, b.name) for a, b in inside + across)


def _team(ask: Ask, fleet: Fleet, cards: Set) -> Team | None:
    """Cards as a team; None where the model's axes do not give each of them a part."""
    spec = ask.spec
    if len(cards) == 1:
        return Team(cards, (), (whole(spec),), Sums(ask, cards[0]))
    heads = tuple(spec.heads // spec.kv_heads * n for n in dealt(spec.kv_heads, [_speed(ask, card) for card in cards]))
    try:
        shares = cut(spec, heads)
    except BadShares:
        return None
    stage = Stage(tuple(card.name for card in cards), 0, len(spec.units), heads)
    plan = Plan(spec, fleet, (stage,), "1f1b", ask.micro_batches, ask.micro_batch, ask.seq, ask.dtype)
    entries = [entry_s(spec, card, ask.micro_batch, ask.seq, ask.dtype) for card in cards]
    start, attends = max(a for a, _ in entries), max(a + b for a, b in entries)
    slowest = min(cards, key=lambda card: card.cores)
    sums = Sums(ask, slowest, cut_units(plan, seats(plan)), (start, attends - start))
    return Team(cards, heads, shares, sums)


def _speed(ask: Ask, card: Card) -> float:
    """Layers a second."""
    each = unit_costs(ask.spec, card, ask.micro_batch, ask.seq, ask.dtype)
    per_layer = each[1 : 1 + len(ask.spec.recipe)]
    return 1.0 / sum(cost.forward_s + cost.backward_s for cost in per_layer)


def _holds(ask: Ask, teams: Sequence[Team], schedule: str) -> tuple[Holds, ...]:
    flights = in_flight(len(teams), ask.micro_batches, depth_of(schedule))
    beside = BESIDE.get(ask.dtype, MIXED)
    return tuple(
        hold(np.min([levels(replace(ask, spec=_part(ask.spec, share)), card.mem_bytes, flight, beside)
                     for card, share in zip(team.cards, team.shares, strict=True)], axis=0))
        for team, flight in zip(teams, flights, strict=True)
    )  # fmt: skip


def _part(spec: ModelSpec, share: Share) -> ModelSpec:
    """What a card of a team holds, without the mark of a cut (`part_of`), which would count as a bias."""
    return replace(part_of(spec, share), out_bias=spec.out_bias)
