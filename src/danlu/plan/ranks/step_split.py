"""How pipelines that go in step share the work: tokens of a sequence, experts of a layer, units of the model.

From shares by speed, tokens (fewer and fewer at a time) and experts (one by one) move from one pipeline to another as
long as the slowest stage gets faster; for given shares the cut of the units is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from danlu import recipe
from danlu.nouns import Card
from danlu.plan.candidates import Ask
from danlu.plan.ranks.context_cost import part_costs
from danlu.plan.ranks.parts import Part
from danlu.plan.ranks.spread_cost import Load, inside, with_dealt

Grid = tuple[tuple[Card, ...], ...]  # by pipeline, by stage
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of each pipeline: tokens of every sequence, and experts of every layer; () where each has all."""

    tokens: tuple[int, ...]
    experts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """A placement's shares and the last unit of each stage; `seconds` of a micro-batch on the slowest stage."""

    seconds: float
    grid: Grid
    shares: Shares
    cuts: tuple[int, ...]


class Splitter:
    """Owns what a card takes for the first k units under each share of it that was asked for."""

    def __init__(self, ask: Ask, *, parts: bool, spread: bool) -> None:
        """parts  sequences are cut, else every pipeline has its own;  spread  experts are shared out."""
        self._ask, self._parts, self._spread = ask, parts, spread
        self._known: dict[tuple[str, int, int, int], Floats] = {}

    def split(self, grid: Grid) -> Split:
        """The best found of a placement."""
        ask = self._ask
        speed = [sum(max(card.flops.values()) for card in part) for part in grid]
        now = self._cut(grid, Shares(dealt(ask.seq, speed) if self._parts else (), dealt(ask.spec.experts, speed)
                                     if self._spread else ()))  # fmt: skip
        step = max(1, ask.seq // 8)
        while step:
            moves = [self._cut(grid, shares) for shares in _moves(now.shares, step)]
            least = min(moves, default=now, key=lambda move: move.seconds)
            if least.seconds < now.seconds:
                now = least
            else:
                step //= 2
        return now

    def _cut(self, grid: Grid, shares: Shares) -> Split:
        """The cut of units whose slowest stage is fastest: of the first k units into s stages, one stage at a time."""
        upto = np.array([[self._upto(card, len(grid), at, shares) for card in row] for at, row in enumerate(grid)])
        units = upto.shape[-1]
        # [stage, i, j]: seconds of units i .. j, of the pipeline that is slowest around experts and of that in them
        each = (upto[..., None, :] - upto[..., :, None]).max(0).sum(1)
        each = np.where(np.arange(units)[:, None] < np.arange(units)[None, :], each, np.inf)
        reach, froms = each[0, 0], []
        for stage in each[1:]:
            through = np.maximum(reach[:, None], stage)
            froms.append(through.argmin(0))
            reach = through.min(0)
        cuts = [units - 1]
        for back in reversed(froms):
            cuts.append(int(back[cuts[-1]]))
        return Split(float(reach[-1]), grid, shares, tuple(reversed(cuts)))

    def _upto(self, card: Card, pipelines: int, at: int, shares: Shares) -> Floats:
        """Seconds of a card for the first k units, around experts and in them: (2, units + 1)."""
        ask = self._ask
        start = sum(shares.tokens[:at])
        own = Part(0, start, start + shares.tokens[at]) if shares.tokens else Part(0, 0, ask.seq)
        experts = shares.experts[at] if shares.experts else 0
        key = card.name, own.start, own.stop, experts
        if key not in self._known:
            tokens = ask.seq if shares.tokens else pipelines * ask.seq
            costs = part_costs(ask.spec, card, ask.micro_batch, own, ask.dtype, ask.seq)
            within = 0.0
            if experts:
                load = Load(experts, tokens, own.tokens)
                costs = with_dealt(costs, ask.spec, card, ask.micro_batch, ask.dtype, load)
                each = inside(ask.spec, card, ask.micro_batch, ask.dtype, load)
                within = each.forward_s + each.backward_s
            alone = [within * (recipe.kind_of(unit) == "moe") for unit in ask.spec.units]
            around = [cost.forward_s + cost.backward_s - one for cost, one in zip(costs, alone, strict=True)]
            self._known[key] = np.cumsum([(0.0, *around), (0.0, *alone)], axis=1)
        return self._known[key]


def dealt(count: int, speed: Sequence[float]) -> tuple[int, ...]:
    """`count` things in proportion to speeds, at least one each; the next goes where most of one is missing."""
    due = [count * each / sum(speed) for each in speed]
    found = [max(1, int(each)) for each in due]
    if sum(found) > count:
        found = [1] * len(due)
    while sum(found) < count:
        missing = [each - has for each, has in zip(due, found, strict=True)]
        found[missing.index(max(missing))] += 1
    return tuple(found)


def _moves(shares: Shares, step: int) -> Iterator[Shares]:
    """Shares with `step` tokens, or one expert, more for one pipeline and less for another."""
    for tokens in _moved(shares.tokens, step):
        yield Shares(tokens, shares.experts)
    for experts in _moved(shares.experts, 1):
        yield Shares(shares.tokens, experts)


def _moved(counts: tuple[int, ...], step: int) -> Iterator[tuple[int, ...]]:
    for a, b in itertools.permutations(range(len(counts)), 2):
        if counts[a] > step:
            yield tuple(each - step * (i == a) + step * (i == b) for i, each in enumerate(counts))
