"""The best plan over a large fleet of unlike cards: `search(model, fleet, batch=, seq=)`.

    from danlu.fleet.groups import shorthand
    from danlu.plan.groups import large
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

from danlu import native
from danlu.errors import BadValue, DoesNotFit, ShortBatch
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups.assemble import Ask, finished
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.designs import best_pipelines, packed
from danlu.plan.groups.even import even
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pipelines import Pipeline
from danlu.plan.groups.pricing import Columns, seconds_for
from danlu.plan.groups.small import best_choice
from danlu.plan.groups.stage_ways import micro_batch_sizes
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.stated.stack_time import Constants

# Cards, units and sequences up to which the very best plan is found, within seconds; and without a compiler.
EXACT, EXACT_IN_PYTHON = (16, 18, 16), (8, 10, 8)
MOST_ZERO = 3  # level of ZeRO
# More sharing is looked at unasked where a type cannot hold the model in a fleet of up to so many cards, or so much of
# the fleet's rate stays unused. It must gain a hundredth, for its bound is looser.
FEW, KEPT_OUT, GAIN = 256, 0.1, 0.99
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """The plan, and what it stands beside.

    alternatives  the best of each class, this one's too, by rising seconds
    alone         the best plan of each card type by itself, None where it does not fit
    sum_share     U_sum: the plan's throughput over the sum of those of `alone`; a type that cannot hold the model
                  counts nothing
    columns       pipelines the plan was chosen from; they fit where `design` or more share the optimizer's states
    unfit         levels of ZeRO with which nothing fits: the plan's classes have the next one, too
    """

    ask: Ask
    plan: GroupedPlan
    alternatives: tuple[GroupedPlan, ...]
    alone: Mapping[str, GroupedPlan | None]
    columns: Sequence[Pipeline] = field(repr=False, default=())
    design: int = 1
    unfit: tuple[int, ...] = ()

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
    schedule  a name of chunks.ORDERS: "1f1b", "zb-h1", "interleaved" (1F1B, whole or in chunks), "any"
    zero      level of ZeRO looked at from the start: with 2 or 3 pipelines may share gradients, and weights, too, for a
              longer search and a looser bound; where nothing fits, or memory keeps many cards out, more is looked at
    Raises BadValue for a batch or length below 1 or a schedule that there is not, DoesNotFit where no class of plans of
    any level holds the model, ShortBatch where only pipelines of more stages than the batch has micro-batches do.
    """
    for name, value in (("batch", batch), ("seq", seq)):
        if value < 1:
            raise BadValue(
                f"{name} is {value}", why="a step trains 1 sequence of 1 token or more", fix=f"--{name} 1024"
            )
    if schedule not in ORDERS:
        raise BadValue(f"no schedule {schedule!r}", why=f"there are {', '.join(ORDERS)}", fix="--schedule zb-h1")
    tell = say or (lambda text: None)
    ask = Ask(spec, fleet, batch, seq, schedule, most_sequences, stack, constants, zero)
    unfit: tuple[int, ...] = ()
    for level in range(zero, MOST_ZERO + 1):
        found = _of_level(replace(ask, zero=level), tell)
        if found is not None:
            wider = _of_level(replace(ask, zero=MOST_ZERO), tell) if level < MOST_ZERO and _kept_out(found) else None
            gains = wider is not None and wider.plan.seconds < GAIN * found.plan.seconds
            return replace(wider if wider is not None and gains else found, unfit=unfit)
        tell(f"nothing fits with ZeRO-{level}")
        unfit = (*unfit, level)
    raise _no_plan(ask)


def _of_level(ask: Ask, tell: Say) -> Found | None:
    """What is found with this level of ZeRO; None where nothing fits."""
    fleet = ask.fleet
    alone: dict[str, GroupedPlan | None] = {}
    columns: Sequence[Pipeline] = ()
    classes: list[GroupedPlan] = []
    design = 1
    for at, group in enumerate(fleet.groups):
        tell(f"{group.count} x {group.card} alone")
        found = best_pipelines(ask.part(at))
        alone[_name(fleet, at)] = None if found is None else _onto(found[0], ask, at, _name(fleet, at))
        if found is not None and len(fleet.groups) == 1:
            columns, design = found[2:]
            classes = [_onto(each, ask, at, each.kind) for each in found[1]]
    plain = ORDERS[ask.schedule].plain
    if plain != ask.schedule:  # also without chunks, which a search for both may do a little worse
        whole = _of_level(replace(ask, schedule=plain), lambda text: None)
        for name, each in (whole.alone if whole is not None else {}).items():
            alone[name] = min((one for one in (alone[name], each) if one is not None), key=lambda one: one.seconds,
                              default=None)  # fmt: skip
        classes += whole.alternatives if whole is not None else ()
        if len(fleet.groups) > 1:
            tell("alike pipelines of stages cut alike")
            alike = even(ask)
            classes += [alike] if alike is not None else []
    plans = [*(each for each in alone.values() if each is not None), *classes]
    if len(fleet.groups) > 1:
        tell("all groups together")
        joint = best_pipelines(ask)
        if joint is not None:
            plans += [joint[0], *joint[1]]
            columns, design = joint[2:]
    exact = _exact(ask, min(plans, key=lambda each: each.seconds, default=None))
    if exact is not None:
        plans.append(exact)
    for at in range(len(fleet.groups) if len(fleet.groups) > 1 else 0):  # whose gradients may stay inside a host
        single = _exact(ask.part(at), min(plans, key=lambda each: each.seconds, default=None))
        plans += [_onto(single, ask, at, _name(fleet, at))] if single is not None else []
    if not plans:
        return None
    plans.sort(key=lambda each: each.seconds)
    names = dict.fromkeys(each.name for each in plans)
    first = tuple(next(each for each in plans if each.name == name) for name in names)
    return Found(ask, plans[0], first, alone, columns, design)


def _kept_out(found: Found) -> bool:
    """Whether memory keeps cards from the model of which sharing more of it over pipelines may make use."""
    groups, plan = found.ask.fleet.groups, found.plan
    idle = sum((group.count - n) * group.flops for group, n in zip(groups, plan.used, strict=True))
    much = idle > KEPT_OUT * sum(group.count * group.flops for group in groups)
    return None in found.alone.values() and (much or found.ask.fleet.cards <= FEW)


def _exact(ask: Ask, known: GroupedPlan | None) -> GroupedPlan | None:
    """A plan faster than the known one for a fleet and model small enough to look at all there are."""
    most = EXACT if native.library() is not None else EXACT_IN_PYTHON
    if any(n > limit for n, limit in zip((ask.fleet.cards, len(ask.spec.units), ask.batch), most, strict=True)):
        return None
    sizes, there = micro_batch_sizes(ask.batch, ask.most_sequences), tuple(g.count for g in ask.fleet.groups)
    seconds, first = (math.inf, 1) if known is None else (known.seconds, known.pipelines)
    found = best_choice(ask.ways, ask.longest, there, ask.batch, sizes, seconds, first)
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
            plan = packed(ask, columns, seconds_for(columns, ask.batch, found.plan.seconds * lost), found.plan.kind)
            if plan is not None and plan.pipelines >= found.design:
                return replace(found, ask=ask, plan=plan, alternatives=(plan,))
    return search(ask.spec, fleet, batch=ask.batch, seq=ask.seq, schedule=ask.schedule, zero=ask.zero,
                  most_sequences=ask.most_sequences, stack=ask.stack, constants=ask.constants)  # fmt: skip


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


def _no_plan(ask: Ask) -> DoesNotFit:
    """The error where no plan was found: a batch that fills no pipeline's stages, or too little memory."""

    def tried(batch: int) -> Found | None:
        return _of_level(replace(ask, batch=batch, zero=MOST_ZERO), lambda text: None)

    batch, most = ask.batch, ask.fleet.cards  # enough for every pipeline there can be
    if batch >= most or tried(most) is None:
        return _does_not_fit(ask)
    while (found := tried(min(2 * batch, most))) is None:
        batch *= 2
    stages = min(len(each.stages) for each in found.plan.replicas)
    return ShortBatch(
        f"a batch of {ask.batch} is smaller than the pipeline: {stages} stages",
        why=f"a pipeline takes a micro-batch for each stage, or most of them wait for most of a step; {ask.batch} "
        f"sequences are {ask.batch} micro-batches at most, and no {ask.batch} stages on these {ask.fleet.cards} cards "
        f"hold {ask.spec.params / 1e9:.1f} G parameters and {ask.seq} tokens",
        fix=f"--batch {found.ask.batch} fits",
    )


def _does_not_fit(ask: Ask) -> DoesNotFit:
    states = 18 * ask.spec.params
    memory = sum(group.count * group.mem_bytes for group in ask.fleet.groups)
    return DoesNotFit(
        f"no split of {ask.spec.params / 1e9:.1f} G parameters fits {ask.fleet.cards} cards",
        why=f"states take {states / 2**30:.0f} GiB before activations of {ask.seq} tokens, and no stage may take "
        f"more than one unit per card; the cards have {memory / 2**30:.0f} GiB together",
        fix="more cards, cards with more memory, a shorter --seq, or a smaller model",
    )
