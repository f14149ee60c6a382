"""Which units go to which card, in which order.

Every ordered choice of cards, every contiguous split of the units and three depths of warm-up are candidates. A bound
that needs no simulation sorts them; they are simulated in that order until no bound is below the best step found. So
the answer is exact for small fleets (EXACT_CARDS and EXACT_SPLITS in candidates.py). Orders made for a split's own
stage times (order.py) are then tried on the most promising splits; there are too many for an exact answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from danlu.nouns import Fleet, ModelSpec, Plan, Stage
from danlu.plan.candidates import AGAIN, Ask, Cuts, Floats, Holds, Sums, orders, promising
from danlu.plan.events import StageCost, compiled, steady
from danlu.plan.forecast import forecast, links, peak_bytes, room, slipped, stage_cost
from danlu.plan.order import listed, rules
from danlu.plan.room import holds, no_plan
from danlu.plan.schedule import instructions, message_bytes

Order = Literal["auto", "1f1b", "zero-bubble"]
SCHEDULES = ("1f1b", "1f1b:2", "1f1b:3")
BATCH = 256  # splits simulated at once
LISTED = 96  # splits that get orders of their own, with FEW rules; FINALISTS of them with all
FEW, FINALISTS, RUNNERS = 4, 6, 4
EVENTS = 200_000  # of all orders that are made, at 3 us each; a long step on many stages gets fewer splits


def even(spec: ModelSpec, fleet: Fleet, *, micro_batch: int, micro_batches: int, seq: int, dtype: str = "fp32") -> Plan:
    """The plan of a system that takes all cards for equal: whole layers, as many on each card as on the next.

    Left-over layers go to the first cards; embed and head ride on the first and the last stage. A card without a layer
    is left out. Memory is not looked at.
    """
    cards = fleet.cards[: spec.layers]
    per_layer = len(spec.recipe)
    base, extra = divmod(spec.layers, len(cards))
    stages, at = [], 0
    for number, card in enumerate(cards):
        units = per_layer * (base + (number < extra)) + (number == 0) + (number == len(cards) - 1)
        stages.append(Stage((card.name,), at, at + units))
        at += units
    return forecast(Plan(spec, fleet, tuple(stages), "1f1b", micro_batches, micro_batch, seq, dtype))


def search(
    spec: ModelSpec, fleet: Fleet, *, micro_batch: int, micro_batches: int, seq: int, dtype: str = "fp32",
    schedule: Order = "auto",
) -> Plan:  # fmt: skip
    """The plan with the shortest forecast step; it may leave cards out.

    micro_batch   sequences per micro-batch, micro_batches of them per step
    seq           tokens per sequence
    schedule      1f1b with any depth of warm-up, zero-bubble with orders made for the stages' times, or the faster one;
                  one card alone has no bubble, and takes its micro-batches one by one under every name
    No pipeline is longer than its micro-batches. A stage computes its forwards again where its card holds it no other
    way. Raises DoesNotFit, with the cheapest change that would fit, and ShortBatch where only longer pipelines would.
    """
    ask = Ask(spec, micro_batch, micro_batches, seq, dtype)
    best: tuple[float, Plan] | None = None
    rows = sorted(_rows(ask, fleet), key=lambda row: row.least)
    for row in rows:
        if best is not None and row.least >= best[0]:
            break
        found = row.best(math.inf if best is None else best[0])
        if found is not None:
            best = found
    if best is None:
        raise no_plan(ask, fleet)
    if schedule == "1f1b":
        return forecast(best[1])
    return forecast(_listed(ask, rows, best, always=schedule == "zero-bubble"))


def _listed(ask: Ask, rows: Sequence[Row], best: tuple[float, Plan], *, always: bool) -> Plan:
    """The best plan, with orders made for its own stage times where they are faster; `always` if it is a pipeline."""
    always = always and len(best[1].stages) > 1
    limit, chosen, usual = (math.inf, best[1], math.inf) if always else (*best, slipped(best[1])[1])
    tried: list[tuple[float, Plan]] = []
    for row in rows:
        if row.plan.schedule == SCHEDULES[0] and len(row.plan.stages) > 1:
            bounds = _bounds(ask, _costs(row.sums, row.holds, row.cuts), row.plan, halves=True)
            few = np.argsort(bounds, kind="stable")[:LISTED]
            tried += [(float(bounds[at]), row.split(row.cuts[at])) for at in few if bounds[at] < limit]
    most = EVENTS // (3 * ask.micro_batches * max((len(plan.stages) for _, plan in tried), default=1))
    tried = sorted(tried, key=lambda each: each[0])[: max(always, min(LISTED, most // FEW))]
    found = sorted(((ordered(plan, FEW)[0][0], plan) for _, plan in tried), key=lambda each: each[0])
    for _, plan in found[: max(1, min(FINALISTS, most // 40))]:
        for _, letters in ordered(plan, None)[:RUNNERS]:
            made = replace(plan, schedule="zb", orders=letters)
            if any(peak_bytes(made, at) > plan.fleet.card(stage.cards[0]).mem_bytes
                   for at, stage in enumerate(plan.stages) if stage.recompute == "full"):  # fmt: skip
                continue  # it holds what several forwards made again at once
            step, mean = slipped(made)
            if step < limit and mean < usual:
                chosen, usual = made, mean
    return chosen


def ordered(plan: Plan, few: int | None) -> list[tuple[float, tuple[str, ...]]]:
    """Orders made for a split with when each ends, the first ones first. few  how many rules are tried."""
    costs = [stage_cost(plan, stage) for stage in range(len(plan.stages))]
    joined, size, fits = links(plan), message_bytes(plan), [room(plan, stage) for stage in range(len(plan.stages))]
    tried = rules(costs, joined, size, plan.micro_batches, fits)
    made = {listed(costs, joined, size, plan.micro_batches, rule) for rule in itertools.islice(tried, few)}
    return sorted(made)


@dataclass(frozen=True, slots=True)
class Row:
    """One ordered choice of cards under one schedule: its splits that fit memory, best bound first."""

    plan: Plan
    cuts: Cuts
    bounds: Floats
    sums: tuple[Sums, ...]
    holds: tuple[Holds, ...]

    @property
    def least(self) -> float:
        """No split of this row is faster."""
        return float(self.bounds[0])

    def best(self, limit: float) -> tuple[float, Plan] | None:
        """The fastest split of this row if its step is below `limit` seconds."""
        events = compiled(instructions(self.split(self.cuts[0])))
        joined, winner = links(self.plan), None
        for at in range(0, len(self.cuts), BATCH):
            part = self.cuts[at : at + BATCH]
            if self.bounds[at] >= limit:
                break
            costs = _costs(self.sums, self.holds, part)
            steps = np.broadcast_to(steady(events, costs, joined), len(part))
            found = int(np.argmin(steps))
            if steps[found] < limit:
                limit, winner = float(steps[found]), part[found]
        return None if winner is None else (limit, self.split(winner))

    def split(self, cuts: Cuts) -> Plan:
        """The plan with its stages cut there; those compute their forwards again whose card holds them no other way."""
        ends = itertools.pairwise(int(cut) for cut in cuts)
        stages = (
            replace(stage, start=a, stop=b, recompute="full" if hold(np.array(a), np.array(b)) == AGAIN else "none")
            for stage, hold, (a, b) in zip(self.plan.stages, self.holds, ends, strict=True)
        )
        return replace(self.plan, stages=tuple(stages))


def _rows(ask: Ask, fleet: Fleet) -> Iterator[Row]:
    """All rows that have a split that fits."""
    sums = {card.name: Sums(ask, card) for card in fleet.cards}
    for cards in orders(fleet, ask.longest):
        chosen = tuple(sums[card.name] for card in cards)
        for schedule in SCHEDULES if len(cards) > 1 else SCHEDULES[:1]:
            stages = tuple(Stage((card.name,), 0, 0) for card in cards)
            plan = Plan(ask.spec, fleet, stages, schedule, ask.micro_batches, ask.micro_batch, ask.seq, ask.dtype)
            row = row_of(ask, plan, chosen, holds(ask, cards, schedule))
            if row is not None:
                yield row


def row_of(ask: Ask, plan: Plan, sums: tuple[Sums, ...], rooms: tuple[Holds, ...]) -> Row | None:
    """The row of a plan whose stages are yet to be cut; None where no split fits."""
    cuts = promising(sums, rooms)
    if not len(cuts):
        return None
    bounds = _bounds(ask, _costs(sums, rooms, cuts), plan)
    order = np.argsort(bounds, kind="stable")
    return Row(plan, cuts[order], bounds[order], sums, rooms)


def _costs(sums: Sequence[Sums], holds: Sequence[Holds], cuts: Cuts) -> list[StageCost]:
    """Of every stage, one entry per split."""
    ends = [(cuts[:, i], cuts[:, i + 1]) for i in range(len(sums))]
    return [each.cost(*end, hold(*end)) for each, hold, end in zip(sums, holds, ends, strict=True)]


def _bounds(ask: Ask, costs: Sequence[StageCost], plan: Plan, *, halves: bool = False) -> Floats:
    """Seconds that no schedule of a split can beat.

    From one step's end (all stages meet in the gradient's norm) stage i waits for the first stage's optimizer and for a
    micro-batch to come through the stages before it, computes all micro-batches, and the last one goes back through
    them. Links add their time once each way. When a backward may come in `halves`, stage i can do the weights' half
    while the last one goes back, so only the way there is sure to be lost.
    """
    joined, message = links(plan), message_bytes(plan)
    through = least = np.zeros(len(costs[0].forward_s))
    for i, cost in enumerate(costs):
        one = cost.forward_s + cost.backward_s
        ends = np.maximum(costs[0].step_s + costs[0].norm_s, 0.0) if i else cost.step_s + cost.norm_s
        least = np.maximum(least, through + ask.micro_batches * one + ends)
        link = joined.get((i, i + 1))
        passes, ways = (cost.forward_s, 1) if halves else (one, 2)
        through = through + passes + (ways * link.seconds(message) if link else 0.0)
    return least
