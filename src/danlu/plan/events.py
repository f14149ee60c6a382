"""Charges instruction lists against cost and links: the forecast of a step.

The lists fix who waits for whom; only durations differ between splits of the same shape. So the order is found once
(`compiled`), and durations may be numbers, or numpy arrays with one entry per split: a thousand splits cost little more
than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.errors import UnknownSchedule
from danlu.nouns import Link, Plan
from danlu.plan.schedule import Instruction, instructions

Seconds = Any  # a float, or a numpy array of one float per split
Span = tuple[str, int, float, float]
Links = Mapping[tuple[int, int], Link]


@dataclass(frozen=True, slots=True)
class StageCost:
    """Seconds of each of a stage's instructions on its card: floats, or arrays of one per split.

    norm_s  of the norm of its gradient; tied_s  of adding the other end's gradient of a tied embedding
    weight_s  of the part of backward_s that weights' gradients take; split_s  more for both halves than for the whole
    data_s  of adding gradients that came from other ranks; weights_s  of taking over weights they have updated
    """

    forward_s: Seconds
    backward_s: Seconds
    norm_s: Seconds = 0.0
    tied_s: Seconds = 0.0
    step_s: Seconds = 0.0
    weight_s: Seconds = 0.0
    split_s: Seconds = 0.0
    data_s: Seconds = 0.0
    weights_s: Seconds = 0.0

    @property
    def input_s(self) -> Seconds:
        """Seconds of a backward that leaves the weights' gradients for later."""
        return self.backward_s + self.split_s - self.weight_s

    def of(self, each: Instruction) -> Seconds:
        """Seconds of one compute instruction."""
        if each.op == "reduce":
            return {"tied": self.tied_s, "data": self.data_s, "weights": self.weights_s}.get(each.what, self.norm_s)
        return {
            "forward": self.forward_s, "backward": self.backward_s, "step": self.step_s, "save": 0.0,
            "backward_input": self.input_s, "backward_weight": self.weight_s,
        }[each.op]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timeline:
    """A simulated step.

    step_s  seconds from one step's end to the next one's, once the pipeline runs
    spans   per stage, (instruction, micro-batch, start, end) of what it computes; seconds since the step's begin
    """

    step_s: float
    spans: tuple[tuple[Span, ...], ...]

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds each stage computes."""
        return tuple(sum(end - start for _, _, start, end in stage) for stage in self.spans)


Message = tuple[str, int, int, int]  # what, micro-batch, from stage, to stage
Moved = Mapping[tuple[str, int, int], int]  # (what of a reduce, from stage, to stage) -> bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One compute instruction with the messages that must have come, and those that are sent first and last.

    before  with those that the others send to it as they get there too
    """

    stage: int
    instruction: Instruction
    waits: tuple[Message, ...]
    before: tuple[tuple[Message, int], ...]
    after: tuple[tuple[Message, int], ...]


def simulate(
    lists: Sequence[Sequence[Instruction]], costs: Sequence[StageCost], links: Links, moved: Moved | None = None
) -> Timeline:
    """The timeline of one step.

    lists  one instruction list per stage
    costs  of each stage, in floats
    links  between stages, by (lower, higher) stage; messages between other stages take no time
    moved  bytes that sums over copies of the model exchange, where there are any
    Raises ValueError when the lists wait for each other for ever.
    """
    spans: list[list[Span]] = [[] for _ in lists]

    def note(event: Event, start: Seconds, end: Seconds) -> None:
        spans[event.stage].append((event.instruction.op, event.instruction.mb, start, end))

    seconds = steady(compiled(lists, moved or {}), costs, links, note, max)
    return Timeline(seconds, tuple(tuple(stage) for stage in spans))


def steady(
    events: Sequence[Event], costs: Sequence[StageCost], links: Links,
    note: Callable[[Event, Seconds, Seconds], None] | None = None,
    later: Callable[[Seconds, Seconds], Seconds] = np.maximum,
) -> Seconds:  # fmt: skip
    """Seconds from one step's end to the next one's. `note` is told every event of the first step; `later` is max."""
    clocks: list[Seconds] = [0.0] * len(costs)
    _charge(events, costs, links, clocks, note, later)
    first = _latest(clocks, later)
    _charge(events, costs, links, clocks, None, later)
    return _latest(clocks, later) - first


def compiled(lists: Sequence[Sequence[Instruction]], exchanged: Moved | None = None) -> tuple[Event, ...]:
    """All compute instructions of all stages in an order in which none waits for a later one.

    Raises ValueError when there is no such order.
    """
    todo = [_events(stage, each, len(lists), exchanged or {}) for stage, each in enumerate(lists)]
    at, sent, found = [0] * len(lists), set[Message](), list[Event]()
    opened: set[tuple[int, int]] = set()
    moved = True
    while moved:
        moved = False
        for stage, events in enumerate(todo):
            while at[stage] < len(events):
                event = events[at[stage]]
                if (stage, at[stage]) not in opened:
                    opened.add((stage, at[stage]))
                    sent |= {message for message, _ in event.before if message[2] == stage}
                    moved = True
                if not sent.issuperset(event.waits):
                    break
                sent |= {message for message, _ in event.after}
                found.append(event)
                at[stage] += 1
                moved = True
    stuck = {stage: events[at[stage]].instruction for stage, events in enumerate(todo) if at[stage] < len(events)}
    if stuck:
        each = (f"stage {stage} before {one.op} of micro-batch {one.mb}" for stage, one in stuck.items())
        raise ValueError(f"the lists wait for each other: {', '.join(each)}")
    return tuple(found)


def check_orders(plan: Plan) -> None:
    """Raises UnknownSchedule for one pipeline whose orders are not whole, or make its stages wait for each other."""
    lists = instructions(plan)
    try:
        compiled(lists)
    except ValueError as error:
        raise UnknownSchedule("the plan's orders do not hold", why=str(error),
                              fix="danlu plan run.yaml writes the plan anew") from error  # fmt: skip


def _events(stage: int, each: Sequence[Instruction], stages: int, moved: Moved) -> list[Event]:
    """The compute stream of one list, every instruction with the communication that hangs on it."""
    posts: dict[int, list[tuple[Message, int]]] = {}
    for one in each:
        if one.op == "send":
            posts.setdefault(one.after[0], []).append(((one.what, one.mb, stage, one.peer), one.bytes))
    others = [peer for peer in range(stages) if peer != stage]
    found = []
    for index, one in enumerate(each):
        if one.stream != "compute":
            continue
        waits = [(each[i].what, each[i].mb, each[i].peer, stage) for i in one.after if each[i].op == "recv"]
        before, after = [], posts.get(index, [])
        if one.what == "tied":
            before = [(("tied", -1, *way), one.bytes) for way in ((stage, one.peer), (one.peer, stage))]
            waits = [("tied", -1, one.peer, stage)]
        elif one.what in ("data", "weights"):
            ways = [way for peer in others for way in ((stage, peer), (peer, stage)) if (one.what, *way) in moved]
            before = [((one.what, -1, *way), moved[one.what, *way]) for way in ways]
            waits = [message for message, _ in before if message[3] == stage]
        elif one.what == "norm":
            after = [(("norm", -1, stage, peer), one.bytes) for peer in others]
        elif one.op == "step":
            waits = [("norm", -1, peer, stage) for peer in others]
        found.append(Event(stage, one, tuple(waits), tuple(before), tuple(after)))
    return found


def _charge(
    events: Sequence[Event], costs: Sequence[StageCost], links: Links, clocks: list[Seconds],
    note: Callable[[Event, Seconds, Seconds], None] | None, later: Callable[[Seconds, Seconds], Seconds],
) -> None:  # fmt: skip
    """Advance the stages' clocks by one step. A link carries one message after the other in each direction; latency
    delays a message and not the one behind it.
    """
    arrived: dict[Message, Seconds] = {}
    busy: dict[tuple[int, int], Seconds] = {}

    def send(message: Message, size: int, now: Seconds) -> None:
        _, _, source, target = message
        link = links.get((min(source, target), max(source, target)))
        if link is not None:
            gone = later(busy.get((source, target), 0.0), now) + size / link.bandwidth
            busy[source, target], now = gone, gone + link.latency_s
        arrived[message] = now

    for event in events:
        for message, size in event.before:
            # Whoever is waited for has got here, and does not go on before it has sent: its clock is that moment.
            if message not in arrived:
                send(message, size, clocks[message[2]])
        start = clocks[event.stage]
        for message in event.waits:
            start = later(start, arrived[message])
        end = start + costs[event.stage].of(event.instruction)
        clocks[event.stage] = end
        for message, size in event.after:
            send(message, size, end)
        if note is not None:
            note(event, start, end)


def _latest(clocks: Sequence[Seconds], later: Callable[[Seconds, Seconds], Seconds]) -> Seconds:
    found = clocks[0]
    for clock in clocks[1:]:
        found = later(found, clock)
    return found
