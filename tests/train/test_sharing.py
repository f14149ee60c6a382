"""What cards pay for sharing a stage or a model: held to what the runtime really holds, sends and sums."""

from __future__ import annotations

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from test_train_together import CASES, DENSE, ONE, bench, plan_of

from danlu.comm.wire import Wire
from danlu.fleet.pace import Pacer
from danlu.nouns import Fleet, Link
from danlu.plan.forecast import forecast, timeline
from danlu.plan.ranks.seats import instructions_of, seats
from danlu.plan.ranks.sharing import exchange, sums
from danlu.train.group import Group
from danlu.train.program import program

torch.set_num_threads(1)


def linked(plan, latency_s, bandwidth=1e12):
    names = [card.name for card in plan.fleet.cards]
    links = [Link(a, b, latency_s, bandwidth) for i, a in enumerate(names) for b in names[i + 1 :]]
    return replace(plan, fleet=Fleet("linked", plan.fleet.cards, tuple(links)))


@pytest.mark.parametrize("case", CASES)
def test_ranks_hold_and_send_what_is_forecast(case):
    plan = plan_of(*CASES[case])
    found, ranks = exchange(plan), bench.started(bench.job_of(plan))
    for stage in ranks:
        me, optimizer = stage.index, stage.optimizer
        assert {to: size for (rank, to), size in found.data.items() if rank == me} == {
            to: values.nbytes for to, values in optimizer.parts().items()
        }
        assert {to: size for (rank, to), size in found.weights.items() if rank == me} == {
            to: values.nbytes for to, values in optimizer.news().items()
        }
        assert found.taken[me] == sum(optimizer.expected_news().values())
        held = optimizer.state_bytes
        pads = 8 * 16 * len(list(stage.decoder.parameters()))
        assert 0 <= held["weights"] + held["gradients"] - 8 * found.held[me] <= pads
        assert 0 <= held["optimizer"] - 16 * found.owned[me] <= 16 * 16 * max(1, len(optimizer.slots))


@pytest.mark.parametrize("case", [case for case in CASES if "tp" in case or "moe" in case or "yuan" in case])
def test_sums_over_cards_are_those_that_run(case, monkeypatch):
    plan, seen = plan_of(*CASES[case]), []
    job = bench.job_of(plan)
    ranks, add = bench.started(job), Group.__call__

    def noted(group, x):
        seen.append((group._wire.rank, x.numel()))
        return add(group, x)

    monkeypatch.setattr(Group, "__call__", noted)
    bench.run(job, ranks, 0, 1)
    for seat in seats(plan):
        pipeline = plan.pipelines[seat.replica]
        stage = pipeline.stages[seat.stage]
        if len(stage.cards) == 1:
            continue
        ways = [sums(plan.model, unit, plan.micro_batch * plan.seq, len(stage.cards))
                for unit in plan.model.units[stage.start : stage.stop]]  # fmt: skip
        expected = Counter(count for way in ways for back in way for count in back)
        real = Counter(count for rank, count in seen if rank == seat.rank)
        assert real == Counter({count: times * pipeline.micro_batches for count, times in expected.items()})


def test_copies_that_send_nothing_slow_take_as_long_as_the_slowest():
    plan = plan_of(DENSE, [((ONE,), 1), ((ONE,), 3)])
    costs = [sum(end - start for _, _, start, end in spans) for spans in timeline(plan).spans]
    assert timeline(plan).step_s == pytest.approx(max(costs), rel=0.02)
    two, three = (timeline(plan_of(DENSE, [((ONE,), 1), ((ONE,), n)])).step_s for n in (2, 3))
    assert two < three


def test_a_forward_that_runs_again_is_paid_twice_and_kept_once():
    plan = plan_of(DENSE, [((ONE,), 4), (((3, (2, 2), ()), (6, (), ())), 4)])
    again = replace(plan, replicas=tuple(
        replace(each, stages=tuple(replace(stage, recompute="full") for stage in each.stages))
        for each in plan.replicas))  # fmt: skip
    usual, twice = forecast(plan).forecast, forecast(again).forecast
    assert twice.stage_busy_s[0] == pytest.approx(usual.stage_busy_s[0])
    for rank in (1, 2, 3):
        assert 1.1 * usual.stage_busy_s[rank] < twice.stage_busy_s[rank] < 1.6 * usual.stage_busy_s[rank]
    assert twice.stage_bytes[1] < usual.stage_bytes[1]


def test_a_step_waits_for_gradients_and_weights_on_a_slow_link():
    plan = plan_of(DENSE, [((ONE,), 2), ((ONE,), 2)])
    found, fast = exchange(plan), timeline(plan).step_s
    for bandwidth in (1e5, 1e4):
        slow = timeline(linked(plan, 0.0, bandwidth)).step_s
        moved = max(found.data.values()) + max(found.weights.values())
        assert slow - fast == pytest.approx(moved / bandwidth, rel=0.05)


def test_cards_of_a_stage_are_paced_at_every_sum():
    """A link of 4 ms makes nearly all of the step; its sums come one after the other."""
    plan = linked(plan_of(*CASES["tp"]), 4e-3)
    plan = forecast(replace(plan, fleet=replace(plan.fleet, cards=tuple(
        replace(card, flops={"fp32": 1e11}, mem_bw=1e11) for card in plan.fleet.cards))))  # fmt: skip
    job = bench.job_of(plan)
    ranks, lines = bench.started(job), socket.socketpair()
    link = plan.fleet.links[0]
    wires = [Wire(me, 1, {1 - me: lines[me]}, links={1 - me: link}, limit_s=60) for me in (0, 1)]

    def steps(me):
        stage, work = ranks[me], program(instructions_of(plan, ranks[me].seat))
        stage.pacer = Pacer(0.9)
        stage.reset()
        return [stage.run(work, wires[me], step, bench.batch_at(job, step - 1), 1e-3, 1.0, lambda: None).end
                for step in range(1, 6)]  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        ends = [each.result(60) for each in [pool.submit(steps, me) for me in (0, 1)]]
    for wire in wires:
        wire.close()
    took = sorted(b - a for a, b in zip(ends[0], ends[0][1:], strict=False))
    assert plan.forecast.step_s > 0.1
    assert took[0] > plan.forecast.step_s * 0.99
    assert took[0] < plan.forecast.step_s * 1.5
