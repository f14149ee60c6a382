"""What a plan should cost: the one door from a Plan to its Forecast and its timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from danlu import recipe
from danlu.nouns import Forecast, Link, Plan, Stage
from danlu.plan.cost import entry_s, tied_s, unit_costs
from danlu.plan.events import Moved, StageCost, Timeline, compiled, simulate, steady
from danlu.plan.memory import copied_params, stage_bytes
from danlu.plan.pauses import Pauses
from danlu.plan.ranks.parts import parts
from danlu.plan.ranks.seats import instructions_of, shared
from danlu.plan.ranks.sharing import between, exchange, nodes, rank_bytes, stage_costs
from danlu.plan.schedule import Instruction, held_at_once, instructions, orders

SLIP = 0.06  # by which a stage may be slower than its forecast; plans are compared by their mean over such slips


def forecast(plan: Plan) -> Plan:
    """The plan with its forecast filled in. Raises UnknownSchedule, BadShares."""
    found = timeline(plan)
    if shared(plan):
        by_rank = {seat.rank: found.busy_s[at] for at, mine in enumerate(nodes(plan)) for seat in mine}
        busy = tuple(by_rank[rank] for rank in range(len(by_rank)))
        bytes_ = rank_bytes(plan, exchange(plan))
    else:
        busy, bytes_ = found.busy_s, tuple(peak_bytes(plan, stage) for stage in range(len(plan.stages)))
    return replace(plan, forecast=Forecast(found.step_s, plan.sequences * plan.seq / found.step_s, busy, bytes_))


def summed_alone(plan: Plan) -> float:
    """Tokens/s of the plan's cards added up, each with the whole model to itself: what no pipeline over them exceeds.

    By forecast, with the plan's micro-batches; whether the model fits a card is not asked.
    """
    whole, count = len(plan.model.units), plan.sequences // plan.micro_batch
    names = [name for each in plan.pipelines for stage in each.stages for name in stage.cards]
    plans = (
        replace(
            plan,
            stages=(Stage((name,), 0, whole),),
            schedule="1f1b",
            micro_batches=count,
            orders=(),
            replicas=(),
            context=0,
            experts=0,
        )
        for name in names
    )
    return sum(plan.sequences * plan.seq / timeline(each).step_s for each in plans)


def timeline(plan: Plan) -> Timeline:
    """One step of the plan, simulated; of a plan that shares, one span list for each stage of each copy."""
    return simulate(*charged(plan))


def slipped(plan: Plan) -> tuple[float, float]:
    """Seconds of a plan's step, and their mean with those when one stage after the other is SLIP slower than believed.

    An order made for exact times may be brittle: in one case the first of the ended ones took 4.5 s for 3.9.
    """
    lists, costs, joined, moved = charged(plan)
    factors = 1.0 + SLIP * np.eye(len(costs) + 1)[1:]
    loose = [StageCost(*(factor * getattr(cost, each.name) for each in fields(cost)))
             for cost, factor in zip(costs, factors, strict=True)]  # fmt: skip
    steps = steady(compiled(lists, moved), loose, joined)
    return float(steps[0]), float(np.mean(steps))


Charged = tuple[Sequence[Sequence[Instruction]], tuple[StageCost, ...], dict[tuple[int, int], Link], Moved]


def charged(plan: Plan) -> Charged:
    """What a step is simulated from: lists and costs of every stage, links between them, bytes they exchange beside.

    Of a plan that shares, stages are counted over all copies, those that go in step together.
    """
    if not shared(plan):
        costs = tuple(stage_cost(plan, stage) for stage in range(len(plan.stages)))
        return instructions(plan), costs, links(plan), {}
    lists: list[tuple[Instruction, ...]] = []
    moved = exchange(plan)
    for mine in nodes(plan):
        base = len(lists) - mine[0].stage
        most = max(mine, key=lambda seat: parts(plan)[seat.replica].tokens)  # the longest messages
        lists.append(tuple(
            replace(each, peer=each.peer + base if each.peer >= 0 else -1) for each in instructions_of(plan, most)
        ))  # fmt: skip
    joined, sizes = between(plan, moved)
    return lists, stage_costs(plan, moved), joined, sizes


def stage_cost(plan: Plan, index: int) -> StageCost:
    """Seconds of each kind of instruction of one stage on its card."""
    stage, spec = plan.stages[index], plan.model
    card = plan.fleet.card(stage.cards[0])
    each = unit_costs(spec, card, plan.micro_batch, plan.seq, plan.dtype)
    start, attention = entry_s(spec, card, plan.micro_batch, plan.seq, plan.dtype)
    attends = any(recipe.kind_of(unit) in recipe.ATTENDS for unit in spec.units[stage.start : stage.stop])
    held = each[stage.start : stage.stop]
    if copied_params(spec, stage.start, stage.stop):
        held += (replace(each[0], forward_s=0.0, backward_s=0.0, weight_s=0.0, split_s=0.0),)
    forward = start + attends * attention + sum(cost.forward_s for cost in held)
    tight = StageCost(
        forward_s=forward,
        backward_s=sum(cost.backward_s for cost in held) + (forward if stage.recompute == "full" else 0.0),
        norm_s=sum(cost.norm_s for cost in held),
        tied_s=tied_s(spec, card, plan.dtype),
        step_s=sum(cost.optimizer_s for cost in held),
        weight_s=sum(cost.weight_s for cost in held),
        split_s=sum(cost.split_s for cost in held),
    )
    return Pauses(card).paid(tight)


def links(plan: Plan) -> dict[tuple[int, int], Link]:
    """Links between the plan's stages, by (lower, higher) stage."""
    found = {}
    for a, here in enumerate(plan.stages):
        for b, there in enumerate(plan.stages[a + 1 :], a + 1):
            link = plan.fleet.link(here.cards[0], there.cards[0])
            if link is not None:
                found[a, b] = link
    return found


def room(plan: Plan, index: int) -> int:
    """Most micro-batches in flight that one stage's card has the memory for; of those made again one is kept whole."""
    stage = plan.stages[index]
    again = 1 if stage.recompute == "full" else None
    none, one = (
        stage_bytes(plan.model, stage.start, stage.stop, in_flight=flight, micro_batch=plan.micro_batch,
                    seq=plan.seq, dtype=plan.dtype, recomputed=again).total
        for flight in (0, 1)
    )  # fmt: skip
    return (plan.fleet.card(stage.cards[0]).mem_bytes - none) // max(1, one - none)


def peak_bytes(plan: Plan, index: int) -> int:
    """Most bytes one stage's card holds during a step."""
    stage = plan.stages[index]
    order = orders(plan)[index]
    again = held_at_once(order.replace("F", "").replace("I", "F")) or 1 if stage.recompute == "full" else None
    return stage_bytes(plan.model, stage.start, stage.stop, in_flight=held_at_once(order), recomputed=again,
                       micro_batch=plan.micro_batch, seq=plan.seq, dtype=plan.dtype).total  # fmt: skip
