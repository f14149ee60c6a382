"""Plans in which cards share layers and copies of the model, run as threads over sockets; and one process beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from test_train_stage import relative, wires
from train_world import batches, fleet, together

from danlu.model.net import Causal, Decoder, init
from danlu.nouns import ModelSpec, Plan, Replica, Stage
from danlu.plan.seats import instructions_of, seats
from danlu.train import rank
from danlu.train.job import TrainJob
from danlu.train.optim import AdamW, learning_rate
from danlu.train.stage import Interpreter, program

DENSE = ModelSpec("llama", 2, 24, 4, 2, 6, 20, 37, 64, qkv_bias=True, qk_norm=True)
MOE = replace(DENSE, family="qwen2_moe", experts=5, experts_used=2, shared_ffn=14, recipe=("attn", "moe"))
TIED = replace(DENSE, tied=True)
YUAN = replace(DENSE, family="yuan", kv_heads=4, qk_norm=False, recipe=("lfa", "mlp"))

Pipe = tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]  # per stage: its last unit, shares of heads, of experts


def plan_of(spec: ModelSpec, pipes: list[tuple[Pipe, int]], schedule: str = "1f1b") -> Plan:
    """A plan whose copies are (stages, micro-batches) each."""
    cards = fleet(*(0.9 for _ in range(sum(len(shares) or 1 for pipe, _ in pipes for _, shares, _ in pipe))))
    names, found = iter(card.name for card in cards.cards), []
    for pipe, count in pipes:
        at, stages = 0, []
        for stop, shares, experts in pipe:
            held = tuple(next(names) for _ in range(len(shares) or 1))
            stages.append(Stage(held, at, stop, shares, experts=experts))
            at = stop
        found.append(Replica(tuple(stages), count))
    return Plan(spec, cards, found[0].stages, schedule, found[0].micro_batches, 2, 5, replicas=tuple(found[1:]))


def job_of(plan: Plan, **changes) -> TrainJob:
    values = {"steps": 50, "lr": 1e-2, "warmup": 5, "weight_decay": 0.1, "clip": 1.0, "seed": 3, "save_every": 100,
              "key": "00" * 16, "trace_step": 2, "out": Path("out"), "tokens": Path("tokens")}  # fmt: skip
    return TrainJob(plan=plan, **{**values, **changes})


def started(job: TrainJob) -> list[Interpreter]:
    """Every rank of the job, its weights set, unpaced."""
    found = []
    for seat in seats(job.plan):
        stage = rank.build(job, seat.rank)
        stage.pacer = type(stage.pacer)()
        rank.begin(job, stage)
        stage.warm()
        found.append(stage)
    return found


def run(job: TrainJob, ranks: list[Interpreter], begin: int, end: int) -> list[tuple[float, float]]:
    """Steps begin + 1 .. end on all ranks at once: (loss, norm) of each, which all ranks must agree on to the bit."""
    lines, at = wires(len(ranks)), batches(job)

    def one(index: int) -> list[tuple[float, float]]:
        stage, told = ranks[index], []
        work = program(instructions_of(job.plan, stage.seat))
        stage.reset()
        for step in range(begin + 1, end + 1):
            rate = learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)
            done = stage.run(work, lines[index], step, at(step - 1), rate, job.clip, lambda: None)
            told.append((done.loss, done.norm))
        return told

    found = together([lambda i=i: one(i) for i in range(len(ranks))])
    for line in lines:
        line.close()
    assert all(each == found[0] for each in found)
    return found[0]


def alone(job: TrainJob, steps: int) -> tuple[list[float], dict[str, torch.Tensor], AdamW]:
    """The same in one process over whole batches: losses, gradients of the first step, the optimizer at the end."""
    decoder = Decoder(job.plan.model)
    init(decoder, job.seed)
    optimizer, losses, first = AdamW(decoder, weight_decay=job.weight_decay), [], {}
    state = Causal(job.batch, job.plan.seq)
    for step in range(1, steps + 1):
        rows = torch.from_numpy(batches(job)(step - 1))
        logits = decoder(rows[:, :-1].reshape(-1), state, state.meta())
        loss = F.cross_entropy(logits, rows[:, 1:].reshape(-1))
        loss.backward()
        first = first or {name: optimizer.grad_of(name).clone() for name in optimizer.slots}
        norm = optimizer.norm_squared(None) ** 0.5
        rate = learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)
        optimizer.update(rate, min(1.0, job.clip / (norm + 1e-6)))
        losses.append(loss.item())
    return losses, first, optimizer


def gradient_error(job: TrainJob) -> float:
    """Worst relative error, over parameters, of the gradients of the first step against one process."""
    ranks, found = started(job), {}
    for stage in ranks:
        update = stage.optimizer.update

        def spy(rate, scale, stage=stage, update=update):
            owned = getattr(stage.optimizer, "_sum", None)
            for name, slot in stage.optimizer.slots.items():
                grad = slot.of(stage.optimizer.grad if owned is None else owned).clone()
                found[name] = grad
            update(rate, scale)

        stage.optimizer.update = spy
    run(job, ranks, 0, 1)
    _, expected, _ = alone(job, 1)
    return max(relative(whole_of(found, name), grad) for name, grad in expected.items())


def whole_of(parts: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A parameter put together from its cells."""
    if name in parts:
        return parts[name]
    found = sorted(
        (tuple(map(int, key.partition("@")[2].split(":"))), part) for key, part in parts.items()
        if key.startswith(f"{name}@")
    )  # fmt: skip
    return torch.cat([part for _, part in found], found[0][0][0])
