"""How a plan scales: the same model and batch on more cards, and where what is lost goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups import choose
from danlu.plan.groups.outlook import Outlook
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.stated.stack_time import Constants


@dataclass(frozen=True, slots=True)
class Point:
    """The fleet with every group `times` as large; speedup and efficiency beside the first of them."""

    times: float
    cards: int
    best: Outlook
    speedup: float
    efficiency: float


def scaled(
    spec: ModelSpec, fleet: GroupedFleet, times: Sequence[float], *, batch: int, seq: int, schedule: str = "zb-h1",
    stack: Stack | None = None, constants: Constants | None = None, say: Callable[[str], None] | None = None,
) -> tuple[Point, ...]:  # fmt: skip
    """One search per size, smallest first. Raises DoesNotFit where the smallest does not hold the model."""
    found: list[Point] = []
    for each in sorted(times):
        groups = tuple(replace(group, count=max(1, round(group.count * each))) for group in fleet.groups)
        larger = replace(fleet, groups=groups)
        best = choose.best(spec, larger, batch=batch, seq=seq, schedule=schedule, stack=stack, constants=constants,
                           say=say).best  # fmt: skip
        first = found[0] if found else None
        speedup = first.best.seconds / best.seconds if first else 1.0
        efficiency = speedup * first.cards / larger.cards if first else 1.0
        found.append(Point(each, larger.cards, best, speedup, efficiency))
    return tuple(found)
