"""Orders made for unequal stages: whole, within their caps, and never worse than what they are tried against."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from test_schedule import plan_of
from test_splits import ASK, card, fleet_of

from danlu.nouns import Link, ModelSpec
from danlu.plan import schedule, splits
from danlu.plan.events import StageCost, compiled, simulate, steady
from danlu.plan.forecast import forecast
from danlu.plan.order import listed, rules

seconds = st.floats(0.01, 10)


@st.composite
def cases(draw):
    """Stage costs with a weights' half, links, and a number of micro-batches."""
    stages = draw(st.integers(2, 4))
    costs = []
    for _ in range(stages):
        forward, back, part = draw(seconds), draw(seconds), draw(st.floats(0.05, 0.9))
        costs.append(StageCost(forward, back, weight_s=part * back, split_s=draw(st.floats(0, 0.1)) * back))
    links = {(i, i + 1): Link("a", "b", draw(st.floats(0, 1)), 1e9) for i in range(stages - 1)}
    return costs, links, draw(st.integers(1, 12))


@given(cases(), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_rule_gives_whole_orders_that_run_and_hold_their_caps(case, room):
    costs, links, micro_batches = case
    plan = plan_of(len(costs), micro_batches, "zb")
    size = schedule.message_bytes(plan)
    for rule in rules(costs, links, size, micro_batches, [room] * len(costs)):
        end, letters = listed(costs, links, size, micro_batches, rule)
        lists = schedule.instructions(replace(plan, orders=letters))
        assert all(schedule.held_at_once(each) <= cap <= room for each, cap in zip(letters, rule.caps, strict=True))
        ran = simulate(lists, costs, links)
        assert max(spans[-3][3] for spans in ran.spans) == pytest.approx(end), "what it believed is what is simulated"
        for cost, spans in zip(costs, ran.spans, strict=True):
            done = micro_batches * (cost.forward_s + cost.backward_s)
            halves = sum(op == "backward_weight" for op, *_ in spans)
            assert sum(e - s for _, _, s, e in spans) == pytest.approx(done + halves * cost.split_s)


def test_splitting_the_backward_beats_1f1b_where_stages_are_unequal():
    costs = [StageCost(1.0, 2.0, weight_s=1.0), StageCost(1.1, 2.0, weight_s=1.0), StageCost(0.9, 2.2, weight_s=1.0)]
    links = {(0, 1): Link("a", "b", 0.3, 1e9), (1, 2): Link("b", "c", 0.3, 1e9)}
    best = min(listed(costs, links, 8, 24, rule) for rule in rules(costs, links, 8, 24, [99] * 3))
    plain = min(
        steady(compiled(schedule.instructions(plan_of(3, 24, name))), costs, links) for name in splits.SCHEDULES
    )
    assert 24 * 3.1 < best[0] < 0.97 * plain
    assert "I" in best[1][2] and "I" not in best[1][0], "nobody waits for the first stage's gradient"


def test_a_search_keeps_a_zero_bubble_plan_within_memory_and_its_forecast_is_its_simulation():
    spec = ModelSpec("llama", 8, 64, 4, 2, 16, 128, 300, 256)
    fleet = fleet_of([card("a", 4e9), card("b", 2e9), card("c", 2e9)], 2e-3)
    found = splits.search(spec, fleet, **{**ASK, "micro_batches": 8})
    assert found.schedule == "zb" and len(found.orders) == len(found.stages)
    assert forecast(replace(found, forecast=None)) == found
    room = found.forecast.stage_bytes[0] - 1
    tight = replace(fleet, cards=tuple(replace(each, mem_bytes=room) for each in fleet.cards))
    tighter = splits.search(spec, tight, **{**ASK, "micro_batches": 8})
    assert max(tighter.forecast.stage_bytes) <= room
    assert splits.slipped(tighter)[1] >= splits.slipped(found)[1]


@pytest.mark.parametrize(
    "orders", [(), ("FB",), ("FFBB", "FBF"), ("FFBB", "FBBF"), ("FFBB", "FFIBWW"), ("FFBB", "FIFI")]
)
def test_orders_that_are_not_whole_are_refused(orders):
    with provoke("DL-CFG-011"):
        schedule.instructions(replace(plan_of(2, 2, "zb"), orders=orders))
