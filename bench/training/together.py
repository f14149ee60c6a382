"""Uneven tensor, pipeline, context and data parallelism against one process: gradients of a step, losses of fifty.

Every way to place up to four ranks (placements.py): a dense model, one with experts cut by their ffn, one whose experts
are dealt out whole to a stage's cards, and one whose experts are spread over copies and parts. Ranks are threads here,
joined by real sockets; nothing is paced. Everything is fp32. A process for each core takes one case after another.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from danlu.cli.bench import load
from danlu.cli.output import Progress, table
from danlu.comm.wire import Wire
from danlu.fleet.pace import Pacer
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import ModelSpec, Plan
from danlu.plan.ranks.seats import instructions_of, seats
from danlu.train import rank, start
from danlu.train.job import TrainJob
from danlu.train.optim import AdamW, learning_rate
from danlu.train.program import program
from danlu.train.shared import SharedAdamW
from danlu.train.stage import Interpreter

STEPS = 50

Case = tuple[str, Plan]
Errors = tuple[float, float]  # gradient's, losses'


def measure(rounds: int) -> dict[str, Any]:
    """Keys: gradient_error_max (worst relative error of gradients and losses of any case), and each of the two.

    One round is a quick look: placements of up to two ranks.
    """
    every, line = list(load("training/placements").cases(2 if rounds == 1 else 4)), Progress("cases")
    rows, errors = [], []
    for (name, plan), found in zip(every, measured(every), strict=True):
        errors.append(found)
        rows.append([name, str(len(seats(plan))), *(f"{error:.1e}" for error in found)])
        line.show(f"{len(rows)} of {len(every)}, worst {max(map(max, errors)):.1e}; {name}: {max(found):.1e}")
    line.done(f"{len(rows)} of {len(every)}")
    head = ["case: cards of stages +, & parts, ; copies", "ranks", "gradient error", f"loss error, {STEPS} steps"]
    print(table(head, rows))
    gradients, curves = (max(each) for each in zip(*errors, strict=True))
    return {"gradient_error_max": max(gradients, curves), "gradient_error": gradients,
            "curve_error": curves, "cases": len(rows)}  # fmt: skip


def measured(every: list[Case]) -> Iterator[Errors]:
    """The errors of all cases, in order, as they come.

    Processes are forked before torch has a thread; each stays on a core of its own, because ranks that hand Python's
    lock on between cores take three times as long.
    """
    cores, context = sorted(os.sched_getaffinity(0)), multiprocessing.get_context("fork")
    free = context.SimpleQueue()
    for core in cores:
        free.put(core)
    with context.Pool(len(cores), _settle, (free,)) as pool:
        yield from pool.imap(_errors, every)


def _settle(free: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told once, by the first process
    os.sched_setaffinity(0, {free.get()})
    torch.set_num_threads(1)


def _errors(case: Case) -> Errors:
    return errors(job_of(case[1]))


def job_of(plan: Plan, out: Path = Path("out")) -> TrainJob:
    """A job of STEPS steps by a plan."""
    return TrainJob(plan=plan, out=out, tokens=Path("tokens"), steps=STEPS, lr=1e-2, warmup=5, weight_decay=0.1,
                    clip=1.0, seed=3, save_every=100, key="00" * 16, trace_step=2)  # fmt: skip


def batch_at(job: TrainJob, step: int) -> npt.NDArray[np.int64]:
    """Random runs of tokens, so that there is something to learn."""
    random = np.random.default_rng((job.seed, step))
    start = random.integers(0, job.plan.model.vocab, (job.batch, 1))
    stride = random.integers(1, 4, (job.batch, 1))
    found: npt.NDArray[np.int64] = (start + stride * np.arange(job.plan.seq + 1)) % job.plan.model.vocab
    return found


def started(job: TrainJob) -> list[Interpreter]:
    """Every rank of a job, built as a process of it would, its weights set."""
    found = []
    for seat in seats(job.plan):
        stage = rank.build(job, seat.rank)
        stage.pacer = Pacer()
        start.begin(job, stage)
        stage.warm()
        found.append(stage)
    return found


def run(job: TrainJob, ranks: list[Interpreter], begin: int, end: int) -> list[tuple[float, float]]:
    """Steps begin + 1 .. end on all ranks at once: (loss, norm) of each, which all ranks must agree on to the bit."""
    lines = wires(len(ranks))

    def one(index: int) -> list[tuple[float, float]]:
        stage, told = ranks[index], []
        work = program(instructions_of(job.plan, stage.seat))
        stage.reset()
        for step in range(begin + 1, end + 1):
            done = stage.run(work, lines[index], step, batch_at(job, step - 1), _rate(job, step), job.clip, _nothing)
            told.append((done.loss, done.norm))
        return told

    with ThreadPoolExecutor(len(ranks)) as pool:
        found = [each.result(300) for each in [pool.submit(one, i) for i in range(len(ranks))]]
    for line in lines:
        line.close()
    assert all(each == found[0] for each in found)
    return found[0]


def wires(ranks: int) -> list[Wire]:
    """A wire for every rank, each pair joined by a socket."""
    lines: list[dict[int, socket.socket]] = [{} for _ in range(ranks)]
    for a, b in itertools.combinations(range(ranks), 2):
        lines[a][b], lines[b][a] = socket.socketpair()
    return [Wire(number, 1, lines[number], limit_s=60) for number in range(ranks)]


def alone(
    job: TrainJob, steps: int, seen: Callable[[AdamW], None] = lambda optimizer: None
) -> tuple[list[float], AdamW]:
    """The same in one process over whole batches; `seen` is shown the first step's gradients before its update."""
    decoder = Decoder(job.plan.model)
    init(decoder, job.seed)
    optimizer, losses, state = AdamW(decoder, weight_decay=job.weight_decay), [], Causal(job.batch, job.plan.seq)
    for step in range(1, steps + 1):
        rows = torch.from_numpy(batch_at(job, step - 1))
        logits = decoder(rows[:, :-1].reshape(-1), state, state.meta())
        loss = F.cross_entropy(logits, rows[:, 1:].reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 1:
            seen(optimizer)
        norm = optimizer.norm_squared(None) ** 0.5
        optimizer.update(_rate(job, step), min(1.0, job.clip / (norm + 1e-6)))
        losses.append(loss.item())
    return losses, optimizer


def gradient_error(job: TrainJob) -> float:
    """Worst relative error, over parameters, of the gradients of the first step."""
    return errors(job, 1)[0]


def errors(job: TrainJob, steps: int = STEPS) -> Errors:
    """Worst relative error of the first step's gradients, over parameters, and of the losses of all steps."""
    gradients: dict[str, torch.Tensor] = {}
    ranks = started(job)
    for stage in ranks:
        _watch(stage.optimizer, gradients)
    told = run(job, ranks, 0, steps)
    expected, losses = one_process(job.plan.model, job.batch, job.plan.seq, steps)
    return (
        max(relative(whole_of(gradients, name), grad) for name, grad in expected.items()),
        max(abs(loss / each - 1) for (loss, _), each in zip(told, losses, strict=True)),
    )


@functools.cache
def one_process(model: ModelSpec, batch: int, seq: int, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Gradients of the first step of one process, and its losses; many cases have the same."""
    found: dict[str, torch.Tensor] = {}
    placements = load("training/placements")
    job = job_of(placements.whole(model, batch, seq))
    losses, _ = alone(job, steps, lambda optimizer: found.update({n: optimizer.grad_of(n).clone()
                                                                  for n in optimizer.slots}))  # fmt: skip
    return found, losses


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def whole_of(parts: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A parameter put together from its cells, by their keys."""
    if name in parts:
        return parts[name]
    keys = [key for key in parts if key.startswith(f"{name}@")]
    places = sorted((tuple(map(int, key.partition("@")[2].split(":"))), key) for key in keys)
    return torch.cat([parts[key] for _, key in places], places[0][0][0])


def _watch(optimizer: AdamW | SharedAdamW, found: dict[str, torch.Tensor]) -> None:
    """Have an optimizer's gradients copied at its next update."""
    update = optimizer.update

    def seen(rate: float, scale: float) -> None:
        optimizer.update = update  # type: ignore[method-assign]
        flat = optimizer.summed if isinstance(optimizer, SharedAdamW) else optimizer.total
        found.update({name: slot.of(flat).clone() for name, slot in optimizer.slots.items()})
        update(rate, scale)

    optimizer.update = seen  # type: ignore[method-assign]


def _rate(job: TrainJob, step: int) -> float:
    return learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)


def _nothing() -> None:
    """No snapshot is taken here."""
