"""Who sits where: the ranks of a plan whose stages may be shared by cards and whose model may have several copies.

Ranks count copies first, then their stages, then the cards of a stage. A plan of one copy and one card a stage has one
rank per stage, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from danlu.nouns import Plan
from danlu.plan.schedule import Instruction, instructions


@dataclass(frozen=True, slots=True)
class Seat:
    """One rank's place: `part` is its number among the cards of stage `stage` of copy `replica`."""

    rank: int
    replica: int
    stage: int
    part: int
    card: str


def seats(plan: Plan) -> tuple[Seat, ...]:
    """The seats of a plan by rank."""
    places = [
        (replica, stage, part, card)
        for replica, pipeline in enumerate(plan.pipelines)
        for stage, each in enumerate(pipeline.stages)
        for part, card in enumerate(each.cards)
    ]
    return tuple(Seat(rank, *place) for rank, place in enumerate(places))


def alone(plan: Plan, replica: int) -> Plan:
    """One copy of the model, or a part of one, as a plan of its own."""
    here = plan.pipelines[replica]
    return replace(plan, stages=here.stages, micro_batches=here.micro_batches, orders=here.orders, replicas=(),
                   context=0, experts=0, seq=here.context or plan.seq,
                   forecast=None if plan.replicas else plan.forecast)  # fmt: skip


def shared(plan: Plan) -> bool:
    """True when some parameter is held, or some layer computed, by more than one card at once."""
    return bool(plan.replicas) or any(len(stage.cards) > 1 for stage in plan.stages)


def group(every: Sequence[Seat], seat: Seat, stage: int | None = None) -> tuple[int, ...]:
    """Ranks that share a stage of this seat's copy, its own by default."""
    wanted = (seat.replica, seat.stage if stage is None else stage)
    return tuple(each.rank for each in every if (each.replica, each.stage) == wanted)


def receivers(every: Sequence[Seat], seat: Seat, stage: int) -> tuple[int, ...]:
    """Ranks of another stage that this seat sends to. All cards of a stage hold the same; each receiver hears one."""
    mine, theirs = group(every, seat), group(every, seat, stage)
    return tuple(rank for part, rank in enumerate(theirs) if part % len(mine) == seat.part)


def sender(every: Sequence[Seat], seat: Seat, stage: int) -> int:
    """The rank of another stage that this seat hears."""
    theirs = group(every, seat, stage)
    return theirs[seat.part % len(theirs)]


def instructions_of(plan: Plan, seat: Seat) -> tuple[Instruction, ...]:
    """The list of one seat. Raises UnknownSchedule.

    Where cards share parameters, "reduce" what "data" sums gradients before the norm (those of a tied embedding too),
    and "reduce" what "weights" hands out, after the step, what each card has updated for the others.
    """
    found = instructions(alone(plan, seat.replica))[seat.stage]
    if not shared(plan):
        return found
    kept = tuple(each for each in found[:-2] if each.what != "tied")
    last = max(at for at, each in enumerate(kept) if each.stream == "compute")
    end = len(kept)
    data = Instruction("reduce", what="data", after=(last,))
    weights = Instruction("reduce", what="weights", after=(end + 2,))
    norm, step = replace(found[-2], after=(end,)), replace(found[-1], after=(end + 1,))
    return (*kept, data, norm, step, weights)
