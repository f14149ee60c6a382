"""What a part of every sequence costs its cards beside that of as many tokens by themselves: seconds and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, Card, ModelSpec, Plan, kept_as
from danlu.plan import operators
from danlu.plan.cost import Rates, UnitCost, unit_costs
from danlu.plan.events import StageCost
from danlu.plan.operator import SWAPPED, Operator, flat, glue
from danlu.plan.pauses import Pauses
from danlu.plan.ranks.context import pieces
from danlu.plan.ranks.parts import Part, deals, parts
from danlu.plan.ranks.seats import Seat, seats
from danlu.plan.ranks.spread_cost import SWAPS, sent_s


def costs_of_part(plan: Plan, seat: Seat, spec: ModelSpec) -> tuple[UnitCost, ...]:
    """Of every unit on a seat's card, for the tokens of its part; `spec` has the axes that the card holds."""
    return part_costs(spec, plan.fleet.card(seat.card), plan.micro_batch, parts(plan)[seat.replica], plan.dtype,
                      plan.seq)  # fmt: skip


def part_costs(spec: ModelSpec, card: Card, batch: int, own: Part, dtype: str, seq: int) -> tuple[UnitCost, ...]:
    """Of every unit on a card, for a part of each of `batch` sequences of `seq` tokens."""
    costs = unit_costs(spec, card, batch, own.tokens, dtype)
    if own.tokens == seq:
        return costs
    rates = Rates(card, dtype)
    more, met = attention_s(spec, rates, batch, own), [rates.seconds(each) for each in _met(spec, batch, own)]
    forward, backward = (a + b for a, b in zip(more, met, strict=True))
    return tuple(
        replace(cost, forward_s=cost.forward_s + forward, backward_s=cost.backward_s + backward)
        if recipe.kind_of(unit) in recipe.ATTENDS else cost
        for cost, unit in zip(costs, spec.units, strict=True)
    )  # fmt: skip


def attention_s(spec: ModelSpec, rates: Rates, batch: int, own: Part) -> tuple[float, float]:
    """Seconds that attention over all keys of a part takes more than that over its own, forward and backward."""
    keys = own.stop - first_key(spec, own)
    if keys == own.tokens:
        return 0.0, 0.0
    alone, whole = (
        [rates.seconds((each,)) for each in operators.attention(spec, batch, own.tokens, count)]
        for count in (own.tokens, keys)
    )  # fmt: skip
    return max(0.0, whole[0] - alone[0]), max(0.0, whole[1] - alone[1])


def _met(spec: ModelSpec, batch: int, own: Part) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """What a layer's meeting of parts takes of a card, forward and backward: keys and values of all laid together, the
    gradient of its own copied to be added to, and calls around a message.
    """
    each = 2 * batch * spec.kv_heads * spec.head_dim
    keys = own.stop - first_key(spec, own)
    laid = tuple(flat("copy", each * rows, 2) for rows in (own.tokens, keys))
    called = Operator("call", (), 1, 0, SWAPPED)
    return (*laid, glue("part", 0), called), (*laid, glue("part", 1), called)


def first_key(spec: ModelSpec, own: Part) -> int:
    """The first token of a sequence that a part's attention sees."""
    return 0 if spec.window is None else max(0, own.start - spec.window + 1)


def following(
    plan: Plan, mine: Sequence[Seat], costs: Sequence[StageCost], inside: Sequence[tuple[float, float]]
) -> StageCost:
    """Of one stage of pipelines in step. Those that share experts wait for tokens twice a layer and pass: all begin a
    layer's experts with the last of them, and all go on with the last, so that the slowest around and inside add up.

    inside  seconds of experts in each of `costs`, forward and backward

    Parts of a sequence follow each other, a message behind: a part begins a layer when the part before has sent what it
    needs of it. Parts that are as fast as each other so meet one message late, once a pass; a message that takes longer
    than a layer is waited for at every one.
    """
    later = {name: max(getattr(cost, name) for cost in costs) for name in StageCost.__slots__}
    stage = plan.pipelines[mine[0].replica].stages[mine[0].stage]
    passes = 2 if stage.recompute == "full" else 1
    within = [(ahead, behind + (passes - 1) * ahead) for ahead, behind in inside]
    for at, name in enumerate(("forward_s", "backward_s")):
        around = (getattr(cost, name) - each[at] for cost, each in zip(costs, within, strict=True))
        later[name] = max(around) + max(each[at] for each in within)
    kinds = [recipe.kind_of(unit) for unit in plan.model.units[stage.start : stage.stop]]
    layers = sum(kind in recipe.ATTENDS for kind in kinds)
    link, tokens = max(_message_s(plan, seat) for seat in mine), kinds.count("moe") * sent_s(plan, mine)
    behind = link if layers else 0.0
    pauses = Pauses(min((plan.fleet.card(seat.card) for seat in mine), key=lambda card: card.cores))
    ahead, back = (_meetings(plan, mine[0], kinds, way) for way in (0, 1))
    later["forward_s"] += pauses.met("wake", later["forward_s"], ahead)
    later["backward_s"] += pauses.met("wake_back", later["backward_s"], back + (passes - 1) * ahead)
    later["forward_s"] = behind + max(later["forward_s"] + tokens, link * layers)
    later["backward_s"] = behind * passes + max(later["backward_s"] + passes * tokens, link * layers * passes)
    return StageCost(**later)


def _meetings(plan: Plan, seat: Seat, kinds: Sequence[str], way: int) -> int:
    """How often units of these kinds wait for others in one pass: parts for keys and values, experts for tokens."""
    cut, known = parts(plan)[seat.replica].tokens < plan.seq, deals(plan)[seat.replica]
    spread = known.stop - known.start < plan.model.experts
    return cut * sum(kind in recipe.ATTENDS for kind in kinds) + spread * SWAPS[way] * kinds.count("moe")


def _message_s(plan: Plan, seat: Seat) -> float:
    """The longest message of keys and values that a card hears from another part."""
    every = seats(plan)
    size = 2 * plan.model.head_dim * plan.micro_batch * DTYPE_BYTES[kept_as(plan.dtype)]
    reach = None if plan.model.window is None else plan.model.window - 1
    found = [0.0]
    for piece in pieces(plan, seat, "kv_heads", reach):
        link = plan.fleet.link(every[piece.sender].card, every[piece.receiver].card)
        if piece.receiver == seat.rank and link is not None:
            count = (piece.rows[1] - piece.rows[0]) * (piece.columns[1] - piece.columns[0])
            found.append(link.seconds(size * count))
    return max(found)


def kept_of_others(plan: Plan, seat: Seat, spec: ModelSpec, in_flight: int) -> int:
    """Bytes that a card keeps for its backwards of keys and values of other parts, and what masks them."""
    own = parts(plan)[seat.replica]
    if own.tokens == plan.seq:
        return 0
    stage = plan.pipelines[seat.replica].stages[seat.stage]
    layers = sum(recipe.kind_of(unit) in recipe.ATTENDS for unit in spec.units[stage.start : stage.stop])
    keys = own.stop - first_key(spec, own)
    # Where attention runs fused (a local filter's does not), its own keys lie in one tensor with the queries, and are
    # kept twice.
    rows = keys if operators.fused(spec) and "attn" in spec.recipe else keys - own.tokens
    each = 2 * rows * plan.micro_batch * spec.kv_heads * spec.head_dim * DTYPE_BYTES[kept_as(plan.dtype)]
    return int(layers * in_flight * each) + (own.tokens * keys if layers and own.start else 0)
