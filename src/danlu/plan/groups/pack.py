"""How many of which pipelines a fleet runs: whole numbers of them, within the cards of each group.

Pipelines on one group alone are an unbounded knapsack in that group's cards, solved exactly. Those over several groups
are few; they start from the relaxed solution, from none, and in small fleets from the best two, and are exchanged one
for another until no exchange gains.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.plan.groups.linear import most
from danlu.plan.groups.stage_ways import Floats, Ints

WHOLE = 6_000  # of larger knapsacks, what lies beyond is filled with the pipeline that does most per card
EXCHANGES = 60
FEW = 64  # cards of a fleet where packings begin from the best two mixed pipelines, too: one of them may be half of it


@dataclass(frozen=True, slots=True)
class Packing:
    """counts (columns,) of each pipeline; sequences they get through together."""

    counts: Ints
    sequences: float


@dataclass(frozen=True, slots=True)
class Knapsack:
    """Of one group: best (cards in `unit`s + 1,) sequences on at most so many cards; `each` of its columns'."""

    unit: int
    best: Floats
    each: Floats
    columns: Ints
    size: Ints
    bulk: int
    bulk_value: float

    def value(self, cards: Ints) -> Floats:
        """Sequences on so many cards of the group; -inf for a negative number."""
        at, beyond = self._split(np.maximum(cards, 0))
        return np.where(cards >= 0, self.best[at] + beyond * self.bulk_value, -np.inf)

    def counts(self, cards: int) -> dict[int, int]:
        """Pipelines by column that reach that value."""
        at, beyond = (int(each) for each in self._split(np.array(cards)))
        found: dict[int, int] = {}
        if beyond:
            found[int(self.columns[self.bulk])] = beyond
        while at > 0 and self.best[at] > 0:
            fits = self.size <= at
            rest = np.where(fits, self.best[np.maximum(at - self.size, 0)] + self.each, -np.inf)
            taken = int(np.argmax(rest))
            if rest[taken] < self.best[at] - 1e-6:
                at -= 1
                continue
            column = int(self.columns[taken])
            found[column] = found.get(column, 0) + 1
            at -= int(self.size[taken])
        return found

    def _split(self, cards: Ints) -> tuple[Ints, Ints]:
        at = cards // self.unit
        if not len(self.columns):
            return np.minimum(at, len(self.best) - 1), np.zeros_like(at)
        size = int(self.size[self.bulk])
        beyond = np.maximum(-((len(self.best) - 1 - at) // size), 0)
        return at - beyond * size, beyond


def knapsack(value: Floats, size: Ints, columns: Ints, cards: int) -> Knapsack:
    """The knapsack of one group; `columns` are the numbers of its pipelines, value and size theirs."""
    keep = _undominated(value, size)
    value, size, columns = value[keep], size[keep], columns[keep]
    if not len(columns):
        return Knapsack(1, np.zeros(1), np.zeros(0), columns, size, 0, 0.0)
    unit = int(np.gcd.reduce(size))
    size = size // unit
    bulk = int(np.argmax(value / size))
    places = min(cards // unit, max(WHOLE, 2 * int(size.max())))
    best = _best(value, size, places + 1)
    return Knapsack(unit, np.maximum.accumulate(best), value, columns, size, bulk, float(value[bulk]))


def _best(value: Floats, size: Ints, places: int) -> Floats:
    """(places,) the most value of pieces of just so many cards together, any number of each, or of none."""
    library = native.library()
    if library is None:
        return best_in_numpy(value, size, places)
    best = np.zeros(places)
    given = np.ascontiguousarray(value, dtype=np.float64), np.ascontiguousarray(size, dtype=np.int64)
    values, sizes, out = (ctypes.c_void_p(each.ctypes.data) for each in (*given, best))
    status = library.danlu_knapsack(values, sizes, ctypes.c_int64(len(size)), ctypes.c_int64(places), out)
    assert status == 0 and given, f"danlu_knapsack answered {status}"
    return best


def best_in_numpy(value: Floats, size: Ints, places: int) -> Floats:
    """The same without a compiler."""
    best = np.zeros(places)
    for each, long in zip(value, size, strict=True):
        # As many as wanted of one pipeline: the best of every `long`-th place before, less what each costs in between.
        rows = -(-places // int(long))
        table = np.full(rows * int(long), -np.inf)
        table[:places] = best
        steps = each * np.arange(rows)[:, None]
        best = (np.maximum.accumulate(table.reshape(rows, int(long)) - steps, axis=0) + steps).ravel()[:places]
    return best


def _undominated(value: Floats, size: Ints) -> Ints:
    """Pipelines, by rising size, of which each does more than every smaller one, and than copies of one on its cards.

    Each costs the knapsack a pass: of 45 that do more than every smaller one, 24 are left.
    """
    order = np.lexsort((-value, size))
    rising = np.maximum.accumulate(np.concatenate([[0.0], value[order]]))
    order = order[value[order] > rising[:-1]]
    copies = size[order][:, None] // size[order] * value[order]
    return np.asarray(order[value[order] >= copies.max(axis=1, initial=0.0)])


def pack(value: Floats, use: Ints, there: Ints, enough: float = 0.0) -> Packing:
    """As many sequences as whole pipelines can be found to get through; no pipeline where those are not enough.

    value (columns,) sequences each gets through; use (groups, columns) cards each takes; there (groups,) cards
    """
    alone = (use > 0).sum(axis=0) == 1
    sacks = []
    for group, cards in enumerate(there):
        mine = np.flatnonzero(alone & (use[group] > 0) & (value > 0))
        sacks.append(knapsack(value[mine], use[group, mine], mine, int(cards)))
    mixed = np.flatnonzero(~alone & (value > 0))
    useful = np.flatnonzero(value > 0)
    start = np.zeros(len(mixed), dtype=np.int64)
    if len(mixed):
        amounts = np.zeros(len(value))
        amounts[useful] = most(value[useful], use[:, useful].astype(float), there.astype(float)).amounts
        start = np.floor(amounts[mixed] + 1e-9).astype(np.int64)
    starts = [start, np.zeros_like(start)] if start.any() else [start]
    if len(mixed) and there.sum() <= FEW:
        starts.append(_best_two(value[mixed], use[:, mixed], there, sacks))
    found = max((_exchanged(value[mixed], use[:, mixed], there, sacks, first) for first in starts),
                key=lambda each: each[0])  # fmt: skip
    counts = np.zeros(len(value), dtype=np.int64)
    if found[0] < enough - 1e-6:
        return Packing(counts, 0.0)
    counts[mixed] = found[1]
    for sack, cards in zip(sacks, there - use[:, mixed] @ found[1], strict=True):
        for column, count in sack.counts(int(cards)).items():
            counts[column] += count
    return Packing(counts, float(counts @ value))


def _best_two(value: Floats, use: Ints, there: Ints, sacks: Sequence[Knapsack]) -> Ints:
    """The two mixed pipelines, alike or not, that together with what the rest holds do most."""
    left = there[:, None, None] - use[:, :, None] - use[:, None]
    then = value[:, None] + value + sum(sack.value(each) for sack, each in zip(sacks, left, strict=True))
    counts = np.zeros(len(value), dtype=np.int64)
    if np.isfinite(then).any():
        np.add.at(counts, list(divmod(int(np.argmax(then)), len(value))), 1)
    return counts


def _exchanged(
    value: Floats, use: Ints, there: Ints, sacks: Sequence[Knapsack], counts: Ints
) -> tuple[float, Ints]:  # fmt: skip
    """Mixed pipelines after every exchange that gains: one more, one less, or one for another."""
    counts = counts.copy()
    left = there - use @ counts
    gains, costs = np.append(value, 0.0), np.concatenate([use, np.zeros_like(use[:, :1])], axis=1)

    def rest(cards: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(np.sum([sack.value(each) for sack, each in zip(sacks, cards, strict=True)], axis=0))

    now = float(rest(left[:, None])[0] + counts @ value)
    for _ in range(EXCHANGES if len(value) else 0):
        # Every pipeline of the packing, or none, out; every pipeline, or none, in.
        outs = np.append(np.flatnonzero(counts), len(value))
        free = (left[:, None] + costs[:, outs])[:, :, None] - costs[:, None]
        then = float(counts @ value) - gains[outs, None] + gains + rest(free)
        out, into = divmod(int(np.argmax(then)), len(gains))
        if then[out, into] <= now + 1e-9:
            break
        now = float(then[out, into])
        for at, sign in ((int(outs[out]), -1), (into, 1)):
            if at < len(value):
                counts[at] += sign
                left = left - sign * use[:, at]
    return now, counts
