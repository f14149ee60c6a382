"""The very best plan of a small fleet: every pipeline that is not beaten in everything, and every choice of them.

Column generation (pricing.py) deals in prices, which mean little where a fleet is a handful of cards. Here the
fastest pipeline is found for every number of cards, of micro-batches and of pipelines (fastest.py); then the least
of their times in which just so many of them, within the cards, do the batch. Exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from danlu.plan.groups.fastest import Cards, Fastest, fastest, states
from danlu.plan.groups.pipelines import Pipeline, pipeline
from danlu.plan.groups.stage_ways import Floats, Ints, StageWays

Choice = tuple[float, tuple[Pipeline, ...]]


def best_choice(
    tables: Callable[[int, int], StageWays], longest: Callable[[int, int], int], there: Cards, batch: int,
    sizes: Sequence[int], seconds: float, first: int = 1,
) -> Choice | None:  # fmt: skip
    """The pipelines of a plan whose step is below `seconds`, and that step; None where there is none.

    tables   the ways of a micro-batch size with so many pipelines
    longest  the most stages of so many pipelines with a micro-batch size
    first    a number of pipelines that may well be the best: a good plan found early spares looking at others
    """
    best: Choice | None = None
    most = min(sum(there), batch)
    smaller = _smaller(there)
    for pipelines in sorted(range(1, most + 1), key=lambda n: abs(n - min(first, most))):
        limit = seconds if best is None else best[0]
        found = _of(tables, longest, there, batch, sizes, pipelines, limit, smaller)
        if found is not None and found[0] < limit:
            best = found
    return best


def _of(
    tables: Callable[[int, int], StageWays], longest: Callable[[int, int], int], there: Cards, batch: int,
    sizes: Iterable[int], pipelines: int, limit: float, smaller: Ints,
) -> Choice | None:  # fmt: skip
    """The best of just so many pipelines."""
    whole = batch - pipelines + 1  # sequences of one when every other does one
    parts = []
    for size in sizes:
        ways = tables(size, pipelines)
        if len(ways.ways):
            parts.append(fastest(ways, there, -(-whole // size), limit, longest(pipelines, size)))
    done = _Done(tuple(parts), smaller)
    times = np.unique(np.concatenate([each.seconds[np.isfinite(each.seconds)] for each in parts] or [np.zeros(0)]))
    low, high = 0, len(times)  # at times[high] the batch is done
    if not high or done.most(float(times[-1]), pipelines)[-1].max() < batch:
        return None
    high -= 1
    while low < high:
        middle = (low + high) // 2
        if done.most(float(times[middle]), pipelines)[-1].max() >= batch:
            high = middle
        else:
            low = middle + 1
    return float(times[high]), done.chosen(float(times[high]), pipelines, len(there))


@dataclass(frozen=True, slots=True)
class _Done:
    """What pipelines get through, by the state of cards they take; `smaller` (states, states) as _smaller says."""

    parts: tuple[Fastest, ...]
    smaller: Ints

    def one(self, seconds: float) -> Floats:
        """(states,) sequences of one pipeline on just these cards; -inf where there is none."""
        found = np.full(len(self.smaller), -np.inf)
        for each in self.parts:
            many = _most(each.seconds, seconds)
            found = np.maximum(found, np.where(many > 0, many * each.ways.micro_batch, -np.inf))
        return found

    def most(self, seconds: float, pipelines: int) -> list[Floats]:
        """For 1, 2, ... pipelines (states,): the most sequences on just these cards together."""
        one = self.one(seconds)
        useful = np.flatnonzero(np.isfinite(one))
        found = [one]
        for _ in range(pipelines - 1):
            rest = np.append(found[-1], -np.inf)[self.smaller[:, useful]]
            found.append((rest + one[useful]).max(axis=1, initial=-np.inf))
        return found

    def chosen(self, seconds: float, pipelines: int, groups: int) -> tuple[Pipeline, ...]:
        """Pipelines that do the most."""
        one, most = self.one(seconds), self.most(seconds, pipelines)
        state = int(np.argmax(most[-1]))
        taken = []
        for before in reversed(most[:-1]):
            each = int(np.argmax(np.append(before, -np.inf)[self.smaller[state]] + one))
            taken.append(each)
            state = int(self.smaller[state, each])
        return tuple(self._pipeline(each, one[each], seconds, groups) for each in (*taken, state))

    def _pipeline(self, state: int, sequences: float, seconds: float, groups: int) -> Pipeline:
        for each in self.parts:
            many = int(_most(each.seconds[:, state], seconds))
            if many and many * each.ways.micro_batch == sequences:
                return pipeline(each.ways, each.spans(many, state), groups)
        raise AssertionError("a state that does sequences has a pipeline")


def _most(each: Floats, seconds: float) -> Ints:
    """The most micro-batches within the time: few may not be enough for any pipeline's stages."""
    many = np.arange(1, len(each) + 1).reshape(-1, *[1] * (each.ndim - 1))
    return np.asarray(np.max(np.where(each <= seconds, many, 0), axis=0, initial=0))


def _smaller(there: Cards) -> Ints:
    """(states, states): the state that is left of one when another's cards are taken; `states` where it has too few."""
    each = states(there)
    radix = np.cumprod([1, *(n + 1 for n in there[:-1])])
    left = each[:, None] - each[None]
    return np.where((left >= 0).all(axis=2), left @ radix, len(each))
