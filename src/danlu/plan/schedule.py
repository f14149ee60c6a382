"""From a Plan to one list of instructions per stage. The simulator charges these lists, the trainer executes them.

A schedule's name is "1f1b", "1f1b:N" or "zb". Stage i of p under 1f1b:N holds at most 1 + N * (p - 1 - i) micro-batches
in flight: N = 1 is plain 1F1B (PipeDream-flush); a deeper warm-up costs activation memory and hides links and unequal
stages. Under "zb" the plan itself says what each stage computes in which order (plan/order.py finds that), and a
backward may come in two halves (zero bubble, Qi 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.errors import UnknownSchedule
from danlu.nouns import DTYPE_BYTES, Plan, kept_as
from danlu.plan.flop import unit_flop

LETTERS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


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
            why="known are 1f1b, 1f1b:N (N = 1, 2, ... times the warm-up), and zb, whose orders the plan holds",
            fix="schedule: 1f1b",
        )
    return int(depth or 1)


def in_flight(stages: int, micro_batches: int, depth: int) -> tuple[int, ...]:
    """Most micro-batches whose activations each stage holds at once, under 1f1b."""
    return tuple(min(micro_batches, 1 + depth * (stages - 1 - i)) for i in range(stages))


def held_at_once(order: str) -> int:
    """Most micro-batches whose activations an order holds at once: forwards that have run minus weight passes."""
    now = most = 0
    for letter in order:
        now += (letter == "F") - (letter in "BW")
        most = max(most, now)
    return most


def order(in_flight: int, micro_batches: int) -> str:
    """The 1F1B order of one stage: fill to `in_flight`, then one backward, one forward, drain."""
    return "F" * in_flight + "BF" * (micro_batches - in_flight) + "B" * in_flight


def orders(plan: Plan) -> tuple[str, ...]:
    """What each stage computes, in letters. Raises UnknownSchedule, also for orders that are not whole."""
    if plan.schedule != "zb":
        flights = in_flight(len(plan.stages), plan.micro_batches, depth_of(plan.schedule))
        return tuple(order(flight, plan.micro_batches) for flight in flights)
    if len(plan.orders) != len(plan.stages):
        raise _not_whole(f"{len(plan.orders)} orders for {len(plan.stages)} stages")
    for stage, letters in enumerate(plan.orders):
        if not _whole(letters, plan.micro_batches):
            raise _not_whole(f"that of stage {stage} is no order of {plan.micro_batches} micro-batches: {letters:.40}")
    return plan.orders


def _whole(letters: str, micro_batches: int) -> bool:
    """True when every micro-batch goes forward once, then back once, whole or in halves, the weights' half last."""
    forward = back = 0
    split: list[int] = []
    for letter in letters:
        if letter == "F":
            forward += 1
        elif letter in "BI":
            if letter == "I":
                split.append(back)
            back += 1
        elif letter == "W" and split:
            split.pop(0)
        else:
            return False
        if back > forward:
            return False
    return forward == back == micro_batches and not split


def _not_whole(why: str) -> UnknownSchedule:
    return UnknownSchedule("the plan's orders do not hold", why=why, fix="danlu plan run.yaml writes the plan anew")


def instructions(plan: Plan) -> tuple[tuple[Instruction, ...], ...]:
    """The lists of one optimizer step, one per stage. Raises UnknownSchedule."""
    return tuple(_stage(plan, index, letters) for index, letters in enumerate(orders(plan)))


def message_bytes(plan: Plan) -> int:
    """Bytes of one activation (or its gradient) between two stages."""
    return int(plan.micro_batch * plan.seq * plan.model.hidden * DTYPE_BYTES[kept_as(plan.dtype)])


def tied_apart(plan: Plan) -> bool:
    """True when the embedding's weights are shared by two different stages, which must then sum their gradients."""
    return plan.model.tied and len(plan.stages) > 1


def numbered(letters: Sequence[str]) -> list[tuple[str, int]]:
    """(instruction, micro-batch) of every letter; a W is of the oldest micro-batch that has had its I and not its W."""
    found, forward, back = [], 0, 0
    split: list[int] = []
    for letter in letters:
        if letter == "F":
            mb, forward = forward, forward + 1
        elif letter == "W":
            mb = split.pop(0)
        else:
            mb, back = back, back + 1
            if letter == "I":
                split.append(mb)
        found.append((LETTERS[letter], mb))
    return found


def _stage(plan: Plan, index: int, letters: str) -> tuple[Instruction, ...]:
    """One stage's list."""
    stage, last = plan.stages[index], len(plan.stages) - 1
    message = message_bytes(plan)
    units = plan.model.units[stage.start : stage.stop]
    flop = sum(unit_flop(plan.model, unit, plan.micro_batch, plan.seq) for unit in units)
    times = {"forward": 1, "backward": 2, "backward_input": 1, "backward_weight": 1}
    found: list[Instruction] = []
    made: dict[tuple[str, int], int] = {}

    def add(op: str, mb: int, *after: int, what: str = "", peer: int = -1) -> int:
        comm = op in ("send", "recv")
        size, stream = (message, "comm") if comm else (0, "compute")
        found.append(Instruction(op, mb, what, peer, size, flop * times.get(op, 0), stream, after))
        made[op, mb] = len(found) - 1
        return len(found) - 1

    for op, mb in numbered(letters):
        if op == "forward":
            needs = [add("recv", mb, what="act", peer=index - 1)] if index > 0 else []
            done = add(op, mb, *needs)
            if index < last:
                add("send", mb, done, what="act", peer=index + 1)
        elif op == "backward_weight":
            add(op, mb, made["backward_input", mb])
        else:
            needs = [add("recv", mb, what="grad", peer=index + 1)] if index < last else []
            done = add(op, mb, made["forward", mb], *needs)
            if index > 0:
                add("send", mb, done, what="grad", peer=index - 1)
    end = max(at for at, each in enumerate(found) if each.op.startswith("backward"))
    if tied_apart(plan) and index in (0, last):
        size = int(plan.model.vocab * plan.model.hidden * DTYPE_BYTES["fp32"])
        found.append(Instruction("reduce", -1, "tied", last - index, size, 0.0, "compute", (end,)))
        end = len(found) - 1
    found.append(Instruction("reduce", -1, "norm", -1, 8, 0.0, "compute", (end,)))
    found.append(Instruction("step", after=(len(found) - 1,)))
    return tuple(found)
