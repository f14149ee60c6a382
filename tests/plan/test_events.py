"""The simulator against arithmetic that can be done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedule import plan_of

from danlu.nouns import Link
from danlu.plan import schedule
from danlu.plan.events import StageCost, compiled, simulate, steady

seconds = st.floats(0.01, 10)


def run(stages, micro_batches, costs, links=None, name="1f1b", tied=False):
    return simulate(schedule.instructions(plan_of(stages, micro_batches, name, tied)), costs, links or {})


@given(st.integers(1, 6), st.integers(1, 9), seconds, seconds)
def test_equal_stages_take_the_textbook_time(stages, micro_batches, forward, backward):
    found = run(stages, micro_batches, [StageCost(forward, backward)] * stages)
    assert found.step_s == pytest.approx((micro_batches + stages - 1) * (forward + backward))
    assert found.busy_s == pytest.approx([micro_batches * (forward + backward)] * stages)


@given(st.data(), st.integers(1, 5), st.integers(1, 9), st.sampled_from(schedule_names := ("1f1b", "1f1b:2", "1f1b:3")))
def test_no_step_beats_its_stages(data, stages, micro_batches, name):
    costs = [StageCost(data.draw(seconds), data.draw(seconds), step_s=data.draw(seconds)) for _ in range(stages)]
    found = run(stages, micro_batches, costs, name=name)
    once = sum(c.forward_s + c.backward_s for c in costs)
    most = max(micro_batches * (c.forward_s + c.backward_s) + c.step_s for c in costs)
    assert found.step_s >= max(most, once) * (1 - 1e-9)
    for spans in found.spans:
        assert all(a[3] <= b[2] + 1e-9 for a, b in zip(spans, spans[1:], strict=False)), "one thing at a time"


@given(st.data(), st.integers(2, 4), st.integers(1, 6), st.booleans())
@settings(max_examples=40)
def test_many_splits_at_once_are_each_of_them(data, stages, micro_batches, tied):
    def draw():
        return [[data.draw(seconds) for _ in range(3)] for _ in range(5)]

    numbers = [draw() for _ in range(stages)]
    link = {(i, i + 1): Link("a", "b", 0.01, 1e4) for i in range(stages - 1)}
    lists = schedule.instructions(plan_of(stages, micro_batches, "1f1b:2", tied))

    def costs(split):
        return [StageCost(*(np.array(c) if split is None else c[split] for c in (n[0], n[1], n[2], n[3], n[4])))
                for n in numbers]  # fmt: skip

    together = steady(compiled(lists), costs(None), link)
    assert list(together) == pytest.approx([simulate(lists, costs(i), link).step_s for i in range(3)])


def test_messages_take_turns_on_a_link():
    plan = plan_of(2, 3, "1f1b")
    size = schedule.message_bytes(plan)
    link = {(0, 1): Link("a", "b", 0.5, size / 2.5)}  # 3 s a message, of which 2.5 are the link's
    found = run(2, 3, [StageCost(1.0, 1.0), StageCost(1.0, 1.0)], link)
    starts = [start for op, _, start, _ in found.spans[1] if op == "forward"]
    # Forwards 0 and 1 of stage 0 end at 1 and 2; the link has them from 1 to 3.5 and to 6, and they come 0.5 later.
    assert starts[:2] == [4.0, 6.5]


def test_a_tied_embedding_waits_for_both_ends():
    plan = plan_of(2, 1, "1f1b", tied=True)
    size = plan.model.vocab * plan.model.hidden * 4
    link = {(0, 1): Link("a", "b", 0.0, 1e30)}
    slow = {(0, 1): Link("a", "b", 0.0, size / 7.0)}
    base = run(2, 1, [StageCost(1.0, 1.0, tied_s=0.5)] * 2, link, tied=True)
    late = run(2, 1, [StageCost(1.0, 1.0, tied_s=0.5)] * 2, slow, tied=True)
    assert base.step_s == pytest.approx(4.5)
    assert late.step_s - base.step_s == pytest.approx(
        7.0 + 2 * slow[0, 1].seconds(schedule.message_bytes(plan)), rel=1e-3
    )


def test_deeper_warm_up_hides_a_slow_link():
    plan = plan_of(3, 12, "1f1b")
    link = {(i, i + 1): Link("a", "b", 0.4, 1e12) for i in range(2)}
    costs = [StageCost(1.0, 2.0)] * 3
    steps = [
        simulate(schedule.instructions(replace(plan, schedule=name)), costs, link).step_s for name in schedule_names
    ]
    assert steps[0] > steps[1] >= steps[2] * (1 - 1e-9)


def test_lists_that_wait_for_each_other_are_refused():
    lists = [list(each) for each in schedule.instructions(plan_of(2, 2, "1f1b"))]
    lists[0] = [replace(each, op="kept") if each.op == "send" else each for each in lists[0]]
    with pytest.raises(ValueError, match="wait for each other"):
        compiled(lists)
