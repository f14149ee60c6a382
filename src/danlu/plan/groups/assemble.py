"""Pipelines and how often they run, made into a plan: whole micro-batches, and the costs of just so many replicas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups.chunks import ORDERS, depths, in_chunks, of_layers
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.interleaved import played
from danlu.plan.groups.pipelines import Pipeline, Span, messages, pipelines
from danlu.plan.groups.pricing import MOST_STAGES, Space, space
from danlu.plan.groups.stage_ways import Floats, StageWays, micro_batch_sizes, moment_of, stage_ways
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.stated.stack_time import Constants


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be planned; `most_sequences` of one micro-batch at most, ZeRO up to level `zero`."""

    spec: ModelSpec
    fleet: GroupedFleet
    batch: int
    seq: int
    schedule: str = "zb-h1"
    most_sequences: int = 4
    stack: Stack | None = None
    constants: Constants | None = None
    zero: int = 1

    @property
    def there(self) -> Floats:
        """(groups,) cards."""
        return np.array([group.count for group in self.fleet.groups], dtype=float)

    def ways(
        self, micro_batch: int, replicas: int, most: int | None = None, every: bool = False, chunks: int = 1,
        apart: bool | None = None,
    ) -> StageWays:  # fmt: skip
        """The ways of one micro-batch size with so many pipelines, or that many to `most`; `every`: worse ones too.

        apart  whether gradients are summed over hosts of several groups, however few pipelines there are; unless said,
               where there are several. Never of an open number of pipelines: those have the least that any plan has.
        """
        apart = (len(self.fleet.groups) > 1 if apart is None else apart) and most is None
        plain = "1f1b" if chunks > 1 else ORDERS[self.schedule].plain
        found = stage_ways(self.spec, self.fleet, micro_batch=micro_batch, seq=self.seq, replicas=replicas, most=most,
                           schedule=plain, stack=replace(self.stack or Stack(), apart=apart),
                           constants=self.constants, zero=self.zero, every=every)  # fmt: skip
        return found if chunks == 1 else in_chunks(found, chunks)

    def spaces(self, replicas: int, most: int | None = None, stages: int = MOST_STAGES) -> list[Space]:
        """One per micro-batch size, with pipelines of so many stages at most, each stage in one piece."""
        return [space(self.ways(size, replicas, most), len(self.fleet.groups), stages) for size in self._sizes]

    def chunked(self, replicas: int, stages: int = MOST_STAGES) -> list[Space]:
        """One per micro-batch size, number of chunks of every stage, and most stages: what each keeps grows with it."""
        found = []
        for size, chunks in itertools.product(self._sizes, ORDERS[self.schedule].chunks):
            ways = of_layers(self.ways(size, replicas, chunks=chunks), self.spec)
            for most in depths(min(stages, self.spec.layers // chunks)):  # every chunk holds a layer
                found.append(space(ways, len(self.fleet.groups), most, fewest=most))
        return found

    @property
    def _sizes(self) -> Sequence[int]:
        return micro_batch_sizes(self.batch, self.most_sequences)

    def deepest(self, pipelines: int) -> int:
        """Stages that the longest of so many pipelines can have by the cards and by the batch."""
        return max(1, min(self.fleet.cards, self.batch - pipelines + 1))

    def longest(self, pipelines: int, micro_batch: int) -> int:
        """Micro-batches of a pipeline's even share of the batch: stages of the longest."""
        return max(1, math.ceil(self.batch // pipelines / micro_batch))

    def part(self, group: int) -> Ask:
        """The same with the cards of one group alone."""
        return replace(self, fleet=replace(self.fleet, groups=(self.fleet.groups[group],)))


def finished(ask: Ask, chosen: Sequence[tuple[Pipeline, int]], kind: str) -> GroupedPlan:
    """The plan of these pipelines with the costs of so many replicas, each no longer than the batch needs."""
    pipelines = sum(count for _, count in chosen)
    kinds = {(each.micro_batch, each.ways.chunks) for each, _ in chosen}
    apart = bool(np.count_nonzero(sum(each.cards for each, _ in chosen)) > 1)
    tables = {(size, n): ask.ways(size, pipelines, every=True, chunks=n, apart=apart) for size, n in kinds}
    moving = [(each, tables[each.micro_batch, each.ways.chunks]) for each, _ in chosen]
    moved = again(moving, len(ask.fleet.groups))
    real = [(new or each, count) for new, (each, count) in zip(moved, chosen, strict=True)]
    shares = shared(real, ask.batch)
    parts = []
    for (each, _), batches in zip(real, shares, strict=True):
        for count, micro_batches in batches:
            parts.append(Replicas(count, _stages(each, ask.fleet), each.micro_batch, micro_batches,
                                  each.seconds(micro_batches), each.ways.chunks))  # fmt: skip
    plain = ORDERS[ask.schedule].plain
    dtype = (ask.stack or Stack()).precision
    return played(GroupedPlan(kind, ask.spec, ask.fleet, ask.batch, ask.seq, plain, _merged(parts), 0.0, dtype))


def shared(chosen: Sequence[tuple[Pipeline, int]], batch: int) -> list[list[tuple[int, int]]]:
    """(copies, micro-batches) for each pipeline so that the last one ends as early as it can and all do the batch.

    Every pipeline has a micro-batch for each stage or more; what they could do beyond the batch is taken from copies of
    the slowest.
    """
    low = max(each.seconds(len(each.stages)) for each, _ in chosen) * (1 + 1e-12)
    high = max(each.seconds(each.whole(math.ceil(batch / each.micro_batch))) for each, _ in chosen)
    high *= 1 + 1e-12
    if sum(count * each.sequences(low) for each, count in chosen) >= batch:
        high = low
    while high > low * (1 + 1e-14):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if sum(count * each.sequences(middle) for each, count in chosen) >= batch:
            high = middle
        else:
            low = middle
    many = [each.sequences(high) // each.micro_batch for each, _ in chosen]
    over = sum(count * n * each.micro_batch for (each, count), n in zip(chosen, many, strict=True)) - batch
    found = [{n: count} for (_, count), n in zip(chosen, many, strict=True)]
    # A turn of micro-batches less for a copy of whichever pipeline ends last, while there is more than the batch.
    turns = [each.turn for each, _ in chosen]
    while True:
        spare = [(chosen[i][0].seconds(n), i, n) for i, each in enumerate(found) for n in each
                 if n > len(chosen[i][0].stages) and chosen[i][0].micro_batch * turns[i] <= over]  # fmt: skip
        if not spare:
            break
        _, i, n = max(spare)
        size = chosen[i][0].micro_batch * turns[i]
        fewer = min(found[i][n], over // size)
        over -= fewer * size
        found[i][n] -= fewer
        found[i][n - turns[i]] = found[i].get(n - turns[i], 0) + fewer
        found[i] = {n: count for n, count in found[i].items() if count}
    return [[(count, n) for n, count in each.items()] for each in found]


def again(moving: Sequence[tuple[Pipeline, StageWays]], groups: int) -> list[Pipeline | None]:
    """The same stages with the costs of another table each, one cut anywhere; None where that one lacks a way."""
    found: list[Pipeline | None] = [None] * len(moving)
    tables: dict[tuple[int, int], list[int]] = {}
    for at, (each, ways) in enumerate(moving):
        tables.setdefault((id(each.ways), id(ways)), []).append(at)
    for alike in tables.values():
        old, ways = moving[alike[0]][0].ways, moving[alike[0]][1]
        index = {way: row for row, way in enumerate(zip(ways.group.tolist(), ways.ways, strict=True))}
        row = [index.get(way) for way in zip(old.group.tolist(), old.ways, strict=True)]
        unit = [old.unit(place) for place in range(old.units + 1)]
        spans = {at: tuple([Span(new, unit[start], unit[stop]) for way, start, stop in moving[at][0].stages
                            if (new := row[way]) is not None]) for at in alike}  # fmt: skip
        able = [at for at in alike if len(spans[at]) == len(moving[at][0].stages)]
        for at, made in zip(able, pipelines(ways, [spans[at] for at in able], groups), strict=True):
            found[at] = made
    return found


def _stages(each: Pipeline, fleet: GroupedFleet) -> tuple[GroupStage, ...]:
    ways, last = each.ways, len(each.stages) - 1
    ahead, back = messages(ways, [span.way for span in each.stages])
    return tuple(
        GroupStage(int(ways.group[span.way]), ways.ways[span.way], ways.unit(span.start), ways.unit(span.stop),
                   float(each.time[i]), float(each.after[i] - each.time[i] + each.fills[i]), float(each.fills[i]),
                   int(each.bytes[i]), float(ahead[i]), float(back[i]),
                   moment_of(fleet.groups[int(ways.group[span.way])], float(ways.room[span.way, int(i == last)])),
                   int(ways.kept[span.way, span.stop] - ways.kept[span.way, span.start]))
        for i, span in enumerate(each.stages)
    )  # fmt: skip


def _merged(parts: Iterable[Replicas]) -> tuple[Replicas, ...]:
    """Equal pipelines counted together, the most copies first."""
    found: dict[tuple[object, ...], Replicas] = {}
    for each in parts:
        key = (each.stages, each.micro_batch, each.micro_batches, each.chunks)
        if key in found:
            each = replace(each, copies=each.copies + found[key].copies)
        found[key] = each
    return tuple(sorted(found.values(), key=lambda each: -each.copies))
