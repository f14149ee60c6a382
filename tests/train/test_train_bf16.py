"""Training in bf16: near the fp32 run, with fp32 where it must be; what the plan says of its memory is so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from provoke import provoke
from test_train_together import CASES, DENSE, ONE, bench, plan_of
from train_jobs import ARGV, SLOW, a_job, same, weights
from train_world import SPEC, plan

from danlu.fault.drill import Drill
from danlu.launch.nursery import Nursery
from danlu.plan.forecast import peak_bytes
from danlu.plan.ranks.cells import cells
from danlu.train import owner

pytestmark = pytest.mark.procs
PIPE = (DENSE, [(((3, (), ()), (6, (), ())), 3)])  # nothing is shared: the other optimizer
GRADIENT, LOSS = 0.05, 0.02  # of the fp32 run's; bf16 rounds to 0.2-0.4%, a gradient is some ten roundings deep, and
# from step 12 or so a rounding sends a token to another expert


@pytest.mark.parametrize("case", ["tp x pp, unlike", "pp x tp, tied", "moe, experts against ffn", "pipeline"])
def test_gradients_and_losses_are_near_those_of_fp32(case):
    job = bench.job_of(replace(plan_of(*CASES.get(case, PIPE)), dtype="bf16"))
    assert 1e-4 < bench.gradient_error(job) < GRADIENT
    ranks = bench.started(job)
    told, (losses, _) = bench.run(job, ranks, 0, 16), bench.alone(job, 16)
    np.testing.assert_allclose([loss for loss, _ in told], losses, rtol=LOSS)
    assert all(stage.optimizer.used.dtype == torch.bfloat16 for stage in ranks)


def test_weights_in_use_are_the_fp32_ones_rounded():
    job = bench.job_of(replace(plan_of(*CASES["dp, uneven"]), dtype="bf16"))
    ranks = bench.started(job)
    bench.run(job, ranks, 0, 3)
    for cell in cells(job.plan):
        owned = ranks[cell.owner].optimizer
        for hold in cell.holders:
            held = ranks[hold.rank].optimizer
            assert torch.equal(held._of(held.used, cell, hold), owned.slots[cell.key].of(owned.flat).bfloat16())


@pytest.mark.parametrize("pipes", [[((ONE,), 2)], [((ONE,), 1), ((ONE,), 1)]], ids=["own", "shared"])
def test_small_gradients_beside_a_large_one_count(pipes):
    """In bf16 one plus 2^-9 is one, however often it is added."""
    optimizer = bench.started(bench.job_of(replace(plan_of(DENSE, pipes), dtype="bf16")))[0].optimizer
    optimizer.grad.fill_(1.0)
    optimizer.collect()
    for _ in range(512):
        optimizer.grad.fill_(2**-9)
        optimizer.collect()
    assert torch.equal(optimizer.total, torch.full_like(optimizer.total, 2.0)) and not optimizer.grad.any()


def test_a_kill_in_bf16_leaves_no_trace_in_the_bits(tmp_path):
    half = replace(plan(SPEC, (3,), cards=SLOW), dtype="bf16")
    whole, broken = (a_job(tmp_path / name, half, steps=8, save_every=3) for name in ("whole", "broken"))
    nursery = Nursery(["danlu.train.rank"])
    quiet = owner.run(whole, ARGV, nursery.spawn, spares=0)
    result = owner.run(broken, ARGV, nursery.spawn, drills=[Drill(1, 5)], spares=1)
    nursery.close()
    assert len(result.faults) == 1 and [s.loss for s in result.steps] == [s.loss for s in quiet.steps]
    found = weights(broken)
    assert same(found, weights(whole)) and all(each.dtype == np.float32 for each in found.values())
    assert any(np.any(each.view(np.uint32) & 0xFFFF) for each in found.values())  # masters, not their roundings
    for rank, peak in enumerate(quiet.peak_bytes):
        assert peak <= peak_bytes(half, rank) <= 1.6 * peak


def test_an_element_type_without_kernels_is_refused(tmp_path):
    with provoke("DL-CFG-085") as caught:
        owner.run(a_job(tmp_path, replace(plan(SPEC, (3,)), dtype="nf4")), (sys.executable,), None)
    assert "nf4" in caught.error.what and "card0" in caught.error.where and not list(Path(tmp_path).iterdir())
