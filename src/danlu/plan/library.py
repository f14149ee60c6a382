"""Planning as a library: what `danlu.plan.search` and `danlu.plan.simulate` are, of either kind of fleet.

A fleet whose cards have names is planned as `danlu train` runs it, one of groups of cards as `danlu plan MODEL FLEET`
plans it. Pure: no file, no clock, no torch.
"""

from __future__ import annotations

from typing import Any, overload

from danlu.nouns import Fleet, GroupedFleet, ModelSpec, Plan
from danlu.plan import forecast, splits
from danlu.plan.events import Timeline
from danlu.plan.groups import choose, interleaved, simple, timeline
from danlu.plan.groups.choose import Chosen
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.timeline import Bar
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.presets import preset
from danlu.plan.stated.stack_time import Constants


@overload
def search(
    model: ModelSpec | str, fleet: GroupedFleet, *, batch: int, seq: int, goal: str = "time", schedule: str = "zb-h1",
    stack: Stack | None = None, zero: int = 1, constants: Constants | None = None,
) -> Chosen: ...  # fmt: skip


@overload
def search(
    model: ModelSpec | str, fleet: Fleet, *, micro_batch: int, micro_batches: int, seq: int, dtype: str = "fp32",
    schedule: splits.Order = "auto",
) -> Plan: ...  # fmt: skip


def search(model: ModelSpec | str, fleet: GroupedFleet | Fleet, **asked: Any) -> Chosen | Plan:
    """The best plan of a model, or of a preset's name, over the fleet.

    Of groups of cards: `batch` sequences a step of `seq` tokens; the goals, schedules and ZeRO stages of
    groups/choose.py, and the plan that `danlu plan` prints: the simplest of the fastest. Of cards with names:
    `micro_batches` of `micro_batch` sequences a step, as in splits.py.
    Raises DoesNotFit, BadModel for a name that is no preset, BadValue.
    """
    spec = preset(model) if isinstance(model, str) else model
    if isinstance(fleet, Fleet):
        return splits.search(spec, fleet, **asked)
    return simple.preferred(choose.best(spec, fleet, **asked), fleet, asked.get("stack"))


@overload
def simulate(plan: GroupedPlan) -> list[list[list[Bar]]]: ...


@overload
def simulate(plan: Plan) -> Timeline: ...


def simulate(plan: GroupedPlan | Plan) -> list[list[list[Bar]]] | Timeline:
    """A step of the plan, played event by event, in seconds since it began.

    Of groups of cards: what each stage does in turn, for every kind of pipeline in the order of `plan.replicas`. Of
    cards with names: what each of them computes, and the seconds from one step's end to the next one's.
    """
    if isinstance(plan, Plan):
        return forecast.timeline(plan)
    return [interleaved.bars(plan, each) if each.chunks > 1 else timeline.bars(plan, each) for each in plan.replicas]
