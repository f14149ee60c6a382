"""A plan over a fleet of groups: which pipelines run how often, with the numbers that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups.unit_cost import Way

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class GroupStage:
    """A stage on cards of one group.

    group      index into the fleet's groups
    way        how its cards run it
    start, stop  units [start, stop)
    time_s     of one micro-batch, forward and backward, with messages
    step_s     once a step: gradients, optimizer
    fill_s     by which it delays the first micro-batch
    bytes      that each card needs
    ahead_s, back_s  of a message to the next stage, the first one after the last, and to the one before
    moment     bytes that live for a moment beside them: logits, gradients of an MLP, a layer made anew
    kept       bytes among them of one micro-batch in flight
    """

    group: int
    way: Way
    start: int
    stop: int
    time_s: float
    step_s: float
    fill_s: float
    bytes: int
    ahead_s: float
    back_s: float
    moment: int = 0
    kept: int = 0

    @property
    def peak(self) -> int:
        """Most bytes that each card has allocated at once."""
        return self.bytes + self.moment

    @property
    def tp(self) -> int:
        """Cards that share each unit."""
        return self.way.tp

    @property
    def recompute(self) -> str:
        """What is computed again."""
        return self.way.recompute

    @property
    def cards(self) -> int:
        """Cards of the stage."""
        return self.way.cards


@dataclass(frozen=True, slots=True)
class Replicas:
    """`copies` equal pipelines, each with `micro_batches` of `micro_batch` sequences in a step of `seconds`.

    chunks   of every stage: layers are dealt over them, and interleaved 1F1B takes the place of the plan's schedule
    """

    copies: int
    stages: tuple[GroupStage, ...]
    micro_batch: int
    micro_batches: int
    seconds: float
    chunks: int = 1

    @property
    def sequences(self) -> int:
        """Sequences of a step, all copies together."""
        return self.copies * self.micro_batch * self.micro_batches

    def cards(self, group: int) -> int:
        """Cards of a group that all copies take."""
        return self.copies * sum(stage.cards for stage in self.stages if stage.group == group)


@dataclass(frozen=True, slots=True)
class GroupedPlan:
    """What a grouped fleet should do, and what that should cost.

    kind      "mixed" (alike pipelines over several groups), "alone" (every pipeline inside a group), "hybrid" (both or
              several of them), "even" (alike pipelines of stages cut alike) or the name of the one card type used
    schedule  of pipelines whose stages are in one piece: "1f1b" or "zb-h1"
    seconds   of one step of `batch` sequences
    dtype     "bf16", "fp16", "fp32", or "fp8", with bf16 on cards that do not multiply 8-bit floats
    """

    kind: str
    model: ModelSpec
    fleet: GroupedFleet
    batch: int
    seq: int
    schedule: str
    replicas: tuple[Replicas, ...]
    seconds: float
    dtype: str = "bf16"

    @property
    def precision(self) -> str:
        """Its dtype, for people: "fp8 (bf16 on A100-80)"."""
        groups = [group for group, n in zip(self.fleet.groups, self.used, strict=True) if n and not group.fp8]
        wide = self.dtype == "fp8" and groups
        return f"fp8 (bf16 on {', '.join(dict.fromkeys(group.card for group in groups))})" if wide else self.dtype

    @property
    def name(self) -> str:
        """Its kind, and whether stages are in chunks."""
        return f"{self.kind}, interleaved" if any(each.chunks > 1 for each in self.replicas) else self.kind

    @property
    def orders(self) -> str:
        """The orders its pipelines run."""
        chunks = sorted({each.chunks for each in self.replicas})
        woven = f"interleaved 1f1b ({' and '.join(str(n) for n in chunks if n > 1)} chunks a stage)"
        return " and ".join([self.schedule] * (chunks[0] == 1) + [woven] * (chunks[-1] > 1))

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens per second."""
        return self.batch * self.seq / self.seconds

    @property
    def pipelines(self) -> int:
        """Pipelines in data parallel."""
        return sum(each.copies for each in self.replicas)

    @property
    def used(self) -> tuple[int, ...]:
        """Cards used of each group."""
        return tuple(sum(each.cards(at) for each in self.replicas) for at in range(len(self.fleet.groups)))

    @property
    def kwh(self) -> float:
        """Energy of one step in kWh: every used card at its full power throughout."""
        watts = sum(n * group.watts for n, group in zip(self.used, self.fleet.groups, strict=True))
        return watts * self.seconds / JOULES_PER_KWH

    @property
    def price(self) -> float:
        """Price of one step: every used card, by the hour."""
        hourly = sum(n * group.price for n, group in zip(self.used, self.fleet.groups, strict=True))
        return hourly * self.seconds / 3600

    def co2_kg(self, kg_per_kwh: float) -> float:
        """Carbon dioxide of one step where a kWh stands for so many kg of it."""
        return self.kwh * kg_per_kwh

    @property
    def terms(self) -> Mapping[str, float]:
        """Where the card-seconds of all cards of the fleet go, as shares of 1.

        busy      stages at work on micro-batches
        step      gradients and optimizer
        fill      pipelines filling and draining, and stages waiting for a slower one
        spare     pipelines that end before the slowest one
        unused    cards left out
        """
        whole = self.fleet.cards * self.seconds
        found = {"busy": 0.0, "step": 0.0, "fill": 0.0, "spare": 0.0}
        for each in self.replicas:
            for stage in each.stages:
                cards = each.copies * stage.cards
                busy, once = each.micro_batches * stage.time_s, stage.step_s
                found["busy"] += cards * busy
                found["step"] += cards * once
                found["fill"] += cards * max(0.0, each.seconds - busy - once)  # -1e-16 of one stage is none
                found["spare"] += cards * (self.seconds - each.seconds)
        shares = {name: value / whole for name, value in found.items()}
        return shares | {"unused": 1.0 - sum(self.used) / self.fleet.cards}
