"""When each stage of a pipeline does what: its order played from the stages' own seconds, for a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from danlu.plan.events import StageCost
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.stage_ways import rated
from danlu.plan.groups.unit_cost import KINDS, Stack, setup_of
from danlu.plan.order import listed, rules
from danlu.plan.stated.stack_time import prices, published
from danlu.plan.stated.stack_work import unit

RULES = 12  # orders tried
WORDS = {"F": "forward", "B": "backward", "I": "backward", "W": "weight"}


@dataclass(frozen=True, slots=True)
class Bar:
    """Something a stage does: "forward", "backward", "weight" (the put-off half of one), "message" or "once"
    (gradients, optimizer); seconds."""

    kind: str
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a stage: of one micro-batch each way, of messages to the next and the one before, once a step; and of
    what a zero-bubble order puts off of a backward."""

    forward: float
    backward: float
    ahead: float
    back: float
    once: float
    weight: float = 0.0

    def seconds(self, letter: str) -> float:
        """Of a forward F, a backward B, or its halves: I for the inputs, W for the weights."""
        return {"F": self.forward, "B": self.backward, "I": self.backward - self.weight, "W": self.weight}[letter]


def bars(plan: GroupedPlan, each: Replicas) -> list[list[Bar]]:
    """Per stage, in time: every micro-batch there and back under the plan's order, and what is done once.

    A message blocks its sender, as the forecast has it. Cost: stages * micro-batches.
    """
    parts = [parts_of(plan, each, stage) for stage in each.stages]
    count = len(parts)
    orders = letters(parts, each.micro_batches, halves=plan.schedule != "1f1b")
    done: dict[tuple[str, int, int], float] = {}
    clock, did = [0.0] * count, [dict.fromkeys(WORDS, 0) for _ in parts]
    found: list[list[Bar]] = [[] for _ in parts]
    moved = True
    while moved:
        moved = False
        for stage, mine in enumerate(parts):
            while (at := sum(did[stage].values())) < len(orders[stage]):
                letter = orders[stage][at]
                way = "F" if letter == "F" else "B"
                number = did[stage]["F"] if letter == "F" else did[stage]["B"] + did[stage]["I"]
                needs = None if letter == "W" else _needs(way, number, stage, count)
                if needs is not None and needs not in done:
                    break
                begin = max(clock[stage], done[needs] if needs else 0.0)
                stop = begin + mine.seconds(letter)
                found[stage].append(Bar(WORDS[letter], begin, stop))
                message = {"F": mine.ahead, "W": 0.0}.get(letter, mine.back)
                if message:
                    found[stage].append(Bar("message", stop, stop + message))
                    stop += message
                if letter != "W":
                    done[way, number, stage] = stop
                clock[stage] = stop
                did[stage][letter] += 1
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
    # A stage delays the first micro-batch by its seconds less that half, on the way there and on the way back.
    weight = min(busy * (1 - share), (stage.time_s - stage.fill_s) / 2) if each.chunks == 1 else 0.0
    return Parts(busy * share, busy * (1 - share), ahead, back, stage.step_s, weight)


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


def letters(parts: Sequence[Parts], many: int, *, halves: bool) -> tuple[str, ...]:
    """What each stage does in turn: F forward, B backward, or its halves, I for the inputs and W for the weights.

    Without halves 1F1B. With them the shortest of some orders that danlu train's own rules make of such stages
    (order.py), in which no stage keeps more micro-batches than there are stages (ZB-H1, arXiv 2401.10241).
    """
    count = len(parts)
    if not halves:
        ahead = [min(many, count - at) for at in range(count)]
        return tuple("F" * n + "BF" * (many - n) + "B" * n for n in ahead)
    costs = [StageCost(each.forward + each.ahead, each.backward + each.back, weight_s=each.weight) for each in parts]
    tried = itertools.islice(rules(costs, {}, 0, many, [count] * count), RULES)
    return min(listed(costs, {}, 0, many, rule) for rule in tried)[1]


def formula(each: Replicas, many: int) -> float:
    """Seconds that the forecast has for so many micro-batches: pipelines.py."""
    stages = each.stages
    return max(many * stage.time_s - stage.fill_s + stage.step_s for stage in stages) + sum(s.fill_s for s in stages)


def _needs(way: str, number: int, stage: int, count: int) -> tuple[str, int, int] | None:
    """What must be done before: the same micro-batch on the stage before, or behind on the way back."""
    if way == "F":
        return ("F", number, stage - 1) if stage else None
    return ("B", number, stage + 1) if stage < count - 1 else ("F", number, stage)
