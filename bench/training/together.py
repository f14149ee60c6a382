"""Uneven tensor, pipeline, context and data parallelism against one process: gradients of a step, losses of fifty.

Every way to place up to four ranks: copies of the model, parts of a copy's sequences, stages of a part, cards of a
stage; a dense model, one with experts cut by their ffn, one whose experts are dealt out whole to a stage's cards, and
one whose experts are spread over copies and parts. Ranks are threads here, joined by real sockets; nothing is paced.
Everything is fp32.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from danlu.cli.output import Progress, table
from danlu.comm.wire import Wire
from danlu.fleet.pace import Pacer
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import Card, Fleet, ModelSpec, Plan, Replica, Stage
from danlu.plan.ranks.seats import instructions_of, seats
from danlu.train import rank
from danlu.train.job import TrainJob
from danlu.train.optim import AdamW, learning_rate
from danlu.train.program import program
from danlu.train.shared import SharedAdamW
from danlu.train.stage import Interpreter

DENSE = ModelSpec("llama", 3, 24, 12, 6, 4, 40, 53, 64, qkv_bias=True, qk_norm=True)
MOE = replace(DENSE, family="qwen2_moe", experts=7, experts_used=2, ffn=20, shared_ffn=28, recipe=("attn", "moe"))
GROUPS = {1: (), 2: (2, 4), 3: (1, 2, 3), 4: (1, 1, 1, 3)}  # key-value groups of each card of a stage
EXPERTS = {1: (), 2: (2, 5), 3: (1, 2, 4), 4: (1, 1, 2, 3)}
ENDS = {1: (8,), 2: (3, 8), 3: (2, 3, 8), 4: (2, 3, 5, 8)}  # last unit of each stage
BATCHES = {1: (3,), 2: (1, 2), 3: (1, 2, 3), 4: (1, 1, 2, 3)}  # micro-batches of each copy
CONTEXTS = {1: (0,), 2: (2, 3), 3: (1, 3, 1), 4: (1, 1, 2, 1)}  # tokens of each part of a copy's sequences
STEPS = 50

Row = tuple[int, ...]  # per stage: cards
Widths = tuple[tuple[Row, ...], ...]  # per copy, per part of its sequences


def measure(rounds: int) -> dict[str, Any]:
    """Keys: gradient_error_max (worst relative error of gradients and losses of any case), and each of the two.

    One round is a quick look: placements of up to two ranks.
    """
    torch.set_num_threads(1)
    rows, gradients, curves = [], [0.0], [0.0]
    every, line = list(cases(2 if rounds == 1 else 4)), Progress("cases")
    for number, (name, plan) in enumerate(every, 1):
        line.show(f"{number} of {len(every)}: {name}")
        job = job_of(plan)
        gradient, curve = gradient_error(job), curve_error(job)
        gradients.append(gradient)
        curves.append(curve)
        rows.append([name, str(len(seats(plan))), f"{gradient:.1e}", f"{curve:.1e}"])
    head = ["case: cards of stages +, & parts, ; copies", "ranks", "gradient error", f"loss error, {STEPS} steps"]
    print(table(head, rows))
    return {"gradient_error_max": max(*gradients, *curves), "gradient_error": max(gradients),
            "curve_error": max(curves), "cases": len(rows)}  # fmt: skip


def cases(ranks: int) -> Iterator[tuple[str, Plan]]:
    """Every placement of two to `ranks` ranks, for each model."""
    for widths in placements(ranks):
        said = " ; ".join(" & ".join("+".join(map(str, row)) for row in copy) for copy in widths)
        yield f"dense {said}", plan_of(DENSE, widths)
        yield f"moe {said}", plan_of(MOE, widths)
        if any(max(row) > 1 for copy in widths for row in copy):
            yield f"moe, whole experts {said}", plan_of(MOE, widths, whole_experts=True)
        if (plan := spread(plan_of(MOE, widths))) is not None:
            yield f"moe, experts spread {said}", plan


def spread(plan: Plan) -> Plan | None:
    """The plan with each layer's experts spread over its first pipelines: all that may go in step; None if just one.

    Those take equal micro-batches; a pipeline behind them takes the rest of the batch, so that it stays the one of the
    other cases. Of another batch (of 10 sequences) fp32 says nothing: by step 8 rounding sends a token to another
    expert, one process is 4e-3 from its own fp64, and one pipeline without any spreading 8e-3 from one process.
    """
    first, *rest = plan.pipelines
    alike = [each for each in rest if [stage.stop for stage in each.stages] == [stage.stop for stage in first.stages]]
    count = 1 + len(list(itertools.takewhile(lambda each: each in alike, rest)))
    while count > 1 and sum(each.context or plan.seq for each in (first, *rest)[:count]) % plan.seq:
        count -= 1  # all parts of a copy, or none
    if count == 1 and not first.context:
        return None
    dealt = [*EXPERTS[count], *(0 for _ in rest[count - 1 :])]
    moved = [replace(each, experts=many, micro_batches=first.micro_batches if at < count else each.micro_batches)
             for at, (each, many) in enumerate(zip((first, *rest), dealt, strict=True))]  # fmt: skip
    if count < len(moved):
        left = plan.sequences // plan.micro_batch - sum(each.micro_batches for each in moved[:-1])
        moved[-1] = replace(moved[-1], micro_batches=left)
    return replace(plan, experts=moved[0].experts, replicas=tuple(moved[1:]))


def placements(ranks: int) -> Iterator[Widths]:
    """Every multiset of copies of two to `ranks` ranks in all; a copy is a multiset of rows of equally many stages."""
    rows = [row for size in range(1, ranks + 1) for row in _rows(size)]
    copies = [
        parts for count in range(1, ranks + 1) for parts in itertools.combinations_with_replacement(rows, count)
        if len({len(row) for row in parts}) == 1 and _ranks((parts,)) <= ranks
    ]  # fmt: skip
    for count in range(1, ranks + 1):
        for found in itertools.combinations_with_replacement(copies, count):
            if 2 <= _ranks(found) <= ranks:
                yield found


def _ranks(copies: Widths) -> int:
    return sum(sum(row) for parts in copies for row in parts)


def _rows(size: int) -> Iterator[Row]:
    """Every way to part `size` cards into a row of stages."""
    if size == 0:
        yield ()
    for first in range(1, size + 1):
        yield from ((first, *rest) for rest in _rows(size - first))


def plan_of(spec: ModelSpec, widths: Widths, *, whole_experts: bool = False) -> Plan:
    """The plan of a placement, every share of it uneven where it can be."""
    names = (f"card{i}" for i in itertools.count())
    group = spec.heads // spec.kv_heads
    copies = []
    for count, parts in zip(BATCHES[len(widths)], widths, strict=True):
        for row, context in zip(parts, CONTEXTS[len(parts)], strict=True):
            edges = (0, *ENDS[len(row)])
            stages = tuple(
                Stage(tuple(next(names) for _ in range(width)), *edges[i : i + 2],
                      tuple(g * group for g in GROUPS[width]), experts=EXPERTS[width] if whole_experts else ())
                for i, width in enumerate(row)
            )  # fmt: skip
            copies.append(Replica(stages, count, context=context))
    return joined(spec, copies)


def joined(spec: ModelSpec, copies: list[Replica], *, schedule: str = "1f1b") -> Plan:
    """A plan of these copies on cards that are never paced."""
    held = [name for copy in copies for stage in copy.stages for name in stage.cards]
    cards = tuple(Card(name, "emulated", "test", {"fp32": 1e9}, 2**30, 1e9, cores=0.9) for name in held)
    first, *rest = copies
    return Plan(spec, Fleet("together", cards), first.stages, schedule, first.micro_batches, 2, 5, orders=first.orders,
                replicas=tuple(rest), context=first.context)  # fmt: skip


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
        rank.begin(job, stage)
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
    found: dict[str, torch.Tensor] = {}
    ranks = started(job)
    for stage in ranks:
        _watch(stage.optimizer, found)
    run(job, ranks, 0, 1)
    expected: dict[str, torch.Tensor] = {}
    alone(job, 1, lambda optimizer: expected.update({n: optimizer.grad_of(n).clone() for n in optimizer.slots}))
    return max(relative(whole_of(found, name), grad) for name, grad in expected.items())


def curve_error(job: TrainJob) -> float:
    """Worst relative error of the losses of all steps."""
    told, (losses, _) = run(job, started(job), 0, job.steps), alone(job, job.steps)
    return max(abs(loss / expected - 1) for (loss, _), expected in zip(told, losses, strict=True))


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
        flat = optimizer.summed if isinstance(optimizer, SharedAdamW) else optimizer.total
        found.update({name: slot.of(flat).clone() for name, slot in optimizer.slots.items()})
        update(rate, scale)

    optimizer.update = seen  # type: ignore[method-assign]


def _rate(job: TrainJob, step: int) -> float:
    return learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)


def _nothing() -> None:
    """No snapshot is taken here."""
