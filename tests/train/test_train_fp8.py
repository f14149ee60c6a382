"""Training with products in 8-bit floats, emulated here: near fp32, alike however it is split, never by accident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from provoke import provoke
from test_train_together import CASES, DENSE, ONE, bench, plan_of
from train_jobs import ARGV, SLOW, a_job, same, weights
from train_world import SPEC, fleet, plan

from danlu.fault.drill import Drill
from danlu.fleet.driver import Float8, vendor
from danlu.launch.nursery import Nursery
from danlu.model import fp8
from danlu.model.net import Linear
from danlu.model.products import PLAIN
from danlu.plan.cost import unit_costs
from danlu.plan.forecast import peak_bytes
from danlu.train import owner, precision, rank
from danlu.train.job import check_dtype

EMULATED = "fp8-emulated"
PIPE = (DENSE, [(((3, (), ()), (6, (), ())), 3)])
GRADIENT, LOSS = 0.5, 0.06  # of the fp32 run's, the worst parameter of a tiny net: E4M3 rounds to 6 %, E5M2 to 12 %


@pytest.mark.parametrize(
    "case", ["tp x pp, unlike", "pp x tp, tied", "moe, experts against ffn", "yuan 1 + 3", "pipeline"]
)
def test_gradients_and_losses_are_near_those_of_fp32(case):
    job = bench.job_of(replace(plan_of(*CASES.get(case, PIPE)), dtype=EMULATED))
    assert 1e-3 < bench.gradient_error(job) < GRADIENT
    ranks = bench.started(job)
    told, (losses, _) = bench.run(job, ranks, 0, 16), bench.alone(job, 16)
    np.testing.assert_allclose([loss for loss, _ in told], losses, rtol=LOSS)


def test_fifty_steps_of_loss_stay_near_fp32_and_split_ranks_near_one():
    """A split run rounds what one process rounds: their curves are nearer to each other than to fp32."""
    jobs = [bench.job_of(replace(plan_of(DENSE, pipes), dtype=EMULATED)) for pipes in ([((ONE,), 3)], PIPE[1])]
    one, split = ([loss for loss, _ in bench.run(job, bench.started(job), 0, 50)] for job in jobs)
    exact, _ = bench.alone(jobs[0], 50)
    np.testing.assert_allclose(one, exact, rtol=0.1)
    np.testing.assert_allclose(split, one, rtol=0.01)
    assert one[-1] < 0.6 * one[0] and one != exact


def test_a_kill_leaves_no_trace_in_the_bits(tmp_path):
    """Scales are those of the tensors at hand: a snapshot has none, and a rank that begins again finds the same."""
    narrow = replace(plan(SPEC, (3,), cards=SLOW), dtype=EMULATED)
    whole, broken = (a_job(tmp_path / name, narrow, steps=8, save_every=3) for name in ("whole", "broken"))
    nursery = Nursery(["danlu.train.rank"])
    quiet = owner.run(whole, ARGV, nursery.spawn, spares=0)
    result = owner.run(broken, ARGV, nursery.spawn, drills=[Drill(1, 5)], spares=1)
    nursery.close()
    assert len(result.faults) == 1 and [s.loss for s in result.steps] == [s.loss for s in quiet.steps]
    assert same(weights(broken), weights(whole))
    for number, peak in enumerate(quiet.peak_bytes):
        assert peak <= peak_bytes(narrow, number) <= 1.6 * peak
    assert any("emulated fp8" in log.read_text() for log in Path(whole.out, "logs").iterdir())


@pytest.mark.parametrize("schedule", ["1f1b", "zb"])
def test_a_stage_that_recomputes_rounds_what_it_rounded_before(schedule):
    def weights_of(recompute):
        a_plan = plan(SPEC, (3, 5), schedule=schedule)
        told = tuple(replace(stage, recompute=recompute) for stage in a_plan.stages)
        job = bench.job_of(replace(a_plan, stages=told, dtype=EMULATED))
        ranks = bench.started(job)
        bench.run(job, ranks, 0, 2)
        return [stage.optimizer.flat for stage in ranks]

    kept, again = weights_of("none"), weights_of("full")
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(kept, again, strict=True))


def test_what_routes_tokens_is_not_in_8_bits():
    ranks = bench.started(bench.job_of(replace(plan_of(*CASES["moe, ffn cut"]), dtype=EMULATED)))
    narrow = {name for stage in ranks for name, each in stage.decoder.named_modules()
              if isinstance(each, Linear) and each.products is not PLAIN}  # fmt: skip
    assert {name.rsplit(".", 1)[-1] for name in narrow} == {"q", "k", "v", "o", "gate", "up", "down"}


def with_fp8(cards, names, flops):
    return replace(cards, cards=tuple(
        replace(card, flops={**card.flops, "bf16": 1e9, **({"fp8": flops} if card.name in names else {})})
        for card in cards.cards
    ))  # fmt: skip


def test_a_card_without_8_bits_is_named_before_anything_starts(tmp_path):
    cards = with_fp8(fleet(0.4, 0.4), {"card0"}, 2e9)
    with provoke("DL-ENV-080") as caught:
        owner.run(a_job(tmp_path, replace(plan(SPEC, (3,), cards=cards), dtype="fp8")), ("true",), None)
    assert caught.error.where == "card1" and "1 of 2" in caught.error.what and not list(tmp_path.iterdir())
    for dtype in ("fp8-mixed", EMULATED):
        check_dtype(dtype, cards)


def test_a_card_that_was_said_to_have_8_bits_is_asked_itself(tmp_path):
    """A fleet may be declared: the rank that cannot keep its word says so, with its host and card."""
    cards = with_fp8(fleet(0.4, 0.4), {"card0", "card1"}, 2e9)
    with provoke("DL-ENV-080") as caught:
        rank.build(a_job(tmp_path, replace(plan(SPEC, (3,), cards=cards), dtype="fp8")), 1)
    assert "rank 1 on host local, card card1" in caught.error.where and "CPU" in caught.error.why


def test_each_card_of_a_mixed_fleet_multiplies_as_it_can():
    """A vendor's answer decides, not a card's name."""

    class Ada:
        def fp8(self, card):
            return Float8()

    card = fleet(0.4).cards[0]
    found = precision.products("fp8-mixed", Ada(), card, "rank 0")
    assert isinstance(found, fp8.Float8) and found.multiply is fp8.scaled
    assert precision.products("fp8-mixed", vendor(card), card, "rank 0") is PLAIN
    assert precision.products("fp8-emulated", vendor(card), card, "rank 0").multiply is fp8.emulated
    assert precision.products("bf16", Ada(), card, "rank 0") is PLAIN


def test_a_plan_charges_8_bits_where_the_card_has_them():
    """On a mixed fleet's slow card bf16's cost stands; on the other the products are faster, the rest is not."""
    big = replace(SPEC, hidden=1024, heads=8, head_dim=128, kv_heads=8, ffn=4096)
    old, new = (replace(each, mem_bw=1e15) for each in with_fp8(fleet(0.4, 0.4), {"card1"}, 2e9).cards)
    for kind, faster in ((1, 1.9), (2, 1.99)):
        half, mixed, narrow = (unit_costs(big, card, 4, 64, dtype)[kind]
                               for card, dtype in ((old, "bf16"), (old, "fp8-mixed"), (new, "fp8")))  # fmt: skip
        assert half == replace(mixed, activation_bytes=half.activation_bytes)
        assert faster < half.forward_s / narrow.forward_s <= 2.0
    ends = [unit_costs(big, card, 4, 64, dtype)[-1] for card, dtype in ((old, "bf16"), (new, "fp8"))]
    assert ends[0] == ends[1]
