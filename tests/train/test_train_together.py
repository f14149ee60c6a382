"""Uneven tensor, pipeline and data parallelism together compute what one process computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from provoke import provoke

from danlu.cli.bench import load
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import ModelSpec, Plan, Replica, Stage
from danlu.plan import text
from danlu.plan.ranks.cells import cells
from danlu.store import checkpoint
from danlu.train import start
from danlu.train.job import TrainJob
from danlu.train.optim import BETAS, EPS, learning_rate

torch.set_num_threads(1)

bench = load("training/together")
alone, gradient_error, job_of, run, started = (
    bench.alone, bench.gradient_error, bench.job_of, bench.run, bench.started,
)  # fmt: skip
DENSE = ModelSpec("llama", 2, 24, 4, 2, 6, 20, 37, 64, qkv_bias=True, qk_norm=True)
MOE = replace(DENSE, family="qwen2_moe", experts=5, experts_used=2, shared_ffn=14, recipe=("attn", "moe"))
TIED = replace(DENSE, tied=True)
YUAN = replace(DENSE, family="yuan", kv_heads=4, qk_norm=False, recipe=("lfa", "mlp"))
ONE = (6, (), ())


def plan_of(spec: ModelSpec, pipes) -> Plan:
    """A plan of copies ((last unit, shares of heads, shares of experts) per stage, micro-batches)."""
    names, copies = (f"card{i}" for i in range(99)), []
    for pipe, count in pipes:
        starts = [0, *(stop for stop, _, _ in pipe)]
        copies.append(Replica(tuple(
            Stage(tuple(next(names) for _ in shares or (1,)), start, stop, shares, experts=experts)
            for start, (stop, shares, experts) in zip(starts, pipe, strict=False)
        ), count))  # fmt: skip
    return load("training/placements").joined(spec, copies)


CASES = {
    "tp": (DENSE, [(((6, (2, 2), ()),), 2)]),
    "tp x pp, unlike": (DENSE, [(((3, (), ()), (6, (2, 2), ())), 3)]),
    "pp x tp, tied": (TIED, [(((2, (2, 2), ()), (6, (), ())), 3)]),
    "dp, uneven": (DENSE, [((ONE,), 1), ((ONE,), 3)]),
    "dp of unlike pipelines, tied": (TIED, [((ONE,), 1), (((2, (), ()), (6, (), ())), 2)]),
    "dp of tp and pp": (DENSE, [(((6, (2, 2), ()),), 2), (((4, (), ()), (6, (), ())), 1)]),
    "moe, ffn cut": (MOE, [(((3, (2, 2), ()), (6, (2, 2), ())), 2)]),
    "moe, experts 1 + 4": (MOE, [(((6, (2, 2), (1, 4)),), 2)]),
    "moe, experts against ffn": (MOE, [(((6, (2, 2), (4, 1)),), 1), (((6, (2, 2), ()),), 2)]),
    "yuan 1 + 3": (YUAN, [(((6, (1, 3), ()),), 2), ((ONE,), 1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case):
    assert gradient_error(job_of(plan_of(*CASES[case]))) < 1e-5


@pytest.mark.parametrize("case", ["pp x tp, tied", "moe, experts against ffn"])
def test_losses_and_weights_of_many_steps_are_those_of_one_process(case):
    job = job_of(plan_of(*CASES[case]))
    ranks = started(job)
    told = run(job, ranks, 0, 12)
    losses, one = alone(job, 12)
    np.testing.assert_allclose([loss for loss, _ in told], losses, rtol=1e-5)
    for stage in ranks:
        for cell in stage.optimizer._cells:
            mine = [stage.optimizer._of(stage.optimizer.used, cell, h) for h in cell.holders if h.rank == stage.index]
            owner = ranks[cell.owner].optimizer
            assert all(torch.equal(each, owner.slots[cell.key].of(owner.flat)) for each in mine), cell.key
    whole = {key: slot.of(stage.optimizer.flat) for stage in ranks for key, slot in stage.optimizer.slots.items()}
    exact = in_fp64(job, 12)
    for name, slot in one.slots.items():
        split, own = (bench.relative(each.double(), exact[name])
                      for each in (bench.whole_of(whole, name), slot.of(one.flat)))  # fmt: skip
        one_number = job.lr / float(exact[name].norm()) if ".experts." in name else 0.0
        assert split < max(1e-5, 10 * own, one_number), name


def in_fp64(job: TrainJob, steps: int) -> dict[str, torch.Tensor]:
    """Weights of one process that computes in fp64, by AdamW as its paper has it (arXiv 1711.05101, algorithm 2).

    fp32 cannot be held to fp32 here. Expert 2 of layer 1 meets its first tokens in step 2; one number of its `up` has
    the gradient 1.5e-8 in one process and -5e-10 split, among others of 5e-3, and Adam makes a step out of the sign of
    that rounding. One process is 1.4e-4 from these weights itself, the split run 4.2e-4: by that one number.
    """
    decoder, state = Decoder(job.plan.model, dtype=torch.float64), Causal(job.batch, job.plan.seq)
    init(decoder, job.seed)
    named = dict(decoder.named_parameters())
    m, v = ({name: torch.zeros_like(weight) for name, weight in named.items()} for _ in range(2))
    for step in range(1, steps + 1):
        rows = torch.from_numpy(bench.batch_at(job, step - 1))
        logits = decoder(rows[:, :-1].reshape(-1), state, state.meta())
        grads = torch.autograd.grad(F.cross_entropy(logits, rows[:, 1:].reshape(-1)), list(named.values()),
                                    allow_unused=True, materialize_grads=True)  # fmt: skip
        scale = min(1.0, job.clip / float(torch.stack([grad.norm() for grad in grads]).norm()))
        rate = learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)
        for (name, weight), grad in zip(named.items(), grads, strict=True):
            m[name].lerp_(scale * grad, 1 - BETAS[0])
            v[name].lerp_((scale * grad) ** 2, 1 - BETAS[1])
            move = m[name] / (1 - BETAS[0] ** step) / ((v[name] / (1 - BETAS[1] ** step)).sqrt() + EPS)
            weight.data -= rate * (move + (job.weight_decay * weight.data if weight.ndim > 1 else 0))
    return {name: weight.detach() for name, weight in named.items()}


def test_moments_are_kept_once_and_evenly():
    plan = plan_of(DENSE, [((ONE,), 1), ((ONE,), 1), ((ONE,), 2)])
    owned = [stage.optimizer.flat.numel() for stage in started(job_of(plan))]
    assert DENSE.params <= sum(owned) < 1.1 * DENSE.params and max(owned) < 1.3 * min(owned)


def test_a_snapshot_of_one_plan_goes_on_under_another(tmp_path):
    """Parts are written by their place in the parameter, so that any other plan finds them."""
    first = job_of(plan_of(*CASES["dp of tp and pp"]), tmp_path)
    ranks = started(first)
    begun = run(first, ranks, 0, 2)
    shards = [checkpoint.save_shard(first.checkpoints, 2, s.index, s.optimizer.copy(2).tensors()) for s in ranks]
    checkpoint.commit(first.checkpoints, 2, shards)
    rest = run(first, ranks, 2, 4)
    for other in ([((ONE,), 3)], [(((5, (2, 2), ()), (6, (), ())), 2), ((ONE,), 1)]):
        job = job_of(plan_of(DENSE, other), tmp_path)
        again = started(job)
        for stage in again:
            start.restore(job, stage, 2)
        np.testing.assert_allclose(run(job, again, 2, 4), rest, rtol=1e-5)
    assert begun[0] != rest[0]


def test_a_copy_in_memory_is_gone_back_to_bit_for_bit():
    job = job_of(plan_of(*CASES["moe, experts against ffn"]))
    ranks = started(job)
    run(job, ranks, 0, 1)
    copies = [stage.optimizer.copy(1) for stage in ranks]
    once = run(job, ranks, 1, 3)
    for stage, copy in zip(ranks, copies, strict=True):
        stage.optimizer.restore(copy)
    assert run(job, ranks, 1, 3) == once


def test_a_plan_with_copies_and_shares_survives_its_text():
    plan = plan_of(*CASES["moe, experts against ffn"])
    assert text.loads(text.dumps(plan)) == plan
    old = text.dumps(plan_of(DENSE, [((ONE,), 2)])).replace('"plan": 3', '"plan": 1')
    assert text.loads(old).stages[0].stop == 6


@pytest.mark.parametrize(("spec", "pipe"), [
    (DENSE, (6, (3, 1), ())), (DENSE, (6, (2, 4), ())), (MOE, (6, (2, 2), (5, 0))), (MOE, (6, (2, 2), (2, 2))),
])  # fmt: skip
def test_shares_that_do_not_fit_are_refused_before_any_weight_is_made(spec, pipe):
    with provoke("DL-CFG-020") as caught:
        cells(plan_of(spec, [((pipe,), 1)]))
    assert "stage 0 of copy 0, cards card0, card1" in caught.error.where
