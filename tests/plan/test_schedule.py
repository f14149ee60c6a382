"""Instruction lists: every micro-batch once, what is sent is received, and nobody waits for a later instruction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.nouns import Card, Fleet, ModelSpec, Stage
from danlu.plan import schedule, splits

CARD = Card("a", "emulated", "", {"fp32": 1e9}, 2**30, 1e9, cores=0.5)
SPEC = ModelSpec("llama", 8, 64, 4, 2, 16, 128, 512, 256)


def plan_of(stages: int, micro_batches: int, name: str, tied: bool = False):
    from dataclasses import replace

    fleet = Fleet("f", tuple(replace(CARD, name=str(i)) for i in range(stages)))
    found = splits.even(replace(SPEC, tied=tied), fleet, micro_batch=2, micro_batches=micro_batches, seq=8)
    return replace(found, schedule=name)


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from(["1f1b", "1f1b:2", "1f1b:3"]), st.booleans())
def test_lists_fit_together(stages, micro_batches, name, tied):
    plan = plan_of(stages, micro_batches, name, tied)
    lists = schedule.instructions(plan)
    assert len(lists) == stages
    for index, each in enumerate(lists):
        for op in ("forward", "backward"):
            assert sorted(i.mb for i in each if i.op == op) == list(range(micro_batches))
        assert [i.op for i in each][-2:] == ["reduce", "step"]
        assert all(before < at for at, i in enumerate(each) for before in i.after)
        live = peak = 0
        for i in each:
            live += (i.op == "forward") - (i.op == "backward")
            peak = max(peak, live)
        assert peak <= schedule.in_flight(stages, micro_batches, schedule.depth_of(name))[index]
        for peer in (index - 1, index + 1):
            what = "act" if peer > index else "grad"
            sent = [(i.mb, i.bytes) for i in each if i.op == "send" and i.peer == peer]
            got = (
                [(i.mb, i.bytes) for i in lists[peer] if i.op == "recv" and i.what == what]
                if 0 <= peer < stages
                else []
            )
            assert sent == got
    pairs = [(n, i.peer) for n, each in enumerate(lists) for i in each if i.what == "tied"]
    assert pairs == ([(0, stages - 1), (stages - 1, 0)] if tied and stages > 1 else [])


def test_an_unknown_schedule_is_named():
    with provoke("DL-CFG-011") as caught:
        schedule.instructions(plan_of(2, 2, "zero-bubble"))
    assert "zero-bubble" in str(caught.error)


def test_even_gives_whole_layers_to_every_card():
    assert plan_of(3, 4, "1f1b").layers_per_stage == (3, 3, 2)
    assert plan_of(3, 4, "1f1b").stages[0] == Stage(("0",), 0, 7)
