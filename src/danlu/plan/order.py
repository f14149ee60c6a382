"""Orders for stages of unequal speed: list scheduling on simulated time (schedule "zb").

Every stage that falls free takes the most urgent thing that can be done at that moment: a backward, which others wait
for; else a forward, while it holds less than its cap; else the weights' half of a backward it has split. A few rules
for caps and for which backwards are split are tried, and the one whose simulated step is shortest is kept.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from danlu.plan.events import Links, StageCost

SLACKS = (1, 4, 0, 2, 8)  # micro-batches in flight beyond those a round trip to the last stage needs, best first


@dataclass(frozen=True, slots=True)
class Rule:
    """What a stage may hold and what it splits.

    caps   most micro-batches each stage holds: forwards minus weight passes
    split  of each stage, the micro-batch from which backwards come in two halves
    """

    caps: tuple[int, ...]
    split: tuple[int, ...]


def rules(
    costs: Sequence[StageCost], links: Links, size: int, micro_batches: int, room: Sequence[int]
) -> Iterator[Rule]:
    """Rules worth trying, those that win most often first.

    size  bytes of a message; room  most micro-batches each stage's card has the memory for
    """
    stages, seen = len(costs), set[Rule]()
    busy = max(cost.forward_s + cost.backward_s for cost in costs)
    trips = _round_trips(costs, links, size)
    for slack in SLACKS:
        for base in ([math.ceil(trip / busy) for trip in trips], list(range(stages, 0, -1))):
            caps = tuple(max(1, min(b + slack, r, micro_batches)) for b, r in zip(base, room, strict=True))
            for late in (0, micro_batches, micro_batches - caps[0], micro_batches - caps[0] // 2):
                rule = Rule(caps, tuple(max(0, late) if stage else micro_batches for stage in range(stages)))
                if rule not in seen:
                    seen.add(rule)
                    yield rule


def _round_trips(costs: Sequence[StageCost], links: Links, size: int) -> list[float]:
    """Seconds from a stage's forward of a micro-batch to the end of its backward, when nobody is in the way."""
    found, trip = [], 0.0
    for stage in reversed(range(len(costs))):
        link = links.get((stage, stage + 1))
        trip += costs[stage].forward_s + costs[stage].input_s + (2 * link.seconds(size) if link else 0.0)
        found.append(trip)
    return found[::-1]


def listed(
    costs: Sequence[StageCost], links: Links, size: int, micro_batches: int, rule: Rule
) -> tuple[float, tuple[str, ...]]:
    """The letters of each stage under a rule, and when the last stage has done its last."""
    last = len(costs) - 1
    stages = [_Stage(cap, split) for cap, split in zip(rule.caps, rule.split, strict=True)]
    stages[0].acts = micro_batches
    lanes: dict[tuple[int, int], float] = {}
    events = [(0.0, "ready", stage) for stage in range(last + 1)]  # at one moment "act" and "grad" come before "ready"

    def tell(moment: float, stage: int, what: str) -> None:
        heapq.heappush(events, (moment, what, stage))

    def send(moment: float, source: int, target: int, what: str) -> None:
        link = links.get((min(source, target), max(source, target)))
        if link is not None:
            gone = max(moment, lanes.get((source, target), 0.0)) + size / link.bandwidth
            lanes[source, target], moment = gone, gone + link.latency_s
        tell(moment, target, what)

    while events:
        now, what, index = heapq.heappop(events)
        stage, cost = stages[index], costs[index]
        stage.acts += what == "act"
        stage.grads += what == "grad"
        if now < stage.free or not (letter := stage.next(micro_batches)):
            continue
        stage.free = now + {"F": cost.forward_s, "B": cost.backward_s, "I": cost.input_s, "W": cost.weight_s}[letter]
        tell(stage.free, index, "ready")
        if letter == "F":
            if index < last:
                send(stage.free, index, index + 1, "act")
            else:
                stage.grads += 1  # the loss is its own gradient
        elif letter in "BI" and index > 0:
            send(stage.free, index, index - 1, "grad")
    return max(stage.free for stage in stages), tuple("".join(stage.letters) for stage in stages)


class _Stage:
    """What one stage has done, and what has come to it, at a moment of the schedule's making."""

    def __init__(self, cap: int, split: int) -> None:
        self.cap, self.split, self.free = cap, split, 0.0
        self.acts = self.grads = 0  # activations and gradients that have come, over all
        self.forward = self.back = self.weights = self.halves = 0
        self.letters: list[str] = []

    def next(self, micro_batches: int) -> str:
        """The letter to do now; none when nothing can be done."""
        if self.back < self.grads:
            letter = "I" if self.back >= self.split else "B"
        elif self.forward < self.acts and self.forward - self.weights < self.cap:
            letter = "F"
        elif self.halves:
            letter = "W"
        else:
            return ""
        self.forward += letter == "F"
        self.back += letter in "BI"
        self.halves += (letter == "I") - (letter == "W")
        self.weights += letter in "BW"
        self.letters.append(letter)
        return letter
