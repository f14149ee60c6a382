"""The best split: equal to brute force where that can be done, within memory always."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.nouns import Card, Fleet, Link, ModelSpec, Plan, Stage
from danlu.plan import candidates
from danlu.plan.forecast import forecast, peak_bytes
from danlu.plan.splits import SCHEDULES, even, search

SPEC = ModelSpec("llama", 3, 64, 4, 2, 16, 128, 300, 256)
ASK = {"micro_batch": 2, "micro_batches": 4, "seq": 16}


def card(name, flops, mem_bytes=2**34):
    return Card(name, "emulated", "", {"fp32": flops}, mem_bytes, flops / 4, cores=0.5)


def fleet_of(cards, latency=1e-5):
    pairs = itertools.combinations(cards, 2)
    return Fleet("f", tuple(cards), tuple(Link(a.name, b.name, latency, 1e9) for a, b in pairs))


def brute(spec, fleet, ask):
    """Every order of every choice of cards, every split, every stage's recomputation, every schedule; None when nothing
    fits."""
    best = None
    units = len(spec.units)
    for k in range(1, len(fleet.cards) + 1):
        for cards in itertools.permutations(fleet.cards, k):
            for inner in itertools.combinations(range(1, units), k - 1):
                cuts = (0, *inner, units)
                for schedule, again in itertools.product(SCHEDULES, itertools.product(("none", "full"), repeat=k)):
                    stages = tuple(Stage((c.name,), a, b, recompute=each)
                                   for c, a, b, each in zip(cards, cuts, cuts[1:], again, strict=False))  # fmt: skip
                    plan = Plan(spec, fleet, stages, schedule, ask["micro_batches"], ask["micro_batch"], ask["seq"])
                    if all(peak_bytes(plan, i) <= c.mem_bytes for i, c in enumerate(cards)):
                        step = forecast(plan).forecast.step_s
                        best = step if best is None else min(best, step)
    return best


speeds = st.lists(st.sampled_from([1e9, 2e9, 3e9, 5e9]), min_size=1, max_size=3)


@given(speeds, st.sampled_from([1, 2]), st.booleans(), st.sampled_from([1e-6, 1e-3]), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_no_split_beats_ours(speeds, layers, tied, latency, tight):
    spec = replace(SPEC, layers=layers, tied=tied)
    room = (2**34, 1_000_000, 800_000, 600_000)[tight]
    fleet = fleet_of([card(str(i), s, room) for i, s in enumerate(speeds)], latency)
    least = brute(spec, fleet, ASK)
    if least is None:
        with provoke("DL-MEM-001"):
            search(spec, fleet, **ASK)
        return
    found = search(spec, fleet, **ASK)
    if found.schedule == "zb":
        assert found.forecast.step_s < least
    else:
        assert found.forecast.step_s == pytest.approx(least, rel=1e-9)
    assert all(size <= room for size in found.forecast.stage_bytes)


def test_only_a_card_short_of_memory_computes_forwards_again():
    """Half the layers on each card; the small one keeps inputs only, and both run faster than the large one alone."""
    deep, ask = replace(SPEC, layers=8), {"micro_batch": 8, "micro_batches": 8, "seq": 128}
    large = card("large", 1e9)
    fleet = fleet_of([large, card("small", 1e9, 12_000_000)])
    found = search(deep, fleet, **ask)
    assert sorted(stage.recompute for stage in found.stages) == ["full", "none"]
    assert {stage.recompute: stage.cards for stage in found.stages}["full"] == ("small",)
    assert all(size <= found.fleet.card(stage.cards[0]).mem_bytes
               for size, stage in zip(found.forecast.stage_bytes, found.stages, strict=True))  # fmt: skip
    assert found.forecast.step_s < 0.8 * search(deep, fleet_of([large]), **ask).forecast.step_s


def test_a_fast_card_gets_more_layers():
    found = search(replace(SPEC, layers=8), fleet_of([card("a", 4e9), card("b", 2e9), card("c", 2e9)]), **ASK)
    layers = dict(zip((s.cards[0] for s in found.stages), found.layers_per_stage, strict=True))
    assert layers["a"] > max(layers.get("b", 0), layers.get("c", 0))
    same = even(replace(SPEC, layers=8), found.fleet, **ASK)
    assert same.forecast.step_s / found.forecast.step_s > 1.2


def test_a_card_that_does_not_pay_is_left_out():
    found = search(SPEC, fleet_of([card("new", 1e12), card("old", 1e6)]), **ASK)
    assert [stage.cards for stage in found.stages] == [("new",)]


def test_cards_without_a_link_are_no_neighbours():
    cards = [card("a", 1e9), card("b", 1e9), card("c", 1e9)]
    fleet = Fleet("f", tuple(cards), (Link("a", "b", 1e-6, 1e9), Link("b", "c", 1e-6, 1e9)))
    found = search(replace(SPEC, layers=8), fleet, **ASK)
    assert [stage.cards[0] for stage in found.stages] in (["a", "b", "c"], ["c", "b", "a"])


def test_the_error_names_a_change_that_fits():
    fleet = fleet_of([card("a", 1e9, 5_000_000), card("b", 1e9, 4_000_000)])
    ask = {"micro_batch": 64, "micro_batches": 4, "seq": 64}
    with provoke("DL-MEM-001") as caught:
        search(SPEC, fleet, **ask)
    words = caught.error.fix.split()
    changed = {"micro_batch": int(words[words.index("--plan.micro_batch") + 1]),
               "micro_batches": int(words[words.index("--plan.micro_batches") + 1]), "seq": 64}  # fmt: skip
    assert changed["micro_batch"] * changed["micro_batches"] == 256
    assert all(s <= c for s, c in zip(search(SPEC, fleet, **changed).forecast.stage_bytes, (5e6, 5e6), strict=False))


@given(st.integers(1, 3), st.sampled_from([3, 7]))
@settings(max_examples=8, deadline=None)
def test_no_pipeline_is_longer_than_its_micro_batches(count, cards):
    fleet = fleet_of([card(str(i), 1e9) for i in range(cards)], 1e-7)
    found = search(replace(SPEC, layers=8), fleet, micro_batch=1, micro_batches=count, seq=16)
    assert len(found.stages) <= count


def test_a_model_that_fits_only_longer_pipelines_says_what_batch_fills_them():
    fleet = fleet_of([card(str(i), 1e9, 2_400_000) for i in range(3)])
    ask = {"micro_batch": 4, "micro_batches": 1, "seq": 16}
    with provoke("DL-MEM-004") as caught:
        search(SPEC, fleet, **ask)
    words = caught.error.fix.split()
    changed = {"micro_batch": int(words[words.index("--plan.micro_batch") + 1]),
               "micro_batches": int(words[words.index("--plan.micro_batches") + 1]), "seq": 16}  # fmt: skip
    assert changed["micro_batch"] * changed["micro_batches"] == 4
    search(SPEC, fleet, **changed)
    with provoke("DL-MEM-004") as caught:
        search(SPEC, fleet, **ask | {"micro_batch": 1})
    assert caught.error.fix.startswith("--plan.micro_batches ")
    search(SPEC, fleet, micro_batch=1, micro_batches=int(caught.error.fix.split()[1]), seq=16)


def test_weights_alone_too_large_say_how_many_layers_fit():
    fleet = fleet_of([card("a", 1e9, 3_000_000)])
    big = replace(SPEC, layers=40)
    with provoke("DL-MEM-001") as caught:
        search(big, fleet, **ASK)
    words = caught.error.fix.split()
    layers = int(words[words.index("--model.layers") + 1])
    assert 0 < layers < 40
    search(replace(big, layers=layers), fleet, micro_batch=1, micro_batches=8, seq=16)


def test_a_long_model_on_many_cards_is_planned_in_seconds():
    cards = [card(f"{kind}{i}", speed) for kind, speed in (("x", 4e9), ("y", 2e9), ("z", 1e9)) for i in range(4)]
    began = time.thread_time()
    found = search(replace(SPEC, layers=96), fleet_of(cards), micro_batch=2, micro_batches=48, seq=16)
    assert time.thread_time() - began < 20
    total = sum(max(c.flops.values()) for c in cards)
    alone = search(replace(SPEC, layers=96), fleet_of(cards[:1]), micro_batch=2, micro_batches=48, seq=16)
    assert alone.forecast.step_s / found.forecast.step_s > 0.6 * total / 4e9


def test_the_beam_finds_what_all_splits_have(monkeypatch):
    fleet = fleet_of([card(str(i), s) for i, s in enumerate((4e9, 1e9, 2e9, 3e9))])
    whole = search(replace(SPEC, layers=5), fleet, **ASK)
    monkeypatch.setattr(candidates, "EXACT_SPLITS", 0)
    assert search(replace(SPEC, layers=5), fleet, **ASK).forecast.step_s <= whole.forecast.step_s * 1.001


def test_the_schedule_asked_for_is_the_one_planned_and_auto_takes_the_faster():
    fleet = fleet_of([card("a", 4e9), card("b", 2e9), card("c", 2e9)])
    deep = replace(SPEC, layers=8)
    usual, zero, auto = (search(deep, fleet, **ASK, schedule=name) for name in ("1f1b", "zero-bubble", "auto"))
    assert usual.schedule.startswith("1f1b") and not usual.orders
    assert zero.schedule == "zb" and len(zero.orders) == len(zero.stages) > 1
    assert auto.forecast.step_s <= usual.forecast.step_s
    alone = search(SPEC, fleet_of([card("a", 4e9)]), **ASK, schedule="zero-bubble")
    assert len(alone.stages) == 1
