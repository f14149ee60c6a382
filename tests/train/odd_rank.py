"""A rank that is not as the others: python odd_rank.py FAULT JOB_FILE OWNER_ADDRESS NAME."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from train_world import batches

from danlu import tensorfile
from danlu.comm import header
from danlu.comm.mesh import call
from danlu.train import job, rank, start
from danlu.train.control import Line
from danlu.train.job import TrainJob


def other_wire(told: TrainJob) -> TrainJob:
    """One of the next danlu, which speaks another wire version."""
    header.WIRE += 1
    return told


def other_job(told: TrainJob) -> TrainJob:
    """One that read the job file before it was changed."""
    return replace(told, lr=told.lr * 2)


def other_weights(told: TrainJob) -> TrainJob:
    """One on a host where the model's folder holds another model."""
    assert told.weights is not None
    return replace(told, weights=told.weights.with_name("other"))


def cut_weights(told: TrainJob) -> TrainJob:
    """One whose weights are cut when it has opened them, a copy for this rank alone."""
    opened = tensorfile.read_folder

    def cut(folder: Path) -> dict[str, tensorfile.Entry]:
        found = opened(folder)
        os.truncate(folder / "model.safetensors", 4096)
        return found

    tensorfile.read_folder = cut
    return other_weights(told)


def other_shape(told: TrainJob) -> TrainJob:
    """One that says it has the job, and makes longer activations."""
    right = job.digest(told)
    start.digest = lambda wrong: right
    return replace(told, plan=replace(told.plan, seq=told.plan.seq + 1))


def main(argv: list[str]) -> None:
    line = Line(call(argv[2]))
    told = globals()[argv[0]](job.loads(Path(argv[1]).read_text()))
    rank.follow(line, told, lambda: batches(told), argv[3])


if __name__ == "__main__":
    main(sys.argv[1:])
