"""What every process of a training job is told, in one file: OUT/job.json (docs/formats.md, "job file")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from danlu.errors import NoFloat8, NotRunnable, UnreadableJob
from danlu.nouns import FP8, Card, Fleet, Plan, Stage
from danlu.plan import text as plan_text
from danlu.plan.ranks.seats import seats

VERSION = 1
DTYPES = ("fp32", "bf16", *FP8)
RECOMPUTE = ("none", "full")
NOT_FP8 = "--train.dtype fp8-mixed (bf16 on such cards), fp8-emulated (slow, to see what rounding does), or bf16"


def check(plan: Plan) -> None:
    """Raises NotRunnable for a plan that the trainer would run otherwise than it says."""
    check_dtype(plan.dtype, plan.fleet)
    for copy in plan.pipelines:
        for index, stage in enumerate(copy.stages):
            check_recompute(index, stage)


def check_recompute(index: int, stage: Stage) -> None:
    """Raises NotRunnable for the stage of a pipeline that is to recompute in a way the trainer does not know."""
    if stage.recompute not in RECOMPUTE:
        raise NotRunnable(
            f"stage {index} recomputes {stage.recompute!r}",
            where=stage.cards[0],
            why=f"the trainer knows {' and '.join(RECOMPUTE)}",
            fix='"recompute": "full" in the plan needs less memory and a third more time',
        )


def check_dtype(dtype: str, fleet: Fleet) -> None:
    """Raises NotRunnable for an element type that nothing trains in, NoFloat8 where cards of the fleet lack 8 bits."""
    lacking = [card for card in fleet.cards if "fp8" not in card.flops]
    if dtype not in DTYPES:
        raise NotRunnable(
            f"training in {dtype}",
            where=", ".join(card.name for card in fleet.cards if dtype not in card.flops),
            why=f"the trainer computes in {', '.join(DTYPES)}; it has no kernels for {dtype}, on any card",
            fix="--train.dtype bf16: master weights, sums of gradients and the loss are fp32",
        )
    if dtype == "fp8" and lacking:
        raise NoFloat8(
            f"{len(lacking)} of {len(fleet.cards)} cards cannot multiply 8-bit floats",
            where=", ".join(card.name for card in lacking),
            why=f"no fp8 was measured on {lacking[0].name} ({lacking[0].model or lacking[0].vendor}); "
            f"it has {', '.join(lacking[0].flops)}",
            fix=NOT_FP8,
        )


@dataclass(frozen=True, slots=True)
class TrainJob:
    """A training job.

    tokens      folder of the token file
    start       step of the snapshot to go on from, 0 to begin
    weights     Hugging Face folder to start from, None for seeded random weights
    save_every  steps between snapshots; the last step is always saved
    trace_step  the step whose spans are kept for the timeline picture
    loader      what a resumed run's loader must share with this one's
    key         secret that every process of the job shows
    limit_s     longest wait for a message
    patience_s  silence after which a rank is taken for dead
    """

    plan: Plan
    out: Path
    tokens: Path
    steps: int
    lr: float
    warmup: int
    weight_decay: float
    clip: float
    seed: int
    save_every: int
    key: str
    trace_step: int
    start: int = 0
    weights: Path | None = None
    loader: Mapping[str, Any] = field(default_factory=dict)
    limit_s: float = 120.0
    patience_s: float = 5.0

    @property
    def batch(self) -> int:
        """Sequences of one optimizer step."""
        return self.plan.sequences

    @property
    def tokens_per_step(self) -> int:
        """Trained tokens of one optimizer step."""
        return self.batch * self.plan.seq

    @property
    def checkpoints(self) -> Path:
        """Where the snapshots are."""
        return self.out / "checkpoints"

    def card(self, rank: int) -> Card:
        """The card of a rank."""
        return self.plan.fleet.card(seats(self.plan)[rank].card)

    def name(self, rank: int) -> str:
        """What a rank is called in an error: where it runs, too."""
        if rank >= len(seats(self.plan)):
            return f"rank {rank}"
        card = self.card(rank)
        return f"rank {rank} on host {card.host}, card {card.name}"

    def saves(self, step: int) -> bool:
        """True when a snapshot follows this step."""
        return step % self.save_every == 0 or step == self.steps


def dumps(job: TrainJob) -> str:
    """The job as JSON text that `loads` reads back equal."""
    paths = {name: None if (path := getattr(job, name)) is None else str(path) for name in ("out", "tokens", "weights")}
    plan = json.loads(plan_text.dumps(job.plan))
    rest = {name: getattr(job, name) for name in job.__slots__}
    return json.dumps({"job": VERSION, **rest, **paths, "plan": plan}, indent=1)


def digest(job: TrainJob) -> str:
    """What all ranks of a job must agree on, as a few letters: all of it but its secret and where things lie."""
    lies = replace(job, out=Path(), tokens=Path(), weights=Path() if job.weights else None, key="")
    return blake2b(dumps(lies).encode(), digest_size=8).hexdigest()


def loads(text: str, where: str = "job") -> TrainJob:
    """The job of a JSON text. Raises UnreadableJob, UnreadablePlan."""
    try:
        tree = json.loads(text)
        if tree.pop("job") != VERSION:
            raise ValueError(f"this danlu reads version {VERSION}")
        tree["plan"] = plan_text.loads(json.dumps(tree["plan"]), where)
        for name in ("out", "tokens", "weights"):
            tree[name] = None if tree[name] is None else Path(tree[name])
        return TrainJob(**tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableJob(
            "the job file cannot be used", where=where, why=str(error), fix="danlu train run.yaml writes it anew"
        ) from error
