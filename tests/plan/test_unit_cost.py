"""Units of a model on a card: their sums are what the model of whole runs says, and they behave as hardware does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.cli.plan_check import rated
from danlu.fleet.groups import shorthand
from danlu.nouns import ModelSpec
from danlu.plan import presets
from danlu.plan.groups import large
from danlu.plan.groups.unit_cost import (
    ATTN,
    EMBED,
    HEAD,
    MLP,
    Stack,
    Way,
    setup_of,
    state_bytes,
    step_seconds,
    unit_table,
)
from danlu.plan.groups.way_choices import recomputed
from danlu.plan.stated import stack_memory, stack_time
from danlu.plan.stated.stack_work import work

LLAMA = ModelSpec("llama", 32, 4096, 32, 8, 128, 14336, 128256, 8192)
MIXTURE = replace(LLAMA, experts=8, experts_used=2)
SHARED = replace(MIXTURE, ffn=2048, shared_ffn=8192)
ways = st.builds(Way, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]),
                 st.sampled_from(["none", "selective", "full"]), st.sampled_from([1, 2]))  # fmt: skip
stacks = st.builds(
    Stack, compiled=st.booleans(), flash=st.booleans(), seq_parallel=st.booleans(), overlap_tp=st.booleans()
)


@settings(max_examples=40, deadline=None)
@given(ways, stacks, st.sampled_from([LLAMA, MIXTURE, SHARED]), st.sampled_from(["A100-80", "H20", "A100-80-PCIe"]))
def test_units_add_up_to_a_run(way, stack, spec, name):
    card, seq = rated(name), 4096
    run = setup_of(spec, card, way, seq, stack)
    run = replace(run, pp=1, cards=way.tp * way.cp, global_batch=way.micro_batch)
    table, known = unit_table(spec, card, [way], seq=seq, stack=stack), stack_time.published()
    count = np.array([1, spec.layers, spec.layers, 1, 0])
    parts = float(((table.forward_s + table.backward_s) @ count)[0])
    parts += step_seconds(spec, card, way, 0, way.cp, seq=seq, stack=stack)
    once = replace(work(run), dp_bytes=0.0, adam_bytes=0.0, tied_bytes=0.0)
    assert parts * stack_time.waiting(run.cards, known) == pytest.approx(stack_time.seconds(run, once, card, known))
    kept = stack_memory.allocated(run).activations
    assert float((table.kept_bytes @ count)[0]) - table.kept_bytes[0, HEAD] == pytest.approx(kept, rel=1e-3, abs=1e9)


@settings(max_examples=25, deadline=None)
@given(ways, stacks)
def test_a_wider_batch_costs_more_but_less_than_in_turn(way, stack):
    twice = replace(way, micro_batch=2 * way.micro_batch)
    table = unit_table(LLAMA, rated("A100-80"), [way, twice], seq=4096, stack=stack)
    layer = (table.forward_s + table.backward_s)[:, [ATTN, MLP]].sum(axis=1)
    assert layer[0] < layer[1] < 2 * layer[0]
    assert table.kept_bytes[1] == pytest.approx(2 * table.kept_bytes[0])


@settings(max_examples=25, deadline=None)
@given(ways, stacks)
def test_recomputing_trades_seconds_for_bytes(way, stack):
    hows = recomputed(stack)
    table = unit_table(LLAMA, rated("H100"), [replace(way, recompute=how) for how in hows], seq=4096, stack=stack)
    seconds, kept = (each[:, [ATTN, MLP]].sum(axis=1) for each in (table.backward_s, table.kept_bytes))
    assert hows[0] == "none" and seconds[0] == seconds.min() and kept[0] == kept.max()
    assert hows[-1] == "full" and seconds[-1] == seconds.max()
    assert np.ptp(table.forward_s, axis=0) == pytest.approx(0)


def test_parameters_are_those_of_the_model():
    table = unit_table(LLAMA, rated("A100-80"), [Way(), Way(tp=4)], seq=4096)
    matrices = [LLAMA.unit_params(unit) for unit in ("embed", "layers.0.attn", "layers.0.mlp", "head")]
    assert table.params[0] == pytest.approx([*matrices, 0], rel=1e-3)
    assert table.params[1] == pytest.approx(table.params[0] / 4, rel=3e-3)  # a vocabulary is padded
    assert table.forward_s[0, EMBED] < table.forward_s[0, ATTN]


def test_an_expert_that_every_token_passes_is_in_the_table():
    model = replace(SHARED, recipe=("attn", "moe"))
    table, without = (unit_table(each, rated("A100-80"), [Way()], seq=4096)
                      for each in (model, replace(model, shared_ffn=0)))  # fmt: skip
    assert table.params[0, MLP] == pytest.approx(model.unit_params("layers.0.moe"), rel=1e-3)
    assert table.forward_s[0, MLP] > 1.5 * without.forward_s[0, MLP]
    assert table.kept_bytes[0, MLP] > without.kept_bytes[0, MLP]


@given(st.integers(1, 64), st.sampled_from([0, 1, 2, 3]))
def test_sharding_over_more_cards_never_needs_more(ranks, zero):
    assert state_bytes(Stack(), 2 * ranks, zero) <= state_bytes(Stack(), ranks, zero)


def test_no_way_gives_an_empty_table():
    table = unit_table(LLAMA, rated("A100-80"), [], seq=4096)
    assert table.forward_s.shape[0] == 0 and table.sent_s.shape == (0,)


@pytest.mark.parametrize(
    ("model", "fleet"), [("llama-3-8b", "16xH100"), ("qwen3-8b", "8xB200"), ("llama-2-13b", "16xMI300X")]
)
def test_a_card_of_a_plan_has_the_peak_of_the_same_run_stated(model, fleet):
    """What is printed is what the model of published runs would have such a run allocate, with what lives briefly."""
    spec, card = presets.preset(model), rated(fleet.partition("x")[2])
    plan = large.search(spec, shorthand(fleet), batch=64, seq=4096, schedule="1f1b").plan
    ((stage,),) = (each.stages for each in plan.replicas)
    run = replace(setup_of(spec, card, stage.way, 4096, Stack()), pp=1, dp=plan.pipelines, zero=1, global_batch=64,
                  cards=plan.pipelines * stage.cards)  # fmt: skip
    assert stage.peak == pytest.approx(stack_memory.allocated(run).total, rel=0.01)
    assert stage.bytes < 0.99 * stage.peak
