"""When each stage of a pipeline does what: 1F1B played from the stages' own seconds, for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.stage_ways import rated
from danlu.plan.groups.unit_cost import KINDS, Stack, setup_of
from danlu.plan.stated.stack_time import prices, published
from danlu.plan.stated.stack_work import unit


@dataclass(frozen=True, slots=True)
class Bar:
    """Something a stage does: "forward", "backward", "message" or "once" (gradients, optimizer); seconds."""

    kind: str
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a stage: of one micro-batch each way, of messages to the next and the one before, once a step."""

    forward: float
    backward: float
    ahead: float
    back: float
    once: float


def bars(plan: GroupedPlan, each: Replicas) -> list[list[Bar]]:
    """Per stage, in time: every micro-batch there and back under 1F1B, and what is done once.

    A message blocks its sender, as the forecast has it. Cost: stages * micro-batches.
    """
    parts = [parts_of(plan, each, stage) for stage in each.stages]
    count, many = len(parts), each.micro_batches
    orders = [_order(many, min(many, count - at)) for at in range(count)]
    done: dict[tuple[str, int, int], float] = {}
    clock, at = [0.0] * count, [0] * count
    found: list[list[Bar]] = [[] for _ in parts]
    moved = True
    while moved:
        moved = False
        for stage in range(count):
            while at[stage] < len(orders[stage]):
                kind, number = orders[stage][at[stage]]
                needs = _needs(kind, number, stage, count)
                if needs is not None and needs not in done:
                    break
                begin = max(clock[stage], done[needs] if needs else 0.0)
                mine = parts[stage]
                stop = begin + (mine.forward if kind == "forward" else mine.backward)
                found[stage].append(Bar(kind, begin, stop))
                message = mine.ahead if kind == "forward" else mine.back
                if message:
                    found[stage].append(Bar("message", stop, stop + message))
                    stop += message
                done[kind, number, stage] = clock[stage] = stop
                at[stage] += 1
                moved = True
    for stage, mine in enumerate(parts):
        found[stage].append(Bar("once", clock[stage], clock[stage] + mine.once))
    return found


def parts_of(plan: GroupedPlan, each: Replicas, stage: GroupStage) -> Parts:
    """The stage's seconds, cut into forward, backward and messages as its units' amounts say."""
    kinds = [name.rsplit(".", 1)[-1] for name in plan.model.units[stage.start : stage.stop]]
    forward, backward = _seconds(plan, stage, {kind: kinds.count(kind) for kind in KINDS})
    ahead, back = stage.ahead_s * (stage.stop < len(plan.model.units)), stage.back_s * (stage.start > 0)
    busy = max(0.0, stage.time_s - ahead - back)
    share = forward / (forward + backward)
    return Parts(busy * share, busy * (1 - share), ahead, back, stage.step_s)


def chunk_of(plan: GroupedPlan, stage: GroupStage, layers: int, *, last: bool, once: float) -> Parts:
    """Seconds of some whole layers, the head behind them if they are the model's `last`, run as the stage runs its own.

    Messages are those of any chunk but the first one's back and the last one's ahead.
    """
    parts = plan.model.recipe
    forward, backward = _seconds(plan, stage, {**{part: layers for part in parts}, "head": int(last)})
    return Parts(forward, backward, stage.ahead_s, stage.back_s, once)


def _seconds(plan: GroupedPlan, stage: GroupStage, counts: Mapping[str, int]) -> tuple[float, float]:
    """Seconds forward and backward of so many units of each kind, as the stage runs them."""
    group = plan.fleet.groups[stage.group]
    run = setup_of(plan.model, rated(group), stage.way, plan.seq, Stack(precision=plan.dtype).on(group))
    price = prices(run, rated(group), published())
    both = sum((unit(run, kind) @ price * count for kind, count in counts.items()), start=np.zeros(2))
    return float(both[0]), float(both[1])


def _order(many: int, ahead: int) -> list[tuple[str, int]]:
    """1F1B: `ahead` forwards, then one backward and one forward in turn, then the backwards that are left."""
    found = [("forward", number) for number in range(ahead)]
    for number in range(many):
        found.append(("backward", number))
        if number + ahead < many:
            found.append(("forward", number + ahead))
    return found


def _needs(kind: str, number: int, stage: int, count: int) -> tuple[str, int, int] | None:
    """What must be done before: the same micro-batch on the stage before, or behind on the way back."""
    if kind == "forward":
        return ("forward", number, stage - 1) if stage else None
    return ("backward", number, stage + 1) if stage < count - 1 else ("forward", number, stage)
