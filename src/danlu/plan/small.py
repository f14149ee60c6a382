"""The very best plan of a small fleet: every pipeline that is not beaten in everything, and every choice of them.

Column generation (plan/pricing.py) deals in prices, which mean little where a fleet is a handful of cards. Here labels
(longest load, fill) are carried from the model's end to its front, for every number of pipelines and micro-batches, and
dropped when another label of the same cards is no worse in both, or when they exceed the best plan known. Exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from danlu.plan.pipelines import Pipeline, Span, pipeline
from danlu.plan.stage_ways import StageWays, memory_ends

Cards = tuple[int, ...]
Label = tuple[float, float, tuple[Span, ...]]
Choice = tuple[float, tuple[Pipeline, ...]]


def best_choice(
    tables: Callable[[int, int], StageWays], there: Cards, batch: int, sizes: Sequence[int], seconds: float
) -> Choice | None:  # fmt: skip
    """The pipelines of a plan whose step is below `seconds`, and that step; None where there is none.

    tables   the ways of a micro-batch size with so many pipelines
    """
    best: Choice | None = None
    for pipelines in range(1, min(sum(there), batch) + 1):
        each = [(tables(size, pipelines), size) for size in sizes]
        limit = seconds if best is None else best[0]
        found = _chosen(_candidates(each, there, batch - pipelines + 1, limit), there, batch, pipelines)
        if found is not None and found[0] < limit:
            best = found
    return best


def _candidates(
    tables: Sequence[tuple[StageWays, int]], there: Cards, most: int, limit: float
) -> list[tuple[Cards, int, float, Pipeline]]:  # fmt: skip
    """(cards, sequences, seconds, pipeline), the fastest of each pair of cards and sequences."""
    found: dict[tuple[Cards, int], tuple[float, Pipeline]] = {}
    for ways, size in tables:
        if not len(ways.ways):
            continue
        for many in range(1, -(-most // size) + 1):
            reached = False
            for cards, (seconds, spans) in _pipelines(ways, there, many, limit).items():
                reached = True
                key = cards, many * size
                if key not in found or seconds < found[key][0]:
                    found[key] = seconds, pipeline(ways, spans, len(there))
            if not reached:
                break  # more micro-batches take longer still
    return [(cards, done, seconds, each) for (cards, done), (seconds, each) in found.items()]


def _pipelines(
    ways: StageWays, there: Cards, many: int, limit: float
) -> dict[Cards, tuple[float, tuple[Span, ...]]]:  # fmt: skip
    """The fastest pipeline of each number of cards that does `many` micro-batches in less than `limit` seconds."""
    units, memory = ways.units, memory_ends(ways, min(ways.units, sum(there))).tolist()
    time, fill, step, hop = (each.tolist() for each in (ways.time, ways.fill, ways.step, ways.hop))
    group, size = ways.group.tolist(), ways.cards.tolist()
    whole: dict[Cards, tuple[float, tuple[Span, ...]]] = {}
    behind: dict[tuple[int, Cards], list[Label]] = {(units, (0,) * len(there)): [(0.0, 0.0, ())]}
    seen: dict[tuple[int, Cards], list[Label]] = {}
    for place, ends in enumerate(memory):
        front: dict[tuple[int, Cards], list[Label]] = {}
        for (stop, used), labels in behind.items():
            for way in range(len(group)):
                cards = tuple(n + size[way] * (at == group[way]) for at, n in enumerate(used))
                if cards[group[way]] > there[group[way]]:
                    continue
                for start in range(stop - 1, -1, -1):
                    if ends[way][start] < stop:
                        break
                    hops = hop[way] * ((start > 0) + (place > 0))
                    busy = time[way][stop] - time[way][start] + hops
                    late = fill[way][stop] - fill[way][start] + hops if place else busy
                    load = (many - 1) * busy + step[way][stop] - step[way][start]
                    if load + late >= limit:
                        if load >= limit:
                            break
                        continue
                    for longest, filled, spans in labels:
                        label = max(longest, load), filled + late, (Span(way, start, stop), *spans)
                        if label[0] + label[1] >= limit:
                            continue
                        if start == 0:
                            if cards not in whole or label[0] + label[1] < whole[cards][0]:
                                whole[cards] = label[0] + label[1], label[2]
                        elif _new(seen.setdefault((start, cards), []), label):
                            front.setdefault((start, cards), []).append(label)
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


def _chosen(
    candidates: Sequence[tuple[Cards, int, float, Pipeline]], there: Cards, batch: int, pipelines: int
) -> Choice | None:  # fmt: skip
    """So many of the candidates, within the cards, that do the batch; the slowest as fast as can be."""
    states: dict[tuple[Cards, int], Choice] = {((0,) * len(there), 0): (0.0, ())}
    for _ in range(pipelines):
        then: dict[tuple[Cards, int], Choice] = {}
        for (used, done), (slowest, taken) in states.items():
            for cards, more, seconds, each in candidates:
                total = tuple(a + b for a, b in zip(used, cards, strict=True))
                if any(a > b for a, b in zip(total, there, strict=True)):
                    continue
                key, longest = (total, min(batch, done + more)), max(slowest, seconds)
                if key not in then or longest < then[key][0]:
                    then[key] = longest, (*taken, each)
        states = then
    good = [choice for (_, done), choice in states.items() if done >= batch]
    return min(good, key=lambda choice: choice[0], default=None)
