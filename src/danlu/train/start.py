"""What a stage goes on from: random weights by name and seed, a model folder, or a snapshot, whatever plan wrote it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from danlu.errors import NoSuchTensor, OtherModel
from danlu.model.fingerprint import fingerprint
from danlu.model.load import load
from danlu.model.net import Decoder, init
from danlu.nouns import Stage
from danlu.plan.ranks.seats import Seat
from danlu.recipe import weight_of
from danlu.store import checkpoint
from danlu.train.job import TrainJob, digest
from danlu.train.shared import SharedAdamW
from danlu.train.stage import Interpreter


def begin(job: TrainJob, stage: Interpreter) -> None:
    """Weights of step 0: from the job's model folder, else random by name and seed. Moments are zero."""
    here, optimizer = stage_of(job, stage.seat), stage.optimizer
    if job.weights is None:
        init(stage.decoder, job.seed)
        source: Decoder = stage.decoder
    else:
        source = load(job.weights, here.start, here.stop, share=stage.decoder.share)
    if isinstance(optimizer, SharedAdamW):
        with torch.no_grad():
            for name, parameter in source.named_parameters():
                stage.decoder.get_parameter(name).copy_(parameter)
        optimizer.begin()
        return
    weights = {name: parameter.detach() for name, parameter in source.named_parameters()}
    zeros = {
        name + mark: np.zeros(weight.shape, np.float32) for name, weight in weights.items() for mark in (".m", ".v")
    }
    optimizer.restore_named(0, {**{n: w.float().cpu().numpy() for n, w in weights.items()}, **zeros})


def agreed(job: TrainJob, step: int) -> dict[str, str]:
    """What all ranks must have alike before they train on from `step`: the job, and the weights it goes on with."""
    if step:
        return {"job": digest(job), "snapshot": checkpoint.identity(job.checkpoints, step)}
    return {"job": digest(job), "model folder": "none" if job.weights is None else fingerprint(job.weights)}


def restore(job: TrainJob, stage: Interpreter, step: int) -> None:
    """The state after `step` steps, from its snapshot, whatever plan wrote it. Raises OtherModel if it does not fit."""
    optimizer = stage.optimizer
    if not isinstance(optimizer, SharedAdamW):
        optimizer.restore_named(step, saved_tensors(job, stage, step))
        return
    try:
        found = checkpoint.load(
            job.checkpoints, step, [name + mark for name in optimizer.names for mark in ("", ".m", ".v")]
        )
    except NoSuchTensor as error:
        raise other_model(job, step, error.why) from error
    for name in optimizer.names:
        if found[name].shape != weight_of(job.plan.model, name).shape:
            raise other_model(job, step, f"{name} has shape {found[name].shape} there")
    optimizer.restore_whole(step, found)


def saved_tensors(job: TrainJob, stage: Interpreter, step: int) -> dict[str, npt.NDArray[Any]]:
    """A stage's tensors from the snapshot of a step, whoever wrote them. Raises OtherModel if they do not fit."""
    source = {"head.weight": "embed.weight"} if held_twice(job, stage) else {}
    names = {name + mark: source.get(name, name) + mark for name in stage.optimizer.slots for mark in ("", ".m", ".v")}
    try:
        found = checkpoint.load(job.checkpoints, step, names.values())
    except NoSuchTensor as error:
        raise other_model(job, step, error.why) from error
    for name, slot in stage.optimizer.slots.items():
        shape = found[names[name]].shape
        if shape != tuple(slot.shape):
            raise other_model(job, step, f"{name} has shape {shape} there and {tuple(slot.shape)} here")
    return {name: found[there] for name, there in names.items()}


def other_model(job: TrainJob, step: int, why: str) -> OtherModel:
    """The error for a snapshot that another model wrote."""
    return OtherModel(
        f"the snapshot of step {step} is of another model",
        where=str(job.checkpoints),
        why=why,
        fix="give the model it was trained with, or another --out",
    )


def held_twice(job: TrainJob, stage: Interpreter) -> frozenset[str]:
    """Parameters that this stage has a copy of and another stage saves: the head tied to a far embedding."""
    return frozenset({"head.weight"} & set(stage.optimizer.slots)) if job.plan.model.tied else frozenset()


def stage_of(job: TrainJob, seat: Seat) -> Stage:
    """The stage of a seat."""
    return job.plan.pipelines[seat.replica].stages[seat.stage]
