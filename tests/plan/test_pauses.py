"""What a sleep between instructions costs: measured by the probe, charged to paced cards only."""

from __future__ import annotations

import gc
import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.fleet import pauses as measured
from danlu.nouns import Card, Fleet, Link, ModelSpec, Rate
from danlu.plan import splits
from danlu.plan.events import StageCost
from danlu.plan.pauses import Pauses
from danlu.train.rank import settle

SPEC = ModelSpec("llama", 4, 64, 4, 4, 16, 128, 256, 128)
RATES = tuple(Rate(op, "fp32", (pause,), 1 / more) for op in ("wake", "wake_back", "wake_one")
              for pause, more in ((1000, 1e-4), (10_000, 3e-4), (100_000, 9e-4)))  # fmt: skip
PACED = Card("a", "emulated", "", {"fp32": 1e9}, 2**30, 1e10, cores=0.5, rates=RATES)
seconds = st.floats(1e-5, 1.0)


@given(seconds, seconds)
def test_a_longer_sleep_costs_no_less_and_at_most_what_was_measured(a, b):
    short, long = (Pauses(PACED).paid(StageCost(each, each)) for each in sorted((a, b)))
    more = [each.forward_s - tight for each, tight in zip((short, long), sorted((a, b)), strict=True)]
    assert 1e-4 * 0.999 <= more[0] <= more[1] * 1.001 + 1e-12
    assert more[1] <= 9e-4 * 1.001


@given(st.lists(seconds, min_size=1, max_size=5))
def test_many_splits_pay_what_each_of_them_pays(every):
    pauses = Pauses(PACED)
    together = pauses.paid(StageCost(np.array(every), 2 * np.array(every), weight_s=np.array(every)))
    for at, one in enumerate(every):
        alone = pauses.paid(StageCost(one, 2 * one, weight_s=one))
        for field in fields(StageCost):
            found = np.broadcast_to(getattr(together, field.name), len(every))[at]
            assert found == pytest.approx(getattr(alone, field.name))


def test_a_card_that_is_not_paced_or_not_measured_pays_nothing():
    cost = StageCost(1.0, 2.0, 0.1, 0.1, 0.1, 0.5, 0.1)
    for card in (replace(PACED, vendor="cpu"), replace(PACED, rates=())):
        assert Pauses(card).paid(cost) == cost


def test_halves_wake_once_more_than_the_whole():
    tight = StageCost(1.0, 2.0, weight_s=0.8, split_s=0.1)
    paid = Pauses(PACED).paid(tight)
    assert paid.input_s - tight.input_s == pytest.approx(paid.backward_s - tight.backward_s)
    assert paid.weight_s > tight.weight_s


def test_plans_of_measured_cards_count_their_pauses():
    fleet = Fleet("", (PACED, replace(PACED, name="b")), (Link("a", "b", 0.0, 1e9),))
    bare = replace(fleet, cards=tuple(replace(card, rates=()) for card in fleet.cards))
    with_pauses, without = (
        splits.search(SPEC, each, micro_batch=1, micro_batches=4, seq=32) for each in (fleet, bare)
    )  # fmt: skip
    assert with_pauses.forecast.step_s >= without.forecast.step_s + 4 * 2 * 1e-4


def test_the_probe_times_what_waking_adds():
    clock = itertools.count()
    found = list(measured.after((1e-6, 2e-6), lambda: float(next(clock))))
    assert [(op, pause) for op, pause, _ in found] == [
        (op, pause) for pause in (1, 2) for op in ("wake", "wake_back", "wake_one")
    ]
    assert all(more == measured.LEAST_S for *_, more in found), "on this clock every instruction takes as long"


def test_what_a_rank_has_when_it_is_ready_is_never_searched_for_garbage_again():
    before = len(gc.get_objects())
    try:
        settle()
        assert len(gc.get_objects()) < before / 10
    finally:
        gc.unfreeze()
