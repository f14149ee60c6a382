"""How far a plan can be from the best there is, and the certificate by which anyone can check that (docs/formats.md).

found = large.search(spec, fleet, batch=1024, seq=4096)
proved = certificate.prove_gap(found)
proved.gap                       # 0.01: no plan of these classes is faster by more than 1 %
path.write_text(certificate.dumps(proved))
verify.checked(json.loads(path.read_text()))    # plan/proof/verify.py, which shares no code with the search
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu import recipe
from danlu.errors import BadValue
from danlu.nouns import ModelSpec
from danlu.plan.groups.assemble import Ask, again
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.grouped import GroupedPlan, GroupStage
from danlu.plan.groups.large import Found
from danlu.plan.groups.pipelines import Pipeline
from danlu.plan.groups.pricing import DEEPEST, MOST_STAGES
from danlu.plan.groups.stage_ways import StageWays
from danlu.plan.groups.unit_cost import KINDS
from danlu.plan.proof.bound import HUGE, Bound, bound, fluid

VERSION = 4
RANGES = 8  # of numbers of pipelines
PROVED = 0.995  # of the plan's seconds: a bound so near is not mended
NEAR = 0.985  # a bound so near is mended as long as it gains
GAIN = 0.002  # by halving a range
NEARLY = 0.9  # of what a pipeline costs
NONE, IDLE = 0.0005, 2  # halves that gain so little so often in a row are what holds the bound down


@dataclass(frozen=True, slots=True)
class Proved:
    """A plan and what bounds it: one Bound for every number of pipelines there may be, of `stages` stages at most."""

    ask: Ask
    plan: GroupedPlan
    bounds: tuple[Bound, ...]
    stages: int = MOST_STAGES

    @property
    def bound_s(self) -> float:
        """No plan has a shorter step."""
        return min(self.plan.seconds, *(each.seconds for each in self.bounds))

    @property
    def gap(self) -> float:
        """The plan's seconds over the bound's, less 1; infinite where no bound was found."""
        return self.plan.seconds / self.bound_s - 1.0 if self.bound_s > 0 else float("inf")


def prove_gap(found: Found) -> Proved:
    """The bound of a search's plan, range by range of numbers of pipelines: the range with the least bound is halved.

    So few pipelines do not share the optimizer's states of many, and many do not sum gradients inside a host, where
    links are fast, as few do. Ends where halves are of no use: PROVED of the plan's seconds, NEAR it without GAIN, IDLE
    times no better than the whole, one number of pipelines, or RANGES.
    Raises BadValue for a search whose stages may be in chunks: the bound speaks of stages in one piece.
    """
    ask, plan = found.ask, found.plan
    if ORDERS[ask.schedule].chunks:
        raise BadValue(f"no bound is proved of --schedule {ask.schedule}", why="the proof speaks of stages in one "
                       "piece, not in chunks of layers", fix="--schedule zb-h1")  # fmt: skip
    stages = MOST_STAGES if all(len(each.stages) <= MOST_STAGES for each in plan.replicas) else DEEPEST
    bounds = [_bound(found, found.columns, 1, min(ask.fleet.cards, ask.batch), stages)]
    near = [each for each in found.columns if _is_near(each, bounds[0])]
    idle = 0
    while len(bounds) < RANGES:
        worst = min(bounds, key=lambda each: each.seconds)
        if worst.fewest == worst.most or worst.seconds >= PROVED * plan.seconds:
            break
        middle = math.isqrt(worst.fewest * worst.most)
        halves = [_bound(found, near, *ends, stages) for ends in ((worst.fewest, middle), (middle + 1, worst.most))]
        half = min(each.seconds for each in halves)
        if half <= 0:
            break
        bounds = [each for each in bounds if each is not worst] + halves
        gained = min(each.seconds for each in bounds) - worst.seconds
        if worst.seconds + gained >= NEAR * plan.seconds and gained < GAIN * plan.seconds:
            break
        idle = idle + 1 if half - worst.seconds < NONE * plan.seconds else 0
        if idle == IDLE:
            break
    return Proved(ask, plan, tuple(sorted(bounds, key=lambda each: each.fewest)), stages)


def _is_near(each: Pipeline, whole: Bound) -> bool:
    """Whether a pipeline does nearly what it costs; others would not change the prices of a range."""
    return fluid(each, whole.seconds) - whole.place >= NEARLY * float(whole.prices @ each.cards)


def _bound(found: Found, known: Sequence[Pipeline], fewest: int, most: int, stages: int) -> Bound:
    """No plan of so many pipelines beats it; `known` pipelines to begin from."""
    ask = found.ask
    spaces = [each.apart for each in ask.spaces(fewest, most, stages)]
    tables = {each.ways.micro_batch: each.ways for each in spaces}
    moved = again([(each, tables[each.micro_batch]) for each in known], len(ask.fleet.groups))
    columns = [each for each in moved if each is not None]
    return bound(spaces, columns, ask.there, ask.batch, found.plan.seconds, fewest, most)


def dumps(proved: Proved) -> str:
    """The certificate as JSON."""
    return json.dumps(as_dict(proved))


def as_dict(proved: Proved) -> dict[str, Any]:
    """The certificate as plain values."""
    ask, plan = proved.ask, proved.plan
    sizes, apart = {each.micro_batch for each in plan.replicas}, sum(n > 0 for n in plan.used) > 1
    tables = {size: _holding(ask.ways(size, plan.pipelines, every=True, apart=apart)) for size in sizes}
    return {
        "certificate": VERSION,
        "model": _model(ask.spec),
        "batch": ask.batch,
        "stages": proved.stages,
        "cards": [group.count for group in ask.fleet.groups],
        "names": [group.card for group in ask.fleet.groups],
        "plan": {
            "seconds": plan.seconds,
            "tables": [_table(ask.spec, table) for table in tables.values()],
            "replicas": [
                {"copies": each.copies, "micro_batch": each.micro_batch, "micro_batches": each.micro_batches,
                 "stages": [_stage(tables[each.micro_batch], stage) for stage in each.stages]}
                for each in plan.replicas
            ],
        },
        "bound_s": proved.bound_s,
        "bounds": [
            {"fewest": each.fewest, "most": each.most, "seconds": each.seconds, "prices": each.prices.tolist(),
             "place": each.place, "tables": [_table(ask.spec, where.ways) for where in each.spaces],
             "intervals": [[None if end >= HUGE else end for end in ends] for ends in each.intervals]}
            for each in proved.bounds
        ],
    }  # fmt: skip


def _model(spec: ModelSpec) -> dict[str, Any]:
    if spec.dense_layers:  # layers unlike each other are told as one of all their units
        return {"layers": 1, "recipe": [recipe.kind_of(unit) for unit in spec.units[1:-1]]}
    return {"layers": spec.layers, "recipe": list(spec.recipe)}


def _table(spec: ModelSpec, ways: StageWays) -> dict[str, Any]:
    """The ways at one micro-batch size; figures of units by their kinds."""
    kinds = [recipe.kind_of(unit) for unit in spec.units]
    first = {kind: kinds.index(kind) for kind in KINDS if kind in kinds}

    def by_kind(sums: Any) -> list[list[float]]:
        return [[float(row[at + 1] - row[at]) for at in first.values()] for row in sums]

    figures = {name: by_kind(getattr(ways, name)) for name in ("time", "fill", "step", "held", "kept")}
    return {
        "micro_batch": ways.micro_batch, "kinds": list(first), "group": ways.group.tolist(),
        "cards": ways.cards.tolist(), "hops": ways.hops.tolist(), "room": ways.room.tolist(), **figures,
        "way": [[way.tp, way.recompute, way.cp, way.ep, way.zero, way.offload, way.spill] for way in ways.ways],
    }  # fmt: skip


def _holding(ways: StageWays) -> StageWays:
    """Those in which a card holds some unit."""
    return ways.only((np.diff(ways.held + ways.kept, axis=1) <= ways.room[:, :1]).any(axis=1))


def _stage(ways: StageWays, stage: GroupStage) -> list[int]:
    """Way, start and stop of a stage."""
    way = next(i for i, (group, each) in enumerate(zip(ways.group, ways.ways, strict=True))
               if (group, each) == (stage.group, stage.way))  # fmt: skip
    return [way, stage.start, stage.stop]
