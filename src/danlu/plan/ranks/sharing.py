"""What cards pay for sharing a stage, or copies of the model: seconds and bytes of every rank, and what they exchange.

The cards of a stage meet at every sum inside its units, so they move in lock step: a stage of several cards has one
timeline, on which a unit takes as long as on the card that is last with it, and then as long as its sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, Link, ModelSpec, Plan, kept_as
from danlu.plan import operators
from danlu.plan.cost import Rates, UnitCost, entry_s
from danlu.plan.events import StageCost
from danlu.plan.memory import rounded_bytes, stage_bytes
from danlu.plan.operator import Operator, flat
from danlu.plan.pauses import Pauses
from danlu.plan.ranks.cells import Cell, cells, share_of
from danlu.plan.ranks.context_cost import costs_of_part, following, kept_of_others
from danlu.plan.ranks.parts import in_step, parts
from danlu.plan.ranks.seats import Seat, alone, seats
from danlu.plan.ranks.spread_cost import inside, kept_of_guests, load_of, with_dealt
from danlu.plan.schedule import held_at_once, orders
from danlu.shares import Share

Pairs = Mapping[tuple[int, int], int]  # (from rank, to rank) -> bytes
NORM_BYTES = 16  # norm and loss of a rank
CALLS = 4  # of torch and the wire around one sum over cards


@dataclass(frozen=True, slots=True)
class Exchange:
    """What ranks send each other once a step, and what each does for it; `held` and `owned` are parameters by rank.

    data     bytes of gradients on their way to who updates them;  weights  of updated weights on their way back
    summed   gradients that each rank adds up;  taken  weights that it copies in
    """

    data: Pairs
    weights: Pairs
    held: tuple[int, ...]
    owned: tuple[int, ...]
    summed: tuple[int, ...]
    taken: tuple[int, ...]


def exchange(plan: Plan, found: Sequence[Cell] | None = None) -> Exchange:
    """Of a plan; everything goes in fp32. Raises BadShares."""
    ranks = len(seats(plan))
    data, weights = defaultdict[tuple[int, int], int](int), defaultdict[tuple[int, int], int](int)
    held, owned, summed, taken = ([0] * ranks for _ in range(4))
    for cell in cells(plan) if found is None else found:
        size = prod(cell.shape)
        owned[cell.owner] += size
        summed[cell.owner] += size * len(cell.sources)
        for hold in cell.holders:
            held[hold.rank] += size
        for hold in cell.sources:
            if hold.rank != cell.owner:
                data[hold.rank, cell.owner] += 4 * size
        for rank in {hold.rank for hold in cell.holders} - {cell.owner}:
            weights[cell.owner, rank] += 4 * size
            taken[rank] += size
    return Exchange(dict(data), dict(weights), *map(tuple, (held, owned, summed, taken)))


def stage_costs(plan: Plan, moved: Exchange) -> tuple[StageCost, ...]:
    """Of every stage of every copy, in the order of `nodes`; of pipelines in step, as the last of them."""
    found = []
    for mine in nodes(plan):
        numbers = dict.fromkeys(seat.replica for seat in mine)
        each = [_cost(plan, [seat for seat in mine if seat.replica == number], moved) for number in numbers]
        if len(each) == 1:
            found += each
            continue
        cost = following(plan, mine, each, _inside(plan, mine))
        sent = [_within(plan, mine, pairs) for pairs in (moved.data, moved.weights)]
        told = _within(plan, mine, {(a.rank, b.rank): NORM_BYTES for a, b in permutations(mine, 2)})
        found.append(replace(cost, data_s=cost.data_s + sent[0], norm_s=cost.norm_s + told,
                             weights_s=max(one.weights_s for one in each) + sent[1]))  # fmt: skip
    return tuple(found)


def nodes(plan: Plan) -> tuple[tuple[Seat, ...], ...]:
    """The seats of every stage of every copy of the model: those that go in step."""
    found, known = defaultdict[tuple[int, int], list[Seat]](list), in_step(plan)
    for seat in seats(plan):
        found[known[seat.replica], seat.stage].append(seat)
    return tuple(map(tuple, found.values()))


def _cost(plan: Plan, mine: Sequence[Seat], moved: Exchange) -> StageCost:
    stage, spec = plan.pipelines[mine[0].replica].stages[mine[0].stage], plan.model
    units = spec.units[stage.start : stage.stop]
    each = [_units(plan, seat) for seat in mine]
    slowest = [_later([costs[at] for costs in each]) for at in range(len(units))]
    tokens = parts(plan)[mine[0].replica].tokens
    entries = [entry_s(spec, plan.fleet.card(seat.card), plan.micro_batch, tokens, plan.dtype) for seat in mine]
    attends = any(recipe.kind_of(unit) in recipe.ATTENDS for unit in units)
    forward, backward = _sums_s(plan, mine, units)
    ends = [_end(plan, seat, moved) for seat in mine]
    forward += sum(cost.forward_s for cost in slowest) + max(a + attends * b for a, b in entries)
    again = forward if stage.recompute == "full" else 0.0
    tight = StageCost(
        forward_s=forward,
        backward_s=sum(cost.backward_s for cost in slowest) + backward + again,
        norm_s=max(end.norm_s for end in ends),
        step_s=max(end.step_s for end in ends),
        weight_s=sum(cost.weight_s for cost in slowest),
        split_s=sum(cost.split_s for cost in slowest),
        data_s=max(end.data_s for end in ends),
        weights_s=max(end.weights_s for end in ends) + _within(plan, mine, moved.weights),
    )
    pauses = Pauses(min((plan.fleet.card(seat.card) for seat in mine), key=lambda card: card.cores))
    ahead, back = (sum(len(way) for way in each) for each in zip(*_ways(plan, mine, units), strict=True))
    return pauses.paid(replace(
        tight, forward_s=tight.forward_s + pauses.met("wake", tight.forward_s, ahead),
        backward_s=tight.backward_s + pauses.met("wake_back", tight.backward_s, back + (ahead if again else 0)),
    ))  # fmt: skip


def _inside(plan: Plan, mine: Sequence[Seat]) -> list[tuple[float, float]]:
    """Of each pipeline, seconds of a stage's experts, forward and backward: of its card that takes longest."""
    found = dict.fromkeys((seat.replica for seat in mine), (0.0, 0.0))
    stage = plan.pipelines[mine[0].replica].stages[mine[0].stage]
    layers = sum(recipe.kind_of(unit) == "moe" for unit in plan.model.units[stage.start : stage.stop])
    for seat in mine if layers and plan.experts else ():
        part = part_of(plan.model, share_of(plan, seat.replica, seat.stage, seat.part))
        each = inside(part, plan.fleet.card(seat.card), plan.micro_batch, plan.dtype, load_of(plan, seat))
        forward, backward = found[seat.replica]
        found[seat.replica] = max(forward, layers * each.forward_s), max(backward, layers * each.backward_s)
    return list(found.values())


def cut_units(plan: Plan, mine: Sequence[Seat]) -> tuple[UnitCost, ...]:
    """What each unit of a stage costs its cards together: as on the card that is last with it, then its sums."""
    stage, spec = plan.pipelines[mine[0].replica].stages[mine[0].stage], plan.model
    each, kinds = [_units(plan, seat) for seat in mine], dict[str, UnitCost]()
    names = [recipe.kind_of(unit) for unit in spec.units[stage.start : stage.stop]]
    for at, name in enumerate(names):
        if name not in kinds:
            forward, backward = _sums_s(plan, mine, (spec.units[stage.start + at],))
            last = _later([costs[at] for costs in each])
            kinds[name] = replace(last, forward_s=last.forward_s + forward, backward_s=last.backward_s + backward)
    return tuple(kinds[name] for name in names)


def _units(plan: Plan, seat: Seat) -> tuple[UnitCost, ...]:
    """What each unit of the stage costs one of its cards."""
    stage = plan.pipelines[seat.replica].stages[seat.stage]
    share = share_of(plan, seat.replica, seat.stage, seat.part)
    part = part_of(plan.model, share)
    costs = with_dealt(costs_of_part(plan, seat, part), part, plan.fleet.card(seat.card), plan.micro_batch,
                       plan.dtype, load_of(plan, seat))  # fmt: skip
    return costs[stage.start : stage.stop]


def part_of(spec: ModelSpec, share: Share) -> ModelSpec:
    """The numbers of the decoder that a share runs, as a cost model wants them: every cut axis as long as its part."""
    if share.cards == 1:
        return spec
    heads, kv_heads, ffn, vocab, shared = (
        stop - start for start, stop in (share.heads, share.kv_heads, share.ffn, share.vocab, share.shared)
    )
    # A bias of the output is only a mark here: attention that is cut does not run fused (operators.fused).
    return replace(spec, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=vocab, shared_ffn=shared, out_bias=True)


def _later(costs: Sequence[UnitCost]) -> UnitCost:
    forward, backward = max(each.forward_s for each in costs), max(each.backward_s for each in costs)
    return replace(costs[0], forward_s=forward, backward_s=backward, weight_s=max(each.weight_s for each in costs),
                   split_s=max(each.split_s for each in costs), norm_s=max(each.norm_s for each in costs),
                   optimizer_s=max(each.optimizer_s for each in costs))  # fmt: skip


def _sums_s(plan: Plan, mine: Sequence[Seat], units: Sequence[str]) -> tuple[float, float]:
    """Seconds that a stage's sums take in one micro-batch's forward and backward."""
    if len(mine) == 1:
        return 0.0, 0.0
    ways = _ways(plan, mine, units)
    forward, backward = ([count for way in ways for count in way[back]] for back in (0, 1))
    links = [link for a, b in permutations(mine, 2) if (link := plan.fleet.link(a.card, b.card))]
    rates = [Rates(plan.fleet.card(seat.card), plan.dtype) for seat in mine]

    def seconds(counts: Sequence[int]) -> float:
        return sum(
            max((link.seconds(count * DTYPE_BYTES[kept_as(plan.dtype)]) for link in links), default=0.0)
            + max(rate.seconds((flat("add_", count, 3, len(mine)), Operator("call", (), 1, 0, CALLS)))
                  for rate in rates)
            for count in counts
        )  # fmt: skip

    return seconds(forward), seconds(backward)


def _ways(plan: Plan, mine: Sequence[Seat], units: Sequence[str]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Numbers in every sum of a stage's units; none where a card has it alone."""
    if len(mine) == 1:
        return [((), ())]
    rows = plan.micro_batch * parts(plan)[mine[0].replica].tokens
    return [sums(plan.model, unit, rows, len(mine)) for unit in units]


def sums(spec: ModelSpec, unit: str, rows: int, cards: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers in every sum over cards that a unit of `rows` tokens needs, going forward and going back.

    What model/parallel.py calls `total` and `spread`; those of the head are its loss's.
    """
    whole = rows * spec.hidden
    norms = (spec.head_dim, spec.head_dim) if spec.qk_norm else ()
    match recipe.kind_of(unit):
        case "embed":
            return (whole,), ()
        case "head":
            return (rows * cards, 2 * rows), (whole,)
        case "lfa":
            return (whole, whole), (whole, whole, *norms)
        case "moe":
            return (whole,), (whole, rows * spec.experts_used, *((rows,) if spec.shared_ffn else ()))
        case "attn":
            return (whole,), (whole, *norms)
        case _:
            return (whole,), (whole,)


def _end(plan: Plan, seat: Seat, moved: Exchange) -> StageCost:
    """The ends of a step on one card: gradients added up, their norm, the optimizer's step, weights taken over."""
    card, owned = plan.fleet.card(seat.card), moved.owned[seat.rank]
    rates = Rates(card, "fp32")
    if not owned:
        return StageCost(0.0, 0.0, weights_s=_taken_s(rates, moved.taken[seat.rank]))
    summed = rates.seconds((flat("add_", max(1, moved.summed[seat.rank]), 3),))
    step = rates.seconds((*operators.step(owned, owned), flat("copy", owned, 2)))
    return StageCost(0.0, 0.0, norm_s=rates.seconds(operators.norm(owned, owned)), step_s=step, data_s=summed,
                     weights_s=_taken_s(rates, moved.taken[seat.rank]))  # fmt: skip


def _taken_s(rates: Rates, count: int) -> float:
    return rates.seconds((flat("copy", count, 2),)) if count else 0.0


def _within(plan: Plan, mine: Sequence[Seat], pairs: Pairs) -> float:
    """Seconds of handing out, among cards that go in step, what several of them hold."""
    found = [0.0]
    for a, b in permutations(mine, 2):
        size, link = pairs.get((a.rank, b.rank), 0), plan.fleet.link(a.card, b.card)
        found.append(link.seconds(size) if size and link is not None else 0.0)
    return max(found)


def between(plan: Plan, moved: Exchange) -> tuple[dict[tuple[int, int], Link], dict[tuple[str, int, int], int]]:
    """Links between stages, by (lower, higher), the slowest of their cards'; and the bytes of `exchange` between them.

    Cards of two stages talk side by side, so that the largest message of any pair counts.
    """
    every = nodes(plan)
    where = {seat.rank: at for at, mine in enumerate(every) for seat in mine}
    links: dict[tuple[int, int], Link] = {}
    for a, here in enumerate(every):
        for b, there in enumerate(every[a + 1 :], a + 1):
            found = [link for one in here for two in there if (link := plan.fleet.link(one.card, two.card))]
            if found:
                links[a, b] = max(found, key=lambda link: link.seconds(2**20))
    bytes_: dict[tuple[str, int, int], int] = {}
    for what, pairs in (("data", moved.data), ("weights", moved.weights)):
        for (source, target), size in pairs.items():
            key = (what, where[source], where[target])
            if key[1] != key[2]:
                bytes_[key] = max(size, bytes_.get(key, 0))
    return links, bytes_


def rank_bytes(plan: Plan, moved: Exchange) -> tuple[int, ...]:
    """Most bytes that every rank holds during a step.

    Weights and gradients of what it holds; master weights, moments and the summed gradient of what it owns; what it
    sends and hears of `exchange` at a time.
    """
    size, found = DTYPE_BYTES[kept_as(plan.dtype)], []
    for seat in seats(plan):
        stage, order = plan.pipelines[seat.replica].stages[seat.stage], orders(alone(plan, seat.replica))[seat.stage]
        again = held_at_once(order.replace("F", "").replace("I", "F")) or 1 if stage.recompute == "full" else None
        part = part_of(plan.model, share_of(plan, seat.replica, seat.stage, seat.part))
        kept = stage_bytes(part, stage.start, stage.stop, in_flight=held_at_once(order), recomputed=again,
                           micro_batch=plan.micro_batch, seq=parts(plan)[seat.replica].tokens,
                           dtype=plan.dtype)  # fmt: skip
        flight = again or held_at_once(order)
        heard = kept_of_others(plan, seat, part, flight) + kept_of_guests(plan, seat, part, flight)
        each = 2 * size if plan.dtype == "fp32" else 2 * size + 4  # gradients are summed in fp32 beside themselves
        state = int(each * moved.held[seat.rank]) + 16 * moved.owned[seat.rank]
        state += rounded_bytes(part, stage.start, stage.stop, plan.dtype)
        swapped = max(
            sum(count for pair, count in pairs.items() if seat.rank in pair) for pairs in (moved.data, moved.weights)
        )
        found.append(state + max(kept.activations + kept.transient + heard, swapped))
    return tuple(found)
