"""What a search may choose from: ordered choices of cards, splits of the units, and what a stage costs on a card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from danlu import recipe
from danlu.nouns import Card, Fleet, ModelSpec
from danlu.plan.cost import UnitCost, entry_s, tied_s, unit_costs
from danlu.plan.events import StageCost
from danlu.plan.pauses import Pauses

EXACT_CARDS = 5  # of more cards, orders are tried by rule instead of all
EXACT_SPLITS = 50_000  # of more splits of one order, only BEAM are looked at
BEAM = 400

Cuts = npt.NDArray[np.int64]  # (splits, stages + 1): the first unit of each stage, then the number of units
Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int8]
Holds = Callable[[Cuts, Cuts], Levels]  # how a card holds the units [start, stop), entry by entry: one of the next
NOT, AGAIN, WHOLE = 0, 1, 2  # not at all; if it computes its forwards again; with all that its backwards need


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be planned."""

    spec: ModelSpec
    micro_batch: int
    micro_batches: int
    seq: int
    dtype: str

    @property
    def longest(self) -> int:
        """Stages of the longest pipeline: a unit for each, and a micro-batch."""
        return min(len(self.spec.units), self.micro_batches)


class Sums:
    """Costs and bytes of every range of units on one card, as differences of sums over the first k units."""

    def __init__(
        self, ask: Ask, card: Card, costs: Sequence[UnitCost] = (), entry: tuple[float, float] = (0, 0)
    ) -> None:
        """`costs` of units and of a stage's `entry` are the card's own, unless others are given."""
        if not costs:
            costs = unit_costs(ask.spec, card, ask.micro_batch, ask.seq, ask.dtype)
            entry = entry_s(ask.spec, card, ask.micro_batch, ask.seq, ask.dtype)
        self._start, self._attention = entry
        self._tied = tied_s(ask.spec, card, ask.dtype)
        self._copy = costs[0] if ask.spec.tied else None
        self.units, self._pauses = len(costs), Pauses(card)
        self._forward, self._backward, self._norm, self._step, self._attends, self._weight, self._split = (
            np.concatenate(([0.0], np.cumsum(each)))
            for each in (
                [cost.forward_s for cost in costs], [cost.backward_s for cost in costs],
                [cost.norm_s for cost in costs], [cost.optimizer_s for cost in costs],
                [recipe.kind_of(unit) in recipe.ATTENDS for unit in ask.spec.units],
                [cost.weight_s for cost in costs], [cost.split_s for cost in costs],
            )
        )  # fmt: skip

    def busy(self, start: Cuts, stop: Cuts, again: Levels) -> Floats:
        """Seconds of one micro-batch, both ways, of the stages [start, stop); `again` where forwards run twice."""
        cost = self.cost(start, stop, again)
        return np.asarray(cost.forward_s + cost.backward_s)

    def cost(self, start: Cuts, stop: Cuts, again: Levels) -> StageCost:
        """Of the stages [start, stop), one per entry; the same as plan.forecast.stage_cost."""
        attends = self._attends[stop] > self._attends[start]
        copies = ((stop == self.units) & (start > 0)).astype(float)
        norm, step = (0.0, 0.0) if self._copy is None else (self._copy.norm_s, self._copy.optimizer_s)
        forward = self._forward[stop] - self._forward[start] + self._start + attends * self._attention
        tight = StageCost(
            forward,
            self._backward[stop] - self._backward[start] + (again == AGAIN) * forward,
            self._norm[stop] - self._norm[start] + copies * norm,
            self._tied,
            self._step[stop] - self._step[start] + copies * step,
            self._weight[stop] - self._weight[start],
            self._split[stop] - self._split[start],
        )
        return self._pauses.paid(tight)


def orders(fleet: Fleet, most: int) -> Iterator[tuple[Card, ...]]:
    """Ordered choices of up to `most` cards worth trying: neighbours are linked, cards that are alike are not swapped.

    Up to EXACT_CARDS cards every choice. Of more: all cards of at least some speed, for each speed there is, in the
    fleet's order, by falling and by rising speed, and by falling memory; and the fastest card alone.
    """
    alike = len({(link.latency_s, link.bandwidth) for link in fleet.links}) <= 1
    usable = [card for card in fleet.cards if card.health != "quarantined"]

    def kind(card: Card) -> object:
        return replace(card, name="", flops=tuple(sorted(card.flops.items()))) if alike else card.name  # type: ignore[arg-type]

    def joined(cards: Sequence[Card]) -> bool:
        return all(fleet.link(a.name, b.name) for a, b in itertools.pairwise(cards))

    if len(usable) <= EXACT_CARDS:
        choices = (c for k in range(1, min(len(usable), most) + 1) for c in itertools.permutations(usable, k))
    else:
        speed = {card.name: max(card.flops.values()) for card in usable}
        keys: tuple[Callable[[Card], float], ...] = (
            fleet.cards.index, lambda c: -speed[c.name], lambda c: speed[c.name], lambda c: -c.mem_bytes
        )  # fmt: skip
        chosen = [[max(usable, key=lambda c: speed[c.name])]]
        chosen += [[c for c in usable if speed[c.name] >= least] for least in sorted(set(speed.values()), reverse=True)]
        kept = (sorted(some, key=best)[:most] for some in chosen for best in (keys[1], keys[3]))
        choices = (tuple(sorted(some, key=key)) for some in kept for key in keys)
    seen = set()
    for cards in choices:
        mark = tuple(map(kind, cards))
        if mark not in seen and joined(cards):
            seen.add(mark)
            yield cards


@lru_cache(maxsize=64)
def splits(units: int, stages: int) -> Cuts:
    """Every way to cut so many units into so many stages of at least one."""
    inner = list(itertools.combinations(range(1, units), stages - 1))
    ends = np.zeros((len(inner), 1), dtype=np.int64)
    body = np.array(inner, dtype=np.int64).reshape(len(inner), stages - 1)
    return np.concatenate([ends, body, ends + units], axis=1)


def promising(sums: Sequence[Sums], holds: Sequence[Holds]) -> Cuts:
    """Splits whose every stage its card holds: all, or the BEAM with the least busy bottleneck when there are too many.

    The beam grows stage by stage. A beginning is worth its busiest stage, and the rest of the units shared by the rest
    of the cards as if they could be cut anywhere.
    """
    units, stages = sums[0].units, len(sums)
    if math.comb(units - 1, stages - 1) <= EXACT_SPLITS:
        cuts, good = splits(units, stages), np.ones(1, dtype=np.bool_)
        for i, hold in enumerate(holds):
            good = good & (hold(cuts[:, i], cuts[:, i + 1]) > NOT)
        return cuts[np.broadcast_to(good, len(cuts))]
    every = np.arange(units + 1)
    begun, busiest = np.zeros((1, 1), dtype=np.int64), np.zeros(1)
    for i, each in enumerate(sums[:-1]):
        last = units - (stages - 1 - i)
        nexts = np.broadcast_to(every, (len(begun), units + 1))
        good = (nexts > begun[:, -1:]) & (nexts <= last)
        row, stop = np.nonzero(good)
        kept = holds[i](begun[row, -1], stop)
        row, stop, kept = row[kept > NOT], stop[kept > NOT], kept[kept > NOT]
        start, once = begun[row, -1], np.full(len(row), WHOLE, dtype=np.int8)
        load = np.maximum(busiest[row], each.busy(start, stop, kept))
        rest = 1.0 / sum(
            1.0 / np.maximum(other.busy(stop, np.full_like(stop, units), once), 1e-30) for other in sums[i + 1 :]
        )
        best = np.argsort(np.maximum(load, rest), kind="stable")[:BEAM]
        begun = np.concatenate([begun[row[best]], stop[best, None]], axis=1)
        busiest = load[best]
    cuts = np.concatenate([begun, np.full((len(begun), 1), units)], axis=1)
    return cuts[holds[-1](cuts[:, -2], cuts[:, -1]) > NOT]
