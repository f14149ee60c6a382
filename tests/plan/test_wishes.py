"""Every combination of the ways to share a model is planned, trains as one process does, or is refused by its key."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from provoke import provoke

from danlu.cli.bench import load
from danlu.nouns import Card, Fleet, Link, ModelSpec
from danlu.plan.candidates import Ask
from danlu.plan.ranks import copies, wishes
from danlu.plan.ranks.halved import halved
from danlu.plan.ranks.seats import seats
from danlu.plan.ranks.wishes import Wishes

torch.set_num_threads(1)

DENSE = ModelSpec("llama", 2, 24, 4, 2, 6, 20, 37, 64)
MOE = replace(DENSE, family="qwen2_moe", experts=5, experts_used=2, shared_ffn=14, recipe=("attn", "moe"))
ASK = Ask(MOE, 1, 8, 12, "fp32")
EVERY = [Wishes("best", *each) for each in itertools.product(
    ("auto", "1f1b", "zero-bubble"), (1, 2), (1, 2), (1, 2), (False, True)
)]  # fmt: skip
PLANNED = [each for each in EVERY if not (each.in_step and each.tensor > 1) and (
    not each.spread or max(each.copies, each.context) > 1
)]  # fmt: skip


def fleet_of(*speeds, mem_bytes=2**30):
    """Cards as fast as given, whose calls take no time worth mentioning, so that splitting a tiny model pays."""
    cards = tuple(
        Card(f"card{i}", "emulated", "", {"fp32": speed}, mem_bytes, 1e9, cores=0.9) for i, speed in enumerate(speeds)
    )
    pairs = itertools.combinations(cards, 2)
    return Fleet("f", cards, tuple(Link(a.name, b.name, 0.0, 1e9) for a, b in pairs))


FLEET = fleet_of(4e6, 2e6, 2e6, 1e6)


def said(wish):
    """A combination in the words of run.yaml."""
    more = [f"{name} {count}" for name in ("copies", "tensor", "context") if (count := getattr(wish, name)) > 1]
    return ", ".join([wish.schedule, *more, *["spread"] * wish.spread])


@pytest.mark.parametrize("wish", PLANNED, ids=said)
def test_what_is_planned_is_what_was_asked_for(wish):
    plan = wishes.best(ASK, FLEET, wish)
    assert plan.sequences == 8 and plan.forecast.step_s > 0 and copies.fits(plan)
    assert len(plan.pipelines) <= wish.copies * wish.context
    assert max(len(stage.cards) for each in plan.pipelines for stage in each.stages) <= wish.tensor
    assert {bool(each.context) for each in plan.pipelines} == {wish.context > 1}
    assert {bool(each.experts) for each in plan.pipelines} == {wish.spread}
    if wish.schedule == "zero-bubble":
        assert plan.schedule == "zb" or all(len(each.stages) == 1 for each in plan.pipelines)
    elif wish.schedule == "1f1b":
        assert plan.schedule.startswith("1f1b")
    else:
        usual = wishes.best(ASK, FLEET, replace(wish, schedule="1f1b"))
        assert plan.forecast.step_s <= usual.forecast.step_s


@pytest.mark.parametrize("wish", [
    Wishes("best", "zero-bubble", tensor=2), Wishes("best", "zero-bubble", copies=2, tensor=2),
    Wishes("best", "auto", copies=2, tensor=2), Wishes("best", "zero-bubble", context=2),
    Wishes("best", "zero-bubble", copies=2, context=2, spread=True),
    Wishes("best", "zero-bubble", copies=2, spread=True),
], ids=said)  # fmt: skip
def test_what_is_planned_computes_what_one_process_does(wish):
    bench, plan = load("training/together"), wishes.best(replace(ASK, seq=6), FLEET, wish)
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


def test_copies_of_unlike_cards_share_layers_and_sequences_unevenly():
    """TP x PP x DP in one plan: a pipeline of two fast cards takes more than two slow ones that are cut by heads."""
    model = ModelSpec("llama", 4, 64, 4, 4, 16, 160, 320, 256)
    fleet = fleet_of(4e9, 2e9, 1e9, 1e9)
    found = wishes.best(Ask(model, 1, 8, 64, "fp32"), fleet, Wishes("best", "1f1b", copies=2, tensor=2))
    shapes = {tuple(len(stage.cards) for stage in each.stages): each.micro_batches for each in found.pipelines}
    assert shapes == {(1, 1): 6, (2,): 2}
    parts = wishes.best(Ask(model, 1, 8, 64, "fp32"), fleet, Wishes("best", "1f1b", copies=2, context=2))
    assert len(parts.pipelines) == 4 and len({each.micro_batches for each in parts.pipelines}) == 2
    assert len({each.context for each in parts.pipelines}) > 2


@pytest.mark.parametrize(("wish", "key"), [
    (Wishes("even", copies=2), "plan.copies"), (Wishes("even", "zero-bubble", tensor=2), "plan.tensor"),
    (Wishes("even", context=2), "plan.context"), (Wishes("even", copies=1, context=1, spread=True), "plan.experts"),
    (Wishes(context=2, tensor=2), "plan.tensor"), (Wishes(copies=2, tensor=2, spread=True), "plan.tensor"),
    (Wishes(spread=True), "plan.experts"),
])  # fmt: skip
def test_what_is_not_planned_is_refused_by_its_key(wish, key):
    with provoke("DL-CFG-002") as caught:
        wishes.best(ASK, FLEET, wish)
    assert caught.error.where == key


def test_orders_that_hold_no_more_than_the_cards_do_are_made():
    """A little memory less than zero-bubble would like: its orders fit, and hold fewer micro-batches."""
    plan = wishes.best(ASK, FLEET, Wishes("best", "1f1b", copies=1, tensor=2))
    free = halved(plan)
    need = dict(zip((seat.card for seat in seats(free)), free.forecast.stage_bytes, strict=True))
    tight = replace(plan, fleet=replace(plan.fleet, cards=tuple(
        replace(card, mem_bytes=need.get(card.name, card.mem_bytes)) for card in plan.fleet.cards
    )))  # fmt: skip
    again = halved(tight)
    assert again is not None and copies.fits(again)
    none = replace(tight, fleet=replace(tight.fleet, cards=tuple(replace(c, mem_bytes=1) for c in tight.fleet.cards)))
    assert halved(none) is None
    with provoke("DL-MEM-001"):
        wishes.ordered(none, "zero-bubble")
