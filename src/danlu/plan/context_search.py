"""The best plan of one copy of the model whose sequences are cut into parts: which card has which tokens and layers.

Every part is a pipeline over cards of its own, cut at the same units, since parts meet in every layer. Cards are placed
by every permutation while they are few, by speed when they are many; the cut of units is exact for given tokens, and
tokens move from part to part, fewer and fewer at a time, as long as the slowest stage gets faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from danlu.errors import BadContext, DoesNotFit
from danlu.nouns import Card, Fleet, Plan, Replica, Stage
from danlu.plan.candidates import Ask
from danlu.plan.context_cost import part_costs
from danlu.plan.forecast import forecast
from danlu.plan.parts import Part
from danlu.plan.seats import seats

EVERY = 4  # cards up to which every placement is looked at
FINALISTS = 3  # placements that are forecast in full
DEPTHS = ("1f1b", "1f1b:2", "1f1b:3")

Grid = tuple[tuple[Card, ...], ...]  # by part, by stage
Floats = npt.NDArray[np.float64]


def best(ask: Ask, fleet: Fleet, count: int) -> Plan:
    """The plan with the shortest forecast step whose sequences are cut into `count` parts; every card has a place.

    Raises BadContext when cards or tokens are too few for so many parts, DoesNotFit when a card of every plan is full.
    """
    cards = [card for card in fleet.cards if card.health != "quarantined"]
    stages = len(cards) // count
    longest = min(len(ask.spec.units), ask.micro_batches)
    if len(cards) % count or not 0 < stages <= longest or count > ask.seq:
        divide = [n for n in range(1, len(cards) + 1) if len(cards) % n == 0]
        fits = [n for n in divide if n <= ask.seq and len(cards) // n <= longest]
        raise BadContext(
            f"sequences of {ask.seq} tokens cannot be cut into {count} parts over {len(cards)} cards",
            where="plan.context",
            why=f"every part takes as many cards as the others, one for each stage: {len(cards) / count:.3g} here; a "
            f"pipeline of this model and {ask.micro_batches} micro-batches has at most {longest} stages",
            fix=f"plan.context: {' or '.join(map(str, fits))}" if fits else "more micro-batches, or fewer cards",
        )
    tables = _Tables(ask)
    tried = sorted((tables.split(grid) for grid in _grids(cards, count, stages)), key=lambda found: found[0])
    plans = [
        forecast(_plan(ask, fleet, grid, tokens, cuts, depth))
        for _, grid, tokens, cuts in tried[:FINALISTS] for depth in DEPTHS[: 1 if stages == 1 else None]
    ]  # fmt: skip
    plans.sort(key=lambda plan: plan.forecast.step_s if plan.forecast else 0.0)
    return next((plan for plan in plans if not _full(plan)), None) or _refuse(plans[0])


def _grids(cards: Sequence[Card], count: int, stages: int) -> Iterator[Grid]:
    """Placements: all of few cards; of many, parts by speed, or like cards in one stage, either end first."""
    if len(cards) <= EVERY:
        for order in itertools.permutations(cards):
            yield tuple(tuple(order[at * stages : (at + 1) * stages]) for at in range(count))
        return
    fast = sorted(cards, key=lambda card: -max(card.flops.values()))
    for turned in (fast, fast[::-1]):
        yield tuple(tuple(turned[at * stages : (at + 1) * stages]) for at in range(count))
        yield tuple(tuple(turned[at::count]) for at in range(count))


class _Tables:
    """Seconds of the first k units, both ways, on a card for a part of every sequence; each is found once."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._known = ask, dict[tuple[str, int, int], Floats]()

    def split(self, grid: Grid) -> tuple[float, Grid, tuple[int, ...], tuple[int, ...]]:
        """Seconds of the slowest stage, the placement, tokens of each part, and the last unit of each stage."""
        seq, count = self._ask.seq, len(grid)
        speed = [sum(max(card.flops.values()) for card in part) for part in grid]
        tokens = [max(1, int(seq * each / sum(speed))) for each in speed]
        tokens[tokens.index(max(tokens))] += seq - sum(tokens)
        now, cuts = self._cut(grid, tokens)
        step = max(1, seq // 8)
        while step:
            moves = [self._moved(grid, tokens, a, b, step) for a, b in itertools.permutations(range(count), 2)
                     if tokens[a] > step]  # fmt: skip
            least = min(moves, default=(now, tokens, cuts), key=lambda move: move[0])
            if least[0] < now:
                now, tokens, cuts = least
            else:
                step //= 2
        return now, grid, tuple(tokens), cuts

    def _moved(
        self, grid: Grid, tokens: Sequence[int], a: int, b: int, step: int
    ) -> tuple[float, list[int], tuple[int, ...]]:
        moved = list(tokens)
        moved[a] -= step
        moved[b] += step
        now, cuts = self._cut(grid, moved)
        return now, moved, cuts

    def _cut(self, grid: Grid, tokens: Sequence[int]) -> tuple[float, tuple[int, ...]]:
        """The cut of units whose slowest stage is fastest: of the first k units into s stages, one stage at a time."""
        edges = list(itertools.accumulate(tokens, initial=0))
        upto = np.array([[self._upto(card, *edges[at : at + 2]) for card in part] for at, part in enumerate(grid)])
        units = upto.shape[-1]
        # [stage, i, j]: seconds of units i .. j, of the slowest part
        each = (upto[:, :, None, :] - upto[:, :, :, None]).max(0)
        each = np.where(np.arange(units)[:, None] < np.arange(units)[None, :], each, np.inf)
        reach, froms = each[0, 0], []
        for stage in each[1:]:
            through = np.maximum(reach[:, None], stage)
            froms.append(through.argmin(0))
            reach = through.min(0)
        cuts = [units - 1]
        for back in reversed(froms):
            cuts.append(int(back[cuts[-1]]))
        return float(reach[-1]), tuple(reversed(cuts))

    def _upto(self, card: Card, start: int, stop: int) -> Floats:
        ask, key = self._ask, (card.name, start, stop)
        if key not in self._known:
            costs = part_costs(ask.spec, card, ask.micro_batch, Part(0, start, stop), ask.dtype)
            self._known[key] = np.cumsum([0.0, *(cost.forward_s + cost.backward_s for cost in costs)])
        return self._known[key]


def _plan(ask: Ask, fleet: Fleet, grid: Grid, tokens: Sequence[int], cuts: Sequence[int], schedule: str) -> Plan:
    """The plan of a placement."""
    starts = (0, *cuts)
    pipelines = [
        Replica(tuple(Stage((card.name,), start, stop) for card, start, stop in zip(part, starts, cuts, strict=False)),
                ask.micro_batches, context=count)
        for part, count in zip(grid, tokens, strict=True)
    ]  # fmt: skip
    first, *rest = pipelines
    return Plan(ask.spec, fleet, first.stages, schedule, ask.micro_batches, ask.micro_batch, ask.seq, ask.dtype,
                replicas=tuple(rest), context=first.context)  # fmt: skip


def _full(plan: Plan) -> list[tuple[int, str]]:
    """Bytes that a plan wants beyond a card's memory, and which; the worst first."""
    assert plan.forecast is not None
    wanted = zip(seats(plan), plan.forecast.stage_bytes, strict=True)
    over = [(size - plan.fleet.card(seat.card).mem_bytes, seat.card) for seat, size in wanted]
    return sorted((each for each in over if each[0] > 0), reverse=True)


def _refuse(plan: Plan) -> Plan:
    (size, card), *_ = _full(plan)
    raise DoesNotFit(
        f"the model does not fit {len(seats(plan))} cards with sequences in parts",
        where=card,
        why=f"the fastest plan wants {size / 2**30:.2f} GiB more than {card} has",
        fix="a smaller --plan.micro_batch, more cards, or other memory: --plan.context 1 looks at more plans",
    )
