"""The best plan over a large fleet of unlike cards: `search(model, fleet, batch=, seq=)`.

    from danlu.fleet.groups import shorthand
    from danlu.plan import large
    found = large.search(spec, shorthand("128xA100-80+640xH20"), batch=1024, seq=4096)
    found.plan.seconds, found.plan.replicas, found.sum_share, found.alternatives

Searched together: alike pipelines that run through several groups, pipelines inside each group with uneven
micro-batches, and any mix of both; every stage has its own tensor parallelism and recomputation, cuts fall between
attention and MLP, cards may be left out. Pure: no file, no clock, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from danlu import native
from danlu.errors import BadValue, DoesNotFit
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.assemble import Ask, finished
from danlu.plan.grouped import GroupedPlan
from danlu.plan.pack import pack
from danlu.plan.pipelines import Pipeline
from danlu.plan.pricing import DEEPEST, MOST_STAGES, Columns, bottlenecks, grow, seconds_for, worth
from danlu.plan.small import best_choice
from danlu.plan.spanning import spanning
from danlu.plan.stack_time import Constants
from danlu.plan.stage_ways import Ints, micro_batch_sizes
from danlu.plan.unit_cost import Stack

TURNS = 4  # of column generation
FINER = 24  # times below the best packing that are tried
# Cards, units and sequences up to which the very best plan is found, within seconds; and without a compiler.
EXACT, EXACT_IN_PYTHON = (16, 18, 16), (8, 10, 8)
FEW = 4  # pipelines, or fewer, are made of counted cards where prices find none
DESIGNS = 6  # numbers of replicas tried to share optimizer states over
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """The plan, and what it stands beside.

    alternatives  the best of each class, this one's too, by rising seconds
    alone         the best plan of each card type by itself, None where it does not fit
    sum_share     U_sum: the plan's throughput over the sum of those of `alone`; a type that cannot hold the model
                  counts nothing
    columns       pipelines the plan was chosen from; they fit where `design` or more share the optimizer's states
    """

    ask: Ask
    plan: GroupedPlan
    alternatives: tuple[GroupedPlan, ...]
    alone: Mapping[str, GroupedPlan | None]
    columns: Sequence[Pipeline] = field(repr=False, default=())
    design: int = 1

    @property
    def sum_share(self) -> float:
        """U_sum; infinite where no type can hold the model alone."""
        total = sum(1.0 / each.seconds for each in self.alone.values() if each is not None)
        return 1.0 / self.plan.seconds / total if total else math.inf

    @property
    def over_best_single(self) -> float:
        """Throughput over that of the best single card type; infinite where none can hold the model."""
        least = min((each.seconds for each in self.alone.values() if each is not None), default=math.inf)
        return least / self.plan.seconds


def search(
    spec: ModelSpec, fleet: GroupedFleet, *, batch: int, seq: int, schedule: str = "zb-h1", most_sequences: int = 4,
    stack: Stack | None = None, constants: Constants | None = None, zero: int = 1, say: Say | None = None,
) -> Found:  # fmt: skip
    """The plan with the shortest step that is found.

    batch     sequences of one step, of `seq` tokens each
    schedule  "1f1b" or "zb-h1"
    zero      1, or 2 or 3 where pipelines may share gradients, and weights, too: longer search, looser bound
    Raises BadValue for a batch or length below 1, DoesNotFit where no class of plans holds the model.
    """
    for name, value in (("batch", batch), ("seq", seq)):
        if value < 1:
            raise BadValue(
                f"{name} is {value}", why="a step trains 1 sequence of 1 token or more", fix=f"--{name} 1024"
            )
    tell = say or (lambda text: None)
    ask = Ask(spec, fleet, batch, seq, schedule, most_sequences, stack, constants, zero)
    alone: dict[str, GroupedPlan | None] = {}
    columns: Sequence[Pipeline] = ()
    design = 1
    for at, group in enumerate(fleet.groups):
        tell(f"{group.count} x {group.card} alone")
        found = _best(ask.part(at))
        if found is not None and len(fleet.groups) == 1:
            columns, design = found[2:]
        alone[_name(fleet, at)] = None if found is None else _onto(found[0], ask, at, _name(fleet, at))
    plans = [each for each in alone.values() if each is not None]
    if len(fleet.groups) > 1:
        tell("all groups together")
        joint = _best(ask)
        if joint is not None:
            plans += [joint[0], *joint[1]]
            columns, design = joint[2:]
    exact = _exact(ask, min(plans, key=lambda each: each.seconds, default=None))
    if exact is not None:
        plans.append(exact)
    if not plans:
        raise _does_not_fit(ask)
    plans.sort(key=lambda each: each.seconds)
    kinds = dict.fromkeys(each.kind for each in plans)
    return Found(
        ask, plans[0], tuple(next(p for p in plans if p.kind == kind) for kind in kinds), alone, columns, design
    )


def _exact(ask: Ask, known: GroupedPlan | None) -> GroupedPlan | None:
    """A plan faster than the known one for a fleet and model small enough to look at all there are."""
    most = EXACT if native.library() is not None else EXACT_IN_PYTHON
    if any(n > limit for n, limit in zip((ask.fleet.cards, len(ask.spec.units), ask.batch), most, strict=True)):
        return None
    sizes, there = micro_batch_sizes(ask.batch, ask.most_sequences), tuple(g.count for g in ask.fleet.groups)
    seconds, first = (math.inf, 1) if known is None else (known.seconds, known.pipelines)
    found = best_choice(ask.ways, there, ask.batch, sizes, seconds, first)
    return None if found is None else finished(ask, [(each, 1) for each in found[1]], "hybrid")


def replan(found: Found, fleet: GroupedFleet) -> Found:
    """The same after the fleet lost or gained cards of its groups, from the pipelines already known: no new search.

    Where too few pipelines are left to share the optimizer's states, or none fits, all is searched anew. `alone` stays
    that of the old fleet.
    """
    ask = replace(found.ask, fleet=fleet)
    same = [(old.card, old.flops, old.mem_bytes) for old in found.ask.fleet.groups]
    if same == [(group.card, group.flops, group.mem_bytes) for group in fleet.groups] and found.columns:
        columns = Columns(ask.there)
        columns.add(found.columns)
        if columns.pipelines:
            lost = found.ask.fleet.cards / max(1, fleet.cards)
            plan = _packed(ask, columns, seconds_for(columns, ask.batch, found.plan.seconds * lost), found.plan.kind)
            if plan is not None and plan.pipelines >= found.design:
                return replace(found, ask=ask, plan=plan, alternatives=(plan,))
    return search(ask.spec, fleet, batch=ask.batch, seq=ask.seq, schedule=ask.schedule, zero=ask.zero,
                  most_sequences=ask.most_sequences, stack=ask.stack, constants=ask.constants)  # fmt: skip


def _best(ask: Ask) -> tuple[GroupedPlan, list[GroupedPlan], list[Pipeline], int] | None:
    """The best plan, those of its classes, and the pipelines they were chosen from."""
    replicas, best = _first_design(ask), None
    for _ in range(DESIGNS):
        found = _designed(ask, replicas)
        if found is None:
            if replicas == 1:
                return best
            replicas = max(1, replicas // (4 if replicas > FEW else 2))
            continue
        plan, columns = found
        if plan.pipelines >= replicas:
            better = best is None or plan.seconds < best[0].seconds
            if better:
                best = plan, _classes(ask, columns, replicas), columns, replicas
            if not better or plan.pipelines <= 1.5 * replicas:
                return best
            replicas = max(replicas + 1, int(0.8 * plan.pipelines))
        else:
            if best is not None:
                return best
            replicas = max(1, int(0.8 * plan.pipelines))
    return best


def _first_design(ask: Ask) -> int:
    """A number of pipelines to begin with: those whose states fill an eighth of the fleet's memory."""
    memory = sum(group.count * group.mem_bytes for group in ask.fleet.groups)
    return max(1, min(ask.batch, int(memory / 8 / (6 * ask.spec.params))))


def _designed(ask: Ask, replicas: int) -> tuple[GroupedPlan, list[Pipeline]] | None:
    """The best plan of at least so many pipelines; with fewer found, one that may not fit memory."""
    found = _priced(ask, replicas, Columns(ask.there), MOST_STAGES) if replicas > 1 else None
    if found is not None or replicas > FEW:
        return found
    columns = Columns(ask.there)
    for each in ask.spaces(replicas, stages=DEEPEST):
        columns.add(spanning(each, ask.there, ask.batch, replicas))
    return _priced(ask, replicas, columns, DEEPEST)


def _priced(ask: Ask, replicas: int, columns: Columns, stages: int) -> tuple[GroupedPlan, list[Pipeline]] | None:
    """The best plan of `columns` and of what prices of cards add to them, of up to so many stages."""
    spaces = ask.spaces(replicas, stages=stages)
    rate = sum(group.count * group.flops for group in ask.fleet.groups)
    guess = 12.0 * ask.spec.params * ask.batch * ask.seq / rate
    prices = np.array([ask.batch / rate * group.flops for group in ask.fleet.groups])
    for at in range(len(ask.fleet.groups)):
        for each in spaces:
            part = each.only([at])
            columns.add(worth(part, prices, guess, bottlenecks(part, guess)))
    if len(ask.fleet.groups) > 1:
        for each in spaces:
            columns.add(worth(each, prices, guess, bottlenecks(each, guess)))
    if not columns.pipelines:
        return None
    seconds = seconds_for(columns, ask.batch, guess)
    if len(ask.fleet.groups) > 1:
        seconds = grow(columns, spaces, ask.batch, seconds, TURNS)
    plan = _packed(ask, columns, seconds, "hybrid")
    return None if plan is None else (plan, columns.pipelines)


def _packed(ask: Ask, columns: Columns, seconds: float, kind: str) -> GroupedPlan | None:
    """Whole pipelines in the least time that is found, from a time below it."""
    there = ask.there.astype(np.int64)

    def at(limit: float) -> Ints | None:
        found = pack(columns.sequences(limit), columns.cards(), there)
        return found.counts if found.sequences >= ask.batch else None

    low, high = seconds, seconds * 1.02
    while (counts := at(high)) is None:
        low, high = high, high * 1.5
        if high > 1e3 * seconds:
            return None
    while high / low > 1.0002:
        middle = (low * high) ** 0.5
        if (fewer := at(middle)) is None:
            low = middle
        else:
            high, counts = middle, fewer
    # The packing is no monotone function of time: a little less may do as well.
    for share in np.linspace(0.985, 0.9995, FINER):
        if (fewer := at(high * float(share))) is not None:
            counts = fewer
            break
    chosen = [(columns.pipelines[i], int(counts[i])) for i in map(int, np.flatnonzero(counts))]
    return finished(ask, chosen, kind)


def _classes(ask: Ask, columns: Sequence[Pipeline], replicas: int) -> list[GroupedPlan]:
    """The best plan of the narrower classes: pipelines inside groups only, and copies of one mixed pipeline."""
    if len(ask.fleet.groups) == 1:
        return []
    found = []
    alone = [each for each in columns if (each.cards > 0).sum() == 1]
    if alone:
        one = Columns(ask.there)
        one.add(alone)
        seconds = seconds_for(one, ask.batch, alone[0].seconds(1))
        plan = _packed(ask, one, seconds, "alone")
        if plan is not None and plan.pipelines >= replicas:
            found.append(plan)
    best: tuple[float, Pipeline, int] | None = None
    for each in columns:
        if (each.cards > 0).sum() > 1:
            copies = int((ask.there[each.cards > 0] // each.cards[each.cards > 0]).min())
            if copies >= replicas:
                seconds = each.seconds(math.ceil(ask.batch / copies / each.micro_batch))
                if best is None or seconds < best[0]:
                    best = seconds, each, copies
    if best is not None:
        found.append(finished(ask, [(best[1], best[2])], "mixed"))
    return found


def _onto(plan: GroupedPlan, ask: Ask, at: int, kind: str) -> GroupedPlan:
    """A plan of one group as one of the whole fleet."""
    parts = tuple(
        replace(each, stages=tuple(replace(stage, group=at) for stage in each.stages)) for each in plan.replicas
    )
    return replace(plan, kind=kind, fleet=ask.fleet, replicas=parts)


def _name(fleet: GroupedFleet, at: int) -> str:
    """The group's card, numbered where several groups have it."""
    name = fleet.groups[at].card
    same = [i for i, group in enumerate(fleet.groups) if group.card == name]
    return name if len(same) == 1 else f"{name} ({same.index(at) + 1})"


def _does_not_fit(ask: Ask) -> DoesNotFit:
    states = 18 * ask.spec.params
    memory = sum(group.count * group.mem_bytes for group in ask.fleet.groups)
    return DoesNotFit(
        f"no split of {ask.spec.params / 1e9:.1f} G parameters fits {ask.fleet.cards} cards",
        why=f"states take {states / 2**30:.0f} GiB before activations of {ask.seq} tokens, and no stage may take "
        f"more than one unit per card; the cards have {memory / 2**30:.0f} GiB together",
        fix="more cards, cards with more memory, a shorter --seq, or a smaller model",
    )
