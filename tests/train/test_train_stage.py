"""A pipeline of stages computes what one process computes, wherever it is cut."""

from __future__ import annotations

import dataclasses
import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from provoke import provoke
from train_world import SPEC, batches, fleet, plan, together

from danlu.comm.mesh import Aborted
from danlu.comm.wire import Wire
from danlu.errors import NotFinite
from danlu.fleet.pace import Pacer
from danlu.memory.arena import Arena
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import Link
from danlu.plan.schedule import instructions
from danlu.train import owner
from danlu.train.counted import counted
from danlu.train.job import TrainJob
from danlu.train.optim import AdamW
from danlu.train.program import program
from danlu.train.stage import Interpreter

torch.set_num_threads(1)
TIED = dataclasses.replace(SPEC, tied=True)


def wires(ranks: int, **options) -> list[Wire]:
    lines = [{} for _ in range(ranks)]
    for a in range(ranks):
        for b in range(a + 1, ranks):
            lines[a][b], lines[b][a] = socket.socketpair()
    return [Wire(rank, 1, lines[rank], limit_s=30, **options) for rank in range(ranks)]


def stages(a_plan, mem_bytes: int = 2**30) -> list[Interpreter]:
    found = []
    for index, stage in enumerate(a_plan.stages):
        decoder = Decoder(a_plan.model, stage.start, stage.stop)
        init(decoder, 7)
        optimizer = AdamW(decoder, weight_decay=0.1)
        found.append(Interpreter(a_plan, index, decoder, optimizer, Pacer(), Arena(f"card{index}", mem_bytes)))
        found[-1].warm()
    return found


def job(a_plan, **changes) -> TrainJob:
    from pathlib import Path

    values = {"steps": 10, "lr": 1e-2, "warmup": 2, "weight_decay": 0.1, "clip": 1.0, "seed": 3, "save_every": 4,
              "key": "00" * 16, "trace_step": 2}  # fmt: skip
    return TrainJob(plan=a_plan, out=Path("out"), tokens=Path("tokens"), **{**values, **changes})


def pipeline(a_plan, steps: int = 1, keep_grads: bool = True, clip: float = 1.0):
    """Run steps over threads and sockets: (gradients before the last update, losses, stages)."""
    ranks, lists = stages(a_plan), instructions(a_plan)
    lines, at = wires(len(ranks)), batches(job(a_plan))
    grads: dict[str, torch.Tensor] = {}

    def one(rank: int):
        stage, losses = ranks[rank], []
        stage.reset()
        if keep_grads:
            update = stage.optimizer.update

            def spy(rate, scale):
                grads.update({f"{rank}/{n}": stage.optimizer.grad_of(n).clone() for n in stage.optimizer.slots})
                update(rate, scale)

            stage.optimizer.update = spy
        for step in range(1, steps + 1):
            done = stage.run(program(lists[rank]), lines[rank], step, at(step - 1), 1e-2, clip, lambda: None)
            losses.append((done.loss, done.norm))
        return losses

    losses = together([lambda r=r: one(r) for r in range(len(ranks))])
    for line in lines:
        line.close()
    assert all(each == losses[0] for each in losses)
    return grads, losses[0], ranks


def alone(a_plan, step: int = 0):
    """Gradients of one process over the whole batch at once, by torch alone."""
    decoder = Decoder(a_plan.model)
    init(decoder, 7)
    rows = torch.from_numpy(batches(job(a_plan))(step))
    state = Causal(len(rows), a_plan.seq)
    logits = decoder(rows[:, :-1].reshape(-1), state, state.meta())
    loss = F.cross_entropy(logits, rows[:, 1:].reshape(-1))
    loss.backward()
    return {name: parameter.grad for name, parameter in decoder.named_parameters()}, loss.item()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("spec", [SPEC, TIED], ids=["free", "tied"])
@pytest.mark.parametrize("cuts", [(3, 5), (2, 7), (4,), (1, 6), ()], ids=str)
@pytest.mark.parametrize("schedule", ["1f1b", "1f1b:2", "zb"])
def test_gradients_of_the_pipeline_equal_one_process(spec, cuts, schedule):
    a_plan = plan(spec, cuts, schedule=schedule)
    grads, losses, _ = pipeline(a_plan)
    expected, loss = alone(a_plan)
    assert losses[0][0] == pytest.approx(loss, rel=1e-6)
    whole = {name.partition("/")[2]: grad for name, grad in grads.items()}
    if spec.tied and cuts:
        assert torch.equal(whole.pop("head.weight"), whole["embed.weight"])
    assert whole.keys() == expected.keys()
    for name, grad in expected.items():
        assert relative(whole[name], grad) < 1e-5, name
    norm = torch.stack([grad.norm() for grad in expected.values()]).norm()
    assert losses[0][1] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("schedule", ["1f1b:2", "zb"])
def test_a_stage_that_recomputes_has_the_same_bits_and_holds_less(schedule):
    def run(recompute):
        a_plan = plan(SPEC, (3, 5), schedule=schedule)
        told = (dataclasses.replace(stage, recompute=recompute) for stage in a_plan.stages)
        grads, losses, ranks = pipeline(dataclasses.replace(a_plan, stages=tuple(told)))
        return grads, losses, ranks[0].arena.peak

    kept, again = run("none"), run("full")
    assert kept[1] == again[1]
    assert all(torch.equal(again[0][name], grad) for name, grad in kept[0].items())
    assert again[2] < kept[2] or schedule == "zb", "the halves of all micro-batches wait for the end there"


def test_a_plan_the_trainer_would_not_run_as_it_says_is_refused(tmp_path):
    a_plan = plan(SPEC, (3,))
    changed = dataclasses.replace(a_plan.stages[1], recompute="selective")
    told = job(dataclasses.replace(a_plan, stages=(a_plan.stages[0], changed)))
    with provoke("DL-CFG-085") as caught:
        owner.run(dataclasses.replace(told, out=tmp_path), ("true",), lambda job, log: None)
    assert "stage 1" in str(caught.error)


def test_copies_of_a_tied_embedding_stay_equal():
    _, _, ranks = pipeline(plan(TIED, (3, 5)), steps=4)
    first, last = ranks[0].optimizer, ranks[-1].optimizer
    for mine, theirs in ((first.flat, last.flat), (first.m, last.m), (first.v, last.v)):
        assert torch.equal(first.slots["embed.weight"].of(mine), last.slots["head.weight"].of(theirs))


def test_two_runs_give_the_same_bits():
    a_plan = plan(SPEC, (2, 5))
    (_, first, ranks), (_, second, again) = (pipeline(a_plan, steps=5) for _ in range(2))
    assert first == second and first[-1] < first[0]
    assert all(torch.equal(a.optimizer.flat, b.optimizer.flat) for a, b in zip(ranks, again, strict=True))


def test_micro_batching_does_not_change_the_gradient():
    grads, _, _ = pipeline(plan(SPEC, (4,), micro_batches=8, micro_batch=1))
    expected, _ = alone(plan(SPEC, (4,), micro_batches=2, micro_batch=4))
    assert all(relative(grad, expected[name.partition("/")[2]]) < 1e-5 for name, grad in grads.items())


def test_the_update_is_that_of_torch_adamw_with_clipping():
    a_plan = plan(SPEC, (), micro_batches=1, micro_batch=8)
    _, _, (stage,) = pipeline(a_plan, steps=3, clip=0.1)
    decoder = Decoder(SPEC)
    init(decoder, 7)
    matrices = [p for p in decoder.parameters() if p.ndim >= 2]
    rest = [p for p in decoder.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                             lr=1e-2, betas=(0.9, 0.95))  # fmt: skip
    state = Causal(8, a_plan.seq)
    for step in range(3):
        rows = torch.from_numpy(batches(job(a_plan))(step))
        logits = decoder(rows[:, :-1].reshape(-1), state, state.meta())
        adam.zero_grad()
        F.cross_entropy(logits, rows[:, 1:].reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 0.1)
        adam.step()
    for name, parameter in decoder.named_parameters():
        assert relative(stage.optimizer.slots[name].of(stage.optimizer.flat), parameter) < 1e-5, name


def test_activations_are_counted_freed_and_bounded_by_the_schedule():
    a_plan = plan(SPEC, (3, 5))
    _, _, ranks = pipeline(a_plan, steps=2)
    for stage, depth in zip(ranks, (3, 2, 1), strict=True):
        held = stage.arena.held
        assert "activations" not in held
        each = (stage.arena.peak - sum(held.values())) / depth
        decoder = stage.decoder
        x = torch.zeros(16, 32).requires_grad_() if decoder.embed is None else torch.zeros(16, dtype=torch.int64)
        with counted(stage.optimizer) as saved:
            decoder(x, Causal(2, 8), Causal(2, 8).meta())
        loss = 0 if decoder.head is None else each - sum(saved.values())  # softmax of the logits, and targets
        assert each == sum(saved.values()) + loss and 0 <= loss <= 16 * (SPEC.vocab + 1) * 8


def test_a_card_too_small_says_so_before_anything_runs():
    with provoke("DL-MEM-001") as caught:
        stages(plan(SPEC, (3, 5)), mem_bytes=10_000)
    assert "card0" in str(caught.error)


def test_a_loss_that_is_no_number_stops_the_step_and_changes_no_weight():
    a_plan = plan(SPEC, ())
    (stage,), (line,) = stages(a_plan), wires(1)
    with torch.no_grad():
        stage.optimizer.slots["layers.1.mlp.up.weight"].of(stage.optimizer.flat)[0, 0] = torch.nan
    before = stage.optimizer.flat.clone()
    stage.reset()
    with provoke("DL-CFG-086") as caught:
        stage.run(program(instructions(a_plan)[0]), line, 5, batches(job(a_plan))(0), 1e-2, 1.0, lambda: None)
    assert "step 5" in str(caught.error)
    assert torch.equal(stage.optimizer.flat, before) or torch.allclose(stage.optimizer.flat, before, equal_nan=True)


@pytest.mark.parametrize(("weight", "value", "cause"), [
    ("layers.1.mlp.up.weight", np.nan, "a weight of layers.1.mlp is not finite"),
    ("layers.1.mlp.up.weight", 3e38, "the output of layers.1.mlp is not finite"),
    ("head.weight", 1e30, "the gradient's norm is not finite"),
])  # fmt: skip
@pytest.mark.parametrize("schedule", ["1f1b", "zb"])
def test_the_first_bad_unit_and_its_rank_are_named_by_that_rank_alone(weight, value, cause, schedule):
    a_plan = plan(SPEC, (3, 6), schedule=schedule)
    ranks, lines, lists = stages(a_plan), wires(3), instructions(a_plan)
    guilty = next(stage for stage in ranks if weight in stage.optimizer.slots)
    with torch.no_grad():
        guilty.optimizer.slots[weight].of(guilty.optimizer.flat).fill_(value)

    def one(rank: int):
        try:
            ranks[rank].reset()
            return ranks[rank].run(
                program(lists[rank]), lines[rank], 5, batches(job(a_plan))(0), 1e-2, 1.0, lambda: None
            )
        except (NotFinite, Aborted) as error:
            return error

    found = together([lambda r=r: one(r) for r in range(3)])
    for line in lines:
        line.close()
    (named,) = [error for error in found if isinstance(error, NotFinite)]
    assert cause in named.what and f"stage {found.index(named)}" == named.where, named
    stage = a_plan.stages[found.index(named)]
    assert "norm" in cause or any(f" {unit} " in named.what for unit in SPEC.units[stage.start : stage.stop])


def test_a_paced_pipeline_takes_what_its_virtual_clocks_say():
    a_plan = plan(SPEC, (3, 5), cards=fleet(0.9, 0.9, 0.9))
    ranks, lists, at = stages(a_plan), instructions(a_plan), batches(job(a_plan))
    link = Link("", "", 0.02, 1e9)
    lines = wires(3, links={0: link, 1: link, 2: link})
    for stage in ranks:
        stage.pacer = Pacer(0.9)

    def one(rank: int):
        ranks[rank].reset()
        begun = ranks[rank].pacer.clock
        done = ranks[rank].run(program(lists[rank]), lines[rank], 1, at(0), 1e-2, 1.0, lambda: None)
        return done.end - begun, done

    found = together([lambda r=r: one(r) for r in range(3)])
    for line in lines:
        line.close()
    # The first activation crosses two links and the last gradient two more; the norm crosses one.
    assert all(taken >= 5 * 0.02 for taken, _ in found)
    assert all(np.isfinite(done.busy_s) and done.busy_s > 0 for _, done in found)
