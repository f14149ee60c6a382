"""What a plan over a large fleet should cost when it runs: seconds with an interval, what they are spent on, kWh, CO2.

The search compares plans without the wait for the slowest card; a forecast has it. The interval is that of published
runs whose seconds were made of the same terms (stack_forecast.py), none of which ran on unlike cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.stage_ways import rated
from danlu.plan.groups.unit_cost import KINDS, Stack, setup_of
from danlu.plan.presets import model_flop
from danlu.plan.stated.stack_forecast import NAMES, REST, TERMS, half_width, residuals
from danlu.plan.stated.stack_time import Constants, prices, published, waiting
from danlu.plan.stated.stack_work import AMOUNTS, unit

KG_PER_KWH = 0.48  # of CO2: the world's electricity in 2023 (Ember, Global Electricity Review 2024)
KG_SOURCE = "world's mean of 2023, Ember, Global Electricity Review 2024"
BUBBLE, ONCE, WAIT = REST


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan's forecast.

    seconds, low, high  of a step; 80 % of published runs like it end between low and high
    shares    of the used cards' seconds, by stack_forecast.NAMES; they sum to 1
    u_peak    model FLOP (presets.model_flop) over what all cards of the fleet do at their published rate
    kwh       of one step: every used card at its board power throughout; None where a card's power is unknown
    price     of one step; None where a used card has no price
    """

    plan: GroupedPlan
    seconds: float
    low: float
    high: float
    shares: Mapping[str, float]
    u_peak: float
    kwh: float | None
    price: float | None

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens per second."""
        return self.plan.batch * self.plan.seq / self.seconds

    @property
    def dominant(self) -> str:
        """The term with most of the seconds."""
        return max(self.shares, key=lambda name: self.shares[name])

    def per_billion(self, of_step: float | None) -> float | None:
        """What of a step it takes for a billion tokens."""
        return None if of_step is None else of_step * 1e9 / (self.plan.batch * self.plan.seq)


def seconds_of(plan: GroupedPlan, constants: Constants | None = None) -> float:
    """Seconds of a step with the wait of all used cards for the slowest of them."""
    return plan.seconds * waiting(sum(plan.used), constants or published())


def outlook(
    plan: GroupedPlan, spec: ModelSpec, fleet: GroupedFleet, stack: Stack | None = None,
    constants: Constants | None = None,
) -> Outlook:  # fmt: skip
    """The forecast of a plan.

    spec    the model itself, where the plan's is the one of the cost tables
    fleet   the whole of it, where the plan's is a part
    """
    known = constants or published()
    seconds, shares = seconds_of(plan, known), terms(plan, stack, known)
    spread = half_width([shares[name] for name in NAMES], residuals())
    peak = sum(group.count * group.flops for group in fleet.groups)
    flop = model_flop(spec, plan.seq) * plan.batch * plan.seq
    used = [group for group, count in zip(plan.fleet.groups, plan.used, strict=True) if count]
    longer = seconds / plan.seconds
    return Outlook(
        plan, seconds, seconds * math.exp(-spread), seconds * math.exp(spread), shares, flop / (peak * seconds),
        plan.kwh * longer if all(group.watts for group in used) else None,
        plan.price * longer if all(group.price for group in used) else None,
    )  # fmt: skip


def terms(plan: GroupedPlan, stack: Stack | None = None, constants: Constants | None = None) -> Mapping[str, float]:
    """Shares of the used cards' seconds by what they are spent on."""
    known = constants or published()
    found = dict.fromkeys(NAMES, 0.0)
    for each in plan.replicas:
        for stage in each.stages:
            spent = _stage_terms(plan, each, stage, stack or Stack(precision=plan.dtype), known)
            for name, value in spent.items():
                found[name] += each.copies * stage.cards * value
    total = sum(found.values())
    wait = 1.0 - 1.0 / waiting(sum(plan.used), known)
    shares = {name: value / total * (1.0 - wait) for name, value in found.items()}
    return shares | {WAIT: wait}


def _stage_terms(
    plan: GroupedPlan, pipeline: Replicas, stage: GroupStage, stack: Stack, known: Constants
) -> dict[str, float]:  # fmt: skip
    """Seconds of a step of one stage by term; what is left of the plan's step is the bubble's."""
    group = plan.fleet.groups[stage.group]
    run = setup_of(plan.model, rated(group), stage.way, plan.seq, stack.on(group))
    price = prices(run, rated(group), known)
    spent = dict.fromkeys(NAMES, 0.0)
    for kind in KINDS:
        count = sum(name.rsplit(".", 1)[-1] == kind for name in plan.model.units[stage.start : stage.stop])
        seconds = unit(run, kind).sum(axis=0) * price * count * pipeline.micro_batches
        for name, amounts in TERMS.items():
            spent[name] += float(sum(seconds[AMOUNTS.index(each)] for each in amounts))
    busy = pipeline.micro_batches * stage.time_s
    spent["pipeline messages"] += max(0.0, busy - sum(spent.values()))
    return spent | {ONCE: stage.step_s, BUBBLE: max(0.0, plan.seconds - busy - stage.step_s)}
