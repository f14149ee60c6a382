"""What experts spread over pipelines cost: seconds of computing others' tokens, of sending them, and bytes kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, Card, ModelSpec, Plan, kept_as
from danlu.plan import operators
from danlu.plan.cost import Rates, UnitCost, emulates, rounds
from danlu.plan.operator import SWAPPED, Operator, glue
from danlu.plan.operators import fused_experts
from danlu.plan.ranks.cells import share_of
from danlu.plan.ranks.parts import deals, parts
from danlu.plan.ranks.seats import Seat, seats
from danlu.plan.ranks.spread import lanes

SWAPS = (3, 2)  # messages of a layer: counts, tokens and what came of them; their gradients


@dataclass(frozen=True, slots=True)
class Load:
    """Of every layer, a card computes `held` experts for `tokens` of all pipelines, which are spread evenly over all.

    own  of these tokens are those of its pipeline's part of a sequence
    """

    held: int
    tokens: int
    own: int


def load_of(plan: Plan, seat: Seat) -> Load:
    """A seat's."""
    known, cut = deals(plan), parts(plan)
    group = known[seat.replica].group
    tokens = sum(part.tokens for part, deal in zip(cut, known, strict=True) if deal.group == group)
    held = share_of(plan, seat.replica, seat.stage, seat.part).experts
    return Load(held[1] - held[0], tokens, cut[seat.replica].tokens)


def dealt(plan: Plan, seat: Seat) -> float:
    """Tokens that a card's experts compute, over those that its pipeline sends to any: as tokens spread evenly."""
    if not plan.model.experts:
        return 1.0
    load = load_of(plan, seat)
    return load.held / plan.model.experts * load.tokens / load.own


def with_dealt(
    costs: Sequence[UnitCost], spec: ModelSpec, card: Card, batch: int, dtype: str, load: Load
) -> tuple[UnitCost, ...]:
    """Costs of units, those of experts of the own tokens, on a card that computes only its experts, for all tokens."""
    if not spec.experts or load == Load(spec.experts, load.own, load.own):
        return tuple(costs)
    whole = inside(spec, card, batch, dtype, Load(spec.experts, load.own, load.own))
    mine, around = inside(spec, card, batch, dtype, load), posting(card, dtype)
    return tuple(
        replace(cost, forward_s=cost.forward_s + mine.forward_s - whole.forward_s + around[0],
                weight_s=cost.weight_s + mine.weight_s - whole.weight_s,
                backward_s=cost.backward_s + mine.backward_s - whole.backward_s + around[1])
        if recipe.kind_of(unit) == "moe" else cost for cost, unit in zip(costs, spec.units, strict=True)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inside:
    """Seconds of a layer's experts alone; weight_s is a part of backward_s."""

    forward_s: float
    backward_s: float
    weight_s: float


def inside(spec: ModelSpec, card: Card, batch: int, dtype: str, load: Load) -> Inside:
    """What a layer's experts cost a card, all else of the layer left out."""
    pairs = max(1, round(batch * load.tokens * spec.experts_used * load.held / spec.experts))
    rates, ops = Rates(card, dtype), operators.inside(spec, load.held, pairs)
    parts: Sequence[Sequence[Operator]] = (*ops, operators.weights(ops[1]))
    if rounds(card, dtype):
        parts = tuple(operators.rounded(each, emulates(card)) for each in parts)
    return Inside(*(rates.seconds(each) for each in parts))


def posting(card: Card, dtype: str) -> tuple[float, float]:
    """Seconds of calling that sending tokens and taking others' costs a layer, forward and backward."""
    ahead, behind = (
        Rates(card, dtype).seconds((glue("posted", back), Operator("call", (), 1, 0, SWAPPED * count)))
        for back, count in enumerate(SWAPS)
    )
    return ahead, behind


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
    row = spec.hidden + 2 * spec.ffn if fused_experts(spec) else 2 * spec.hidden + 4 * spec.ffn
    each = row * DTYPE_BYTES[kept_as(plan.dtype)]
    known = deals(plan)[seat.replica]
    spread = known.stop - known.start < spec.experts
    return int(layers * in_flight * (dealt(plan, seat) - 1.0) * pairs * each) if layers and spread else 0
