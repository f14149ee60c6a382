"""Experts spread over pipelines compute what one process computes with all of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke
from test_context import cut
from test_sharing import linked
from test_train_together import DENSE, MOE, ONE, bench
from train_jobs import ARGV, a_job, same, weights
from train_world import fleet

from danlu.cli import config, wiring
from danlu.cli.plan import drawn
from danlu.cli.train_away import without
from danlu.cli.train_told import placed
from danlu.errors import CardAway
from danlu.fault.drill import Drill
from danlu.launch.nursery import Nursery
from danlu.nouns import Card, Fleet, ModelSpec, Plan, Rate
from danlu.plan import splits, text
from danlu.plan.candidates import Ask
from danlu.plan.forecast import forecast
from danlu.plan.ranks import step_search
from danlu.plan.ranks.cells import cells
from danlu.plan.ranks.parts import in_step
from danlu.plan.ranks.seats import seats
from danlu.plan.ranks.spread import lanes
from danlu.plan.ranks.spread_cost import Load, dealt, inside
from danlu.plan.ranks.step_search import Ways
from danlu.plan.ranks.step_split import dealt as dealt_by
from danlu.store import checkpoint
from danlu.train import owner, rank, start

torch.set_num_threads(1)
TWO = (6, (2, 2), ())
DEALT = (6, (2, 2), (1, 2))
PIPES = ((3, (), ()), (6, (), ()))


def spread(spec: ModelSpec, pipes) -> Plan:
    """A plan of pipelines (stages, micro-batches, tokens of each sequence, experts of each layer)."""
    plan = cut(spec, [each[:3] for each in pipes])
    rest = (replace(each, experts=pipe[3]) for each, pipe in zip(plan.replicas, pipes[1:], strict=True))
    return replace(plan, experts=pipes[0][3], replicas=tuple(rest))


CASES = {
    "copies, 1 + 4": [((ONE,), 2, 0, 1), ((ONE,), 2, 0, 4)],
    "2 + 1 + 2, x pp": [(PIPES, 3, 0, 2), (PIPES, 3, 0, 3)],
    "x tp of one": [((TWO,), 2, 0, 3), ((ONE,), 2, 0, 2)],
    "x tp of whole experts": [((DEALT,), 2, 0, 3), ((TWO,), 2, 0, 2)],
    "x dp, uneven": [((ONE,), 2, 0, 3), ((ONE,), 2, 0, 2), ((ONE,), 3, 0, 0)],
    "x cp": [((ONE,), 2, 3, 4), ((ONE,), 2, 2, 1)],
    "over parts and a copy": [((ONE,), 2, 3, 2), ((ONE,), 2, 2, 1), ((ONE,), 2, 0, 2)],
    "over two copies in parts": [((ONE,), 2, 3, 1), ((ONE,), 2, 2, 1), ((ONE,), 2, 4, 1), ((ONE,), 2, 1, 2)],
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case):
    assert bench.gradient_error(bench.job_of(spread(MOE, CASES[case]))) < 1e-5


def test_losses_of_many_steps_are_those_of_one_process_and_the_same_every_time():
    job = bench.job_of(spread(MOE, CASES["over parts and a copy"]))
    (told, again), (losses, _) = (bench.run(job, bench.started(job), 0, 8) for _ in range(2)), bench.alone(job, 8)
    assert told == again
    np.testing.assert_allclose([loss for loss, _ in told], losses, rtol=1e-5)


def test_a_forward_that_runs_again_sends_its_tokens_again():
    plan = spread(MOE, CASES["copies, 1 + 4"])

    def again(stages):
        return tuple(replace(stage, recompute="full") for stage in stages)

    plan = replace(plan, stages=again(plan.stages),
                   replicas=tuple(replace(each, stages=again(each.stages)) for each in plan.replicas))  # fmt: skip
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_every_expert_is_held_once_in_a_group_and_reached_by_all(case):
    plan = spread(MOE, CASES[case])
    held = {seat.rank: rank.build(bench.job_of(plan), seat.rank).decoder.share.experts for seat in seats(plan)}
    for seat in seats(plan):
        near = [each.rank for each in seats(plan) if (each.replica, each.stage) == (seat.replica, seat.stage)]
        sent = [(lane.receiver, lane.start, lane.stop) for at in near for lane in lanes(plan, seats(plan)[at])
                if lane.sender in near and lane.sender == at]  # fmt: skip
        assert all(held[to] == (start, stop) for to, start, stop in sent)
        reached = {expert for at in near for expert in range(*held[at])}
        reached |= {expert for _, start, stop in sent for expert in range(start, stop)}
        assert reached == set(range(MOE.experts)) and len({to for to, *_ in sent}) == len(sent)
    assert sum(dealt(plan, seat) for seat in seats(plan)) >= 1


@pytest.mark.parametrize(("spec", "pipes"), [
    (MOE, [((ONE,), 2, 0, 3), ((ONE,), 2, 0, 3)]), (MOE, [((ONE,), 2, 0, 2)]), (MOE, [((ONE,), 2, 0, -1)]),
    (MOE, [((ONE,), 2, 0, 3), ((ONE,), 3, 0, 2)]), (MOE, [((ONE,), 2, 0, 3), (PIPES, 2, 0, 2)]),
    (MOE, [((DEALT,), 2, 0, 2), ((ONE,), 2, 0, 3)]), (DENSE, [((ONE,), 2, 0, 1), ((ONE,), 2, 0, 1)]),
])  # fmt: skip
def test_experts_that_do_not_come_to_all_or_not_in_step_are_refused(spec, pipes):
    with provoke("DL-CFG-020"):
        cells(spread(spec, pipes))


def test_a_plan_of_spread_experts_survives_its_text_and_owns_its_experts_once():
    plan = spread(MOE, CASES["over parts and a copy"])
    assert text.loads(text.dumps(plan)) == plan and in_step(plan) == (0, 0, 0)
    alone = replace(plan, experts=0, replicas=tuple(replace(each, experts=0) for each in plan.replicas))
    assert in_step(alone) == (0, 0, 1)
    held, every = ([stage.decoder for stage in bench.started(bench.job_of(each))] for each in (plan, alone))
    experts = [sum(p.numel() for n, p in d.named_parameters() if ".experts." in n) for d in held]
    whole = sum(p.numel() for n, p in every[0].named_parameters() if ".experts." in n)
    assert sum(experts) == whole and experts == [whole * 2 // 5, whole // 5, whole * 2 // 5]
    told, usual = forecast(plan).forecast, forecast(alone).forecast
    assert all(a < b for a, b in zip(told.stage_bytes, usual.stage_bytes, strict=True))


def cards(*speeds):
    """Cards of those speeds, not paced."""
    return Fleet("f", tuple(Card(f"c{i}", "cpu", "", {"fp32": 1e9 * s}, 2**30, 1e9 * s, cores=s)
                            for i, s in enumerate(speeds)))  # fmt: skip


@pytest.mark.parametrize("parts", [True, False])
def test_experts_are_dealt_as_cards_are_fast(parts):
    ask = Ask(MOE, 2, 4, 24, "fp32")
    plan = step_search.best(ask, cards(0.9, 0.3), Ways(2, parts=parts, spread=True))
    held = {each.stages[0].cards[0]: (each.context, each.experts) for each in plan.pipelines}
    assert held["c0"][1] > held["c1"][1] and sum(experts for _, experts in held.values()) == 5
    assert plan.sequences == 8 and [each.context > 0 for each in plan.pipelines] == [parts, parts]
    assert bench.gradient_error(bench.job_of(replace(plan, seq=24))) < 1e-5


@given(st.integers(1, 60), st.lists(st.floats(0.1, 9), min_size=1, max_size=6))
def test_things_are_dealt_in_proportion(count, speed):
    if count < len(speed):
        return
    found = dealt_by(count, speed)
    assert sum(found) == count and min(found) >= 1
    assert all(many <= 1 or many <= count * each / sum(speed) + 1 for many, each in zip(found, speed, strict=True))


@pytest.mark.parametrize(("count", "parts", "batches"), [(2, True, 4), (4, True, 4), (3, False, 4), (6, True, 4)])
def test_pipelines_that_cannot_go_in_step_are_refused(count, parts, batches):
    fleet = cards(1, 1, 1) if count < 6 else cards(1, 1, 1, 1, 1, 1)
    with provoke("DL-CFG-021"):
        step_search.best(Ask(MOE, 2, batches, 24, "fp32"), fleet, Ways(count, parts=parts, spread=True))


@pytest.mark.parametrize("slow", ["around", "inside"])
def test_the_last_around_experts_and_the_last_in_them_add_up(slow):
    """One card is slow at attention alone, or both are alike: then it is what is slowest in each that is waited for."""
    rates = {"around": ("attend", "attend_back"), "inside": ("gate", "gate_back")}[slow]
    plan = spread(MOE, CASES["copies, 1 + 4"])
    plain, first, both = (
        forecast(replace(plan, fleet=replace(plan.fleet, cards=tuple(
            replace(card, rates=tuple(Rate(op, "fp32", (1,) if op.startswith("attend") else (1, 1), 10.0)
                                      for op in rates)) if at in slowed else card
            for at, card in enumerate(plan.fleet.cards))))).forecast.step_s
        for slowed in ((), (1,), (0, 1))
    )  # fmt: skip
    assert plain < 0.01 * first
    if slow == "around":
        assert both == pytest.approx(first, rel=1e-3)  # each calls attention for its own sequences, side by side
    else:
        assert both == pytest.approx(first, rel=0.3)  # four experts of five are the second card's


def test_a_card_computes_only_its_experts_for_all_tokens():
    card = replace(cards(1).cards[0], rates=(Rate("matmul", "fp32", (1, 1, 1), 1e6),))
    one, two = (inside(MOE, card, 2, "fp32", Load(held, 24, 12)) for held in (1, 2))
    assert two.forward_s == pytest.approx(2 * one.forward_s, rel=0.1)
    whole = inside(MOE, card, 2, "fp32", Load(MOE.experts, 12, 12))
    assert whole.forward_s == pytest.approx(2 * 12 * MOE.experts_used * 6 * MOE.hidden * MOE.ffn / 1e6, rel=0.01)


def test_a_slow_link_is_waited_for_twice_a_layer_and_pass():
    plan = spread(MOE, CASES["copies, 1 + 4"])
    slow = forecast(linked(plan, 0.5)).forecast.step_s
    assert slow == pytest.approx(0.5 * (2 * 2 * 2 * 2 + 3), rel=0.1)  # batches, layers, passes, there and back; the end


def test_a_snapshot_goes_on_under_a_plan_that_spreads_otherwise(tmp_path):
    first = bench.job_of(spread(MOE, CASES["x cp"]), tmp_path)
    ranks = bench.started(first)
    bench.run(first, ranks, 0, 2)
    shards = [checkpoint.save_shard(first.checkpoints, 2, s.index, s.optimizer.copy(2).tensors()) for s in ranks]
    checkpoint.commit(first.checkpoints, 2, shards)
    rest = bench.run(first, ranks, 2, 4)
    for pipes in ([((ONE,), 1, 0, 2), ((ONE,), 1, 0, 3)], [((TWO,), 2, 0, 0)]):
        job = bench.job_of(spread(MOE, pipes), tmp_path)
        again = bench.started(job)
        for stage in again:
            start.restore(job, stage, 2)
        np.testing.assert_allclose(bench.run(job, again, 2, 4), rest, rtol=1e-5)


@pytest.mark.procs
def test_parts_and_spread_experts_survive_a_kill_to_the_last_bit(tmp_path):
    """Whole processes: one of two that compute parts of sequences and hold some experts each is killed."""
    nursery = Nursery(["danlu.train.rank"])
    plan = replace(spread(MOE, CASES["x cp"]), seq=5, fleet=fleet(0.4, 0.4))
    try:
        jobs = [a_job(tmp_path / name, plan, steps=4, save_every=2) for name in ("whole", "killed")]
        owner.run(jobs[0], ARGV, nursery.spawn, spares=0)
        broken = owner.run(jobs[1], ARGV, nursery.spawn, spares=1, drills=[Drill(1, 3, "kill")])
    finally:
        nursery.close()
    assert [fault.stage for fault in broken.faults] == [1]
    assert same(weights(jobs[0]), weights(jobs[1]))


@pytest.mark.parametrize(("words", "code"), [
    ("--plan.experts spread", "DL-CFG-002"), ("--plan.context 2 --plan.tensor 2", "DL-CFG-002"),
    ("--plan.context 2 --plan.split even", "DL-CFG-002"), ("--plan.context 3", "DL-CFG-021"),
    ("--plan.context 2 --model.family llama --plan.experts spread", "DL-CFG-002"),
    ("--plan.context 2 --plan.experts spread", ""), ("--plan.copies 2 --plan.experts spread", ""),
])  # fmt: skip
def test_a_run_says_how_its_cards_go_in_step(words, code):
    run = config.load(None, ("--model.family qwen2_moe --model.layers 2 --data.seq 24 " + words).split(), {})
    with provoke(code) if code else nullcontext():
        plan = wiring.plan_of(run, wiring.spec_of(run), cards(0.9, 0.3))
        assert not code and sum(each.experts for each in plan.pipelines) == 8
        assert (" of tokens 0.." in placed(plan)) == ("context" in words) and ", experts 0.." in placed(plan)
        assert text.loads(text.dumps(plan)) == plan and plan.sequences == 32


def test_a_run_whose_card_stays_away_stays_in_step_where_it_can(capsys):
    """Of four cards two go: still two parts. One more goes, and the last one takes whole sequences, and says so."""
    run = config.load(None, "--model.layers 2 --data.seq 24 --plan.context 2".split(), {})
    plan = wiring.plan_of(run, wiring.spec_of(run), cards(0.9, 0.9, 0.3, 0.3))
    gone = CardAway("c0, c2 stay away", why="a test", fix="wait", cards=("c0", "c2"))
    two = without(run, plan, gone)
    assert [bool(each.context) for each in two.pipelines] == [True, True] and two.sequences == plan.sequences
    one = without(run, two, CardAway("c1 stays away", why="a test", fix="wait", cards=("c1",)))
    assert len(one.pipelines) == 1 and not one.context and one.sequences == plan.sequences
    assert "whole sequences" in capsys.readouterr().err


def test_a_picture_has_a_row_for_each_stage_of_what_goes_in_step():
    plan = forecast(spread(MOE, CASES["over parts and a copy"]))
    found = drawn(plan, splits.even(MOE, plan.fleet, micro_batch=2, micro_batches=4, seq=5))
    assert "card0 &amp; card1 &amp; card2" in found
