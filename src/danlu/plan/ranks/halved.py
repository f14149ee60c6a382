"""Zero-bubble orders for plans whose cards share layers, sequences or copies of the model.

Backwards come in halves in an order made for the stages' own times (plan/order.py). Each copy gets its own; pipelines
that go in step meet in every layer, so they get one order, made for the last of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from danlu.nouns import Plan
from danlu.plan.events import Links, StageCost
from danlu.plan.forecast import charged, forecast, slipped
from danlu.plan.order import listed, rules
from danlu.plan.ranks.parts import in_step, parts
from danlu.plan.ranks.seats import alone, seats
from danlu.plan.ranks.sharing import Exchange, exchange, nodes, rank_bytes
from danlu.plan.schedule import message_bytes, order

RUNNERS = 3  # orders of every copy, the first ones by simulated time, that are forecast together

Orders = tuple[str, ...]


def halved(plan: Plan) -> Plan | None:
    """The plan under zero-bubble orders that fit its cards; None where no pipeline has two stages or no order fits.

    Of the best RUNNERS the one with the least mean of steps in which some stage is slower than believed.
    """
    if all(len(each.stages) == 1 for each in plan.pipelines):
        return None
    moved, known = exchange(plan), in_step(plan)
    _, costs, joined, _ = charged(plan)
    every = _groups(plan, costs, joined, moved)
    made = []
    for runner in range(max(map(len, every))):
        chosen = [each[min(runner, len(each) - 1)] for each in every]
        first, *rest = (replace(each, orders=chosen[known[at]]) for at, each in enumerate(plan.pipelines))
        one = replace(plan, schedule="zb", orders=first.orders, replicas=tuple(rest), forecast=None)
        sizes = zip(seats(plan), rank_bytes(one, moved), strict=True)
        if all(size <= plan.fleet.card(seat.card).mem_bytes for seat, size in sizes):
            made.append(one)
    return forecast(min(made, key=lambda one: slipped(one)[1])) if made else None


def _groups(plan: Plan, costs: tuple[StageCost, ...], joined: Links, moved: Exchange) -> list[list[Orders]]:
    """Of pipelines that go in step, one group after the other: the orders worth a forecast."""
    known, room = in_step(plan), _room(plan, moved)
    at = defaultdict[int, list[int]](list)
    for node, held in enumerate(nodes(plan)):
        at[known[held[0].replica]].append(node)
    found = []
    for group, mine in sorted(at.items()):
        links = {(a - mine[0], b - mine[0]): link for (a, b), link in joined.items() if a in mine and b in mine}
        number = max((n for n, each in enumerate(known) if each == group), key=lambda n: parts(plan)[n].tokens)
        pipeline, stages = alone(plan, number), [costs[node] for node in mine]
        size, count = message_bytes(pipeline), pipeline.micro_batches
        tried = rules(stages, links, size, count, [room[node] for node in mine])
        made = sorted({listed(stages, links, size, count, rule) for rule in tried})
        found.append([letters for _, letters in made[:RUNNERS]])
    return found


def _room(plan: Plan, moved: Exchange) -> list[int]:
    """Of every stage, the most micro-batches in flight that all of its cards have the memory for."""
    one, two = (rank_bytes(_holding(plan, flight), moved) for flight in (1, 2))
    room = {
        seat.rank: 1
        + (plan.fleet.card(seat.card).mem_bytes - one[seat.rank]) // max(1, two[seat.rank] - one[seat.rank])
        for seat in seats(plan)
    }
    return [min(room[seat.rank] for seat in mine) for mine in nodes(plan)]


def _holding(plan: Plan, flight: int) -> Plan:
    """The plan with every stage holding so many micro-batches, or all where there are fewer."""
    first, *rest = (
        replace(each, orders=(order(min(flight, each.micro_batches), each.micro_batches),) * len(each.stages))
        for each in plan.pipelines
    )
    return replace(plan, schedule="zb", orders=first.orders, replicas=tuple(rest))
