"""Jobs of the small world, and what is compared of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from train_world import SPEC, fleet, plan

from danlu.nouns import Plan
from danlu.store import checkpoint
from danlu.train.job import TrainJob

ARGV = (sys.executable, str(Path(__file__).with_name("train_world.py")))
os.environ["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))


SLOW = fleet(0.1, 0.1, 0.1)  # so that a signal finds the step it is meant for


def a_job(out: Path, a_plan: Plan | None = None, **changes) -> TrainJob:
    values = {"steps": 12, "lr": 1e-2, "warmup": 2, "weight_decay": 0.1, "clip": 1.0, "seed": 3, "save_every": 4,
              "key": "ab" * 16, "trace_step": 3, "patience_s": 5.0, "limit_s": 60.0}  # fmt: skip
    return TrainJob(
        plan=a_plan or plan(SPEC, (3, 5), cards=SLOW), out=out, tokens=out / "tokens", **{**values, **changes}
    )


def weights(job: TrainJob) -> dict[str, np.ndarray]:
    step = checkpoint.latest(job.checkpoints)
    assert step == job.steps
    return checkpoint.load(job.checkpoints, step)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
