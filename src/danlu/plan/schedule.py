"""From a Plan to one list of instructions per stage. The simulator charges these lists, the trainer executes them.

A schedule's name is "1f1b" or "1f1b:N". Stage i of p holds at most 1 + N * (p - 1 - i) micro-batches in flight: N = 1
is plain 1F1B (PipeDream-flush); a deeper warm-up costs activation memory and hides links and unequal stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from danlu.errors import UnknownSchedule
from danlu.nouns import DTYPE_BYTES, Plan
from danlu.plan.flop import unit_flop


@dataclass(frozen=True, slots=True)
class Instruction:
    """One entry of a stage's list; docs/formats.md, "instruction", says what each field means."""

    op: str
    mb: int = -1
    what: str = ""
    peer: int = -1
    bytes: int = 0
    flop: float = 0.0
    stream: str = "compute"
    after: tuple[int, ...] = ()


def depth_of(schedule: str) -> int:
    """The N of "1f1b:N"; 1 for "1f1b". Raises UnknownSchedule."""
    name, _, depth = schedule.partition(":")
    if name != "1f1b" or (depth and not (depth.isdecimal() and int(depth) > 0)):
        raise UnknownSchedule(
            f"no schedule {schedule!r}",
            why="known are 1f1b and 1f1b:N, N = 1, 2, ... times the warm-up",
            fix="schedule: 1f1b",
        )
    return int(depth or 1)


def in_flight(stages: int, micro_batches: int, depth: int) -> tuple[int, ...]:
    """Most micro-batches whose activations each stage holds at once."""
    return tuple(min(micro_batches, 1 + depth * (stages - 1 - i)) for i in range(stages))


def order(in_flight: int, micro_batches: int) -> Iterator[tuple[str, int]]:
    """The order of one stage's forwards and backwards: fill to `in_flight`, then one backward, one forward, drain."""
    for mb in range(in_flight):
        yield "forward", mb
    for mb in range(micro_batches):
        yield "backward", mb
        if mb + in_flight < micro_batches:
            yield "forward", mb + in_flight


def instructions(plan: Plan) -> tuple[tuple[Instruction, ...], ...]:
    """The lists of one optimizer step, one per stage. Raises UnknownSchedule."""
    flights = in_flight(len(plan.stages), plan.micro_batches, depth_of(plan.schedule))
    return tuple(_stage(plan, index, flight) for index, flight in enumerate(flights))


def message_bytes(plan: Plan) -> int:
    """Bytes of one activation (or its gradient) between two stages."""
    return int(plan.micro_batch * plan.seq * plan.model.hidden * DTYPE_BYTES[plan.dtype])


def tied_apart(plan: Plan) -> bool:
    """True when the embedding's weights are shared by two different stages, which must then sum their gradients."""
    return plan.model.tied and len(plan.stages) > 1


def _stage(plan: Plan, index: int, flight: int) -> tuple[Instruction, ...]:
    """One stage's list."""
    stage, last = plan.stages[index], len(plan.stages) - 1
    message = message_bytes(plan)
    units = plan.model.units[stage.start : stage.stop]
    flop = sum(unit_flop(plan.model, unit, plan.micro_batch, plan.seq) for unit in units)
    found: list[Instruction] = []
    forward_at: dict[int, int] = {}

    def add(op: str, mb: int, *after: int, what: str = "", peer: int = -1) -> int:
        comm = op in ("send", "recv")
        work = {"forward": flop, "backward": 2 * flop}.get(op, 0.0)
        size, stream = (message, "comm") if comm else (0, "compute")
        found.append(Instruction(op, mb, what, peer, size, work, stream, after))
        return len(found) - 1

    for op, mb in order(flight, plan.micro_batches):
        if op == "forward":
            needs = [add("recv", mb, what="act", peer=index - 1)] if index > 0 else []
            forward_at[mb] = add("forward", mb, *needs)
            if index < last:
                add("send", mb, forward_at[mb], what="act", peer=index + 1)
        else:
            needs = [add("recv", mb, what="grad", peer=index + 1)] if index < last else []
            done = add("backward", mb, forward_at.pop(mb), *needs)
            if index > 0:
                add("send", mb, done, what="grad", peer=index - 1)
    end = max(at for at, each in enumerate(found) if each.op == "backward")
    if tied_apart(plan) and index in (0, last):
        size = int(plan.model.vocab * plan.model.hidden * DTYPE_BYTES["fp32"])
        found.append(Instruction("reduce", -1, "tied", last - index, size, 0.0, "compute", (end,)))
        end = len(found) - 1
    found.append(Instruction("reduce", -1, "norm", -1, 8, 0.0, "compute", (end,)))
    found.append(Instruction("step", after=(len(found) - 1,)))
    return tuple(found)
