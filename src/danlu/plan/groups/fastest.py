"""The fastest pipeline for every number of cards of each group and every number of micro-batches. Exact.

Cards of a group are alike, so that a pipeline's beginning is known by how many it took. Labels (longest load, fill) are
carried from the model's end to its front and dropped when another label of the same cards and units, with no more
stages, is no worse in both, or when no front that could be put before them ends within the limit. A message takes as
long as the two groups that it joins let it, so that a label says of which group the stage before it must be.
csrc/plan/fastest.cpp does that; `in_python` is the same without a compiler and without the look ahead: the reference.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu import native
from danlu.plan.groups.pipelines import Span
from danlu.plan.groups.stage_ways import Floats, Ints, StageWays, memory_ends

Cards = tuple[int, ...]
Label = tuple[float, float, tuple[Span, ...]]
Key = tuple[int, Cards, int, int]  # first unit, cards taken, group of the first stage, and of the one that comes before


@dataclass(frozen=True, slots=True)
class Fastest:
    """The fastest pipelines with 1, 2, ... micro-batches, as many as some pipeline gets through within the limit.

    Few micro-batches may have none where more have one, for they fill fewer stages.


    seconds  (micro-batches, states) of a step; infinite where no pipeline takes just these cards. A state is a number
             of cards of each group, `states` in mixed radix, the first group's digit the lowest
    count    (micro-batches, states) stages
    stages   (micro-batches, states, depth, 2) way and start of each, first stage first
    """

    ways: StageWays
    seconds: Floats
    count: Ints
    stages: Ints

    def spans(self, micro_batches: int, state: int) -> tuple[Span, ...]:
        """The stages of one of them."""
        found = self.stages[micro_batches - 1, state, : self.count[micro_batches - 1, state]].tolist()
        stops = [*(start for _, start in found[1:]), self.ways.units]
        return tuple(Span(way, start, stop) for (way, start), stop in zip(found, stops, strict=True))


def states(there: Sequence[int]) -> Ints:
    """(states, groups) cards of each state."""
    axes = np.meshgrid(*(np.arange(n + 1) for n in reversed(there)), indexing="ij")
    return np.stack([each.ravel() for each in reversed(axes)], axis=1).astype(np.int64)


def fastest(ways: StageWays, there: Cards, most: int, limit: float, longest: int) -> Fastest:
    """The fastest pipelines that do 1 to `most` micro-batches in less than `limit` seconds.

    there    cards of each group
    longest  stages of a pipeline; it has no more of them than micro-batches either
    """
    library, asked = native.library(), (ways, there, most, limit, longest)
    return in_python(*asked) if library is None else _natively(library, *asked)


def _empty(ways: StageWays, there: Cards, most: int, longest: int) -> Fastest:
    shape, depth = (most, math.prod(n + 1 for n in there)), min(ways.units, sum(there), longest)
    return Fastest(ways, np.full(shape, np.inf), np.zeros(shape, np.int64), np.zeros((*shape, depth, 2), np.int64))


def _first(found: Fastest, many: int) -> Fastest:
    return Fastest(found.ways, found.seconds[:many], found.count[:many], found.stages[:many])


class _In(ctypes.Structure):
    """`danlu_fastest_in` of csrc/plan/fastest.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("ways", "places", "depth", "groups")),
        *((name, ctypes.c_void_p) for name in ("time", "fill", "after", "hops", "memory", "group", "cards", "there")),
    ]  # fmt: skip


def _natively(
    library: ctypes.CDLL, ways: StageWays, there: Cards, most: int, limit: float, longest: int
) -> Fastest:  # fmt: skip
    found = _empty(ways, there, most, longest)
    depth = found.stages.shape[2]
    held: list[Any] = [np.ascontiguousarray(each) for each in (ways.time, ways.fill, ways.after, ways.hops)]
    whole = (memory_ends(ways, depth), ways.group, ways.cards, there)
    held += [np.ascontiguousarray(each, dtype=np.int64) for each in whole]
    given = _In(len(ways.ways), ways.units + 1, depth, len(there), *(each.ctypes.data for each in held))
    out = [ctypes.c_void_p(each.ctypes.data) for each in (found.seconds, found.count, found.stages)]
    reached = ctypes.c_int64()
    status = library.danlu_fastest(
        ctypes.byref(given), ctypes.c_int64(most), ctypes.c_double(limit), *out, ctypes.byref(reached)
    )
    assert status == 0 and held, f"danlu_fastest answered {status}"
    return _first(found, reached.value)


def in_python(ways: StageWays, there: Cards, most: int, limit: float, longest: int) -> Fastest:
    """The same, label by label."""
    found = _empty(ways, there, most, longest)
    depth = found.stages.shape[2]
    index = {tuple(row): at for at, row in enumerate(states(there).tolist())}
    for many in range(1, most + 1):
        whole = _pipelines(ways, there, many, limit, min(depth, many))
        if not whole and many >= depth:
            return _first(found, many - 1)  # more micro-batches take longer still
        for cards, (seconds, spans) in whole.items():
            at = many - 1, index[cards]
            found.seconds[at], found.count[at] = seconds, len(spans)
            found.stages[at][: len(spans)] = [(span.way, span.start) for span in spans]
    return found


def _pipelines(
    ways: StageWays, there: Cards, many: int, limit: float, depth: int
) -> dict[Cards, tuple[float, tuple[Span, ...]]]:  # fmt: skip
    """The fastest pipeline of each number of cards that does `many` micro-batches in less than `limit` seconds."""
    units, memory = ways.units, memory_ends(ways, depth).tolist()
    time, fill, after, hops = (each.tolist() for each in (ways.time, ways.fill, ways.after, ways.hops))
    group, size = ways.group.tolist(), ways.cards.tolist()
    whole: dict[Cards, tuple[float, tuple[Span, ...]]] = {}
    behind: dict[Key, list[Label]] = {(units, (0,) * len(there), g, g): [(0.0, 0.0, ())] for g in range(len(there))}
    seen: dict[Key, list[Label]] = {}
    for place, ends in enumerate(memory):
        front: dict[Key, list[Label]] = {}
        for (stop, used, next_, mine), labels in behind.items():
            for way in [way for way, each in enumerate(group) if each == mine]:
                cards = tuple(n + size[way] * (at == group[way]) for at, n in enumerate(used))
                if cards[group[way]] > there[group[way]]:
                    continue
                for start in range(stop - 1, -1, -1):
                    if ends[way][start] < stop:
                        break
                    for before in range(len(there) if start else 1):
                        sent = hops[way][before] * (start > 0) + hops[way][next_] * (place > 0)
                        busy = time[way][stop] - time[way][start] + sent
                        late = fill[way][stop] - fill[way][start] + sent
                        load = (many - 1) * busy + after[way][stop] - after[way][start]
                        key = start, cards, mine, before
                        for longest, filled, spans in labels:
                            label = max(longest, load), filled + late, (Span(way, start, stop), *spans)
                            if label[0] + label[1] >= limit:
                                continue
                            if start == 0:
                                if cards not in whole or label[0] + label[1] < whole[cards][0]:
                                    whole[cards] = label[0] + label[1], label[2]
                            elif _new(seen.setdefault(key, []), label):
                                front.setdefault(key, []).append(label)
        if not front:
            break
        behind = front
    return whole


def _new(known: list[Label], label: Label) -> bool:
    """Keep a label unless one with as many stages or fewer is no worse."""
    if any(each[0] <= label[0] and each[1] <= label[1] for each in known):
        return False
    known.append(label)
    return True
