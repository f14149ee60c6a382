"""What a zero-bubble order keeps beyond 1F1B's memory, and how long a step takes without.

ZB-H1 (arXiv 2401.10241) computes gradients of weights where a stage would wait. A stage with i stages before it then
keeps up to i micro-batches more than under 1F1B: as many as its pipeline has stages. The search counts those of 1F1B.
Where they have no room, gradients of weights follow those of inputs at once: a stage then delays the first micro-batch
by its forward and its inputs' gradients, and the step is that of the same formula (pipelines.py) with this fill.
"""

from __future__ import annotations

from danlu.plan.groups.grouped import GroupedPlan, Replicas
from danlu.plan.groups.stage_ways import USABLE
from danlu.plan.stated.stack_memory import CONTEXT_BYTES


def short(plan: GroupedPlan, each: Replicas) -> int:
    """Stages of a pipeline that have no room for all micro-batches that a zero-bubble order may keep there."""
    if plan.schedule == "1f1b" or each.chunks > 1:
        return 0
    rooms = [USABLE * plan.fleet.groups[stage.group].mem_bytes - CONTEXT_BYTES for stage in each.stages]
    return sum(stage.peak + before * stage.kept > room
               for before, (stage, room) in enumerate(zip(each.stages, rooms, strict=True)))  # fmt: skip


def at_once(each: Replicas) -> float:
    """Seconds of a step where no gradient of weights waits, with the memory of 1F1B."""
    fills = [(stage.time_s + stage.fill_s) / 2 for stage in each.stages]
    slowest = max(each.micro_batches * stage.time_s - fill + stage.step_s
                  for stage, fill in zip(each.stages, fills, strict=True))  # fmt: skip
    return slowest + sum(fills)


def longest(plan: GroupedPlan) -> float:
    """Seconds of the plan's step at most: pipelines of which a stage is short put nothing off."""
    return max(max(each.seconds, at_once(each)) if short(plan, each) else each.seconds for each in plan.replicas)
