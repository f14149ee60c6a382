"""What experts spread over pipelines cost: seconds of computing others' tokens, of sending them, and bytes kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, Card, ModelSpec, Plan, kept_as
from danlu.plan.cost import UnitCost, unit_costs
from danlu.plan.operators import fused_experts
from danlu.plan.ranks.cells import share_of
from danlu.plan.ranks.parts import deals, parts
from danlu.plan.ranks.seats import Seat, seats
from danlu.plan.ranks.spread import lanes


def dealt(plan: Plan, seat: Seat) -> float:
    """Tokens that a card's experts compute, over those that its pipeline sends to any: as tokens spread evenly."""
    if not plan.model.experts:
        return 1.0
    known, cut = deals(plan), parts(plan)
    group = known[seat.replica].group
    tokens = sum(part.tokens for part, deal in zip(cut, known, strict=True) if deal.group == group)
    held = share_of(plan, seat.replica, seat.stage, seat.part).experts
    return (held[1] - held[0]) / plan.model.experts * tokens / cut[seat.replica].tokens


def with_dealt(
    costs: Sequence[UnitCost], spec: ModelSpec, card: Card, batch: int, tokens: int, dtype: str, much: float
) -> tuple[UnitCost, ...]:
    """Costs of units on a card whose experts compute `much` times as many tokens; the shared expert's stay."""
    if much == 1.0 or not spec.experts:
        return tuple(costs)
    routed = unit_costs(replace(spec, shared_ffn=0), card, batch, tokens, dtype) if spec.shared_ffn else costs
    more = much - 1.0
    return tuple(
        replace(cost, forward_s=cost.forward_s + more * each.forward_s, weight_s=cost.weight_s + more * each.weight_s,
                backward_s=cost.backward_s + more * each.backward_s) if recipe.kind_of(unit) == "moe" else cost
        for cost, each, unit in zip(costs, routed, spec.units, strict=True)
    )  # fmt: skip


def sent_s(plan: Plan, mine: Sequence[Seat]) -> float:
    """Seconds that tokens of one layer and what came of them are on their way, one way of a pass."""
    every, found = seats(plan), [0.0]
    for seat in mine:
        for lane in lanes(plan, seat):
            link = plan.fleet.link(every[lane.sender].card, every[lane.receiver].card)
            if link is not None:
                rows = lane.tokens * plan.model.experts_used * (lane.stop - lane.start) / plan.model.experts
                found.append(link.seconds(rows * plan.model.hidden * DTYPE_BYTES[kept_as(plan.dtype)]))
    return 2 * max(found)


def kept_of_guests(plan: Plan, seat: Seat, spec: ModelSpec, in_flight: int) -> int:
    """Bytes that a card keeps for its backwards of others' tokens beyond those of as many of its own; below 0 if fewer.

    Of a token in an expert: its row, gate and up; where cards share experts' columns all that the plain MLP keeps.
    """
    stage = plan.pipelines[seat.replica].stages[seat.stage]
    layers = sum(recipe.kind_of(unit) == "moe" for unit in spec.units[stage.start : stage.stop])
    pairs = plan.micro_batch * parts(plan)[seat.replica].tokens * spec.experts_used
    inside = spec.hidden + 2 * spec.ffn if fused_experts(spec) else 2 * spec.hidden + 4 * spec.ffn
    each = inside * DTYPE_BYTES[kept_as(plan.dtype)]
    known = deals(plan)[seat.replica]
    spread = known.stop - known.start < spec.experts
    return int(layers * in_flight * (dealt(plan, seat) - 1.0) * pairs * each) if layers and spread else 0
