"""Memory of real training stacks: closed forms of the paper, properties, and every published reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.plan.stated import rows, stack_memory
from danlu.plan.stated.setup import Setup, completed

TRUTH = Path(__file__).parents[2] / "bench" / "truth"
GPT = Setup("A100-80", 64, 8, 25e9, 96, 12288, 96, 96, 49152, False, 51200, 2048, 64, 1, 8, 8, interleave=3,
            flash=False, dropout=True, precision="fp16")  # fmt: skip
MOST = {"formula": 0.005, "allocated": 0.03, "device": 0.05, "reserved": 0.08}


def every() -> list[rows.Row]:
    return [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]


def predicted(row: rows.Row) -> float:
    run = completed(row.setup)
    if row.kind == "formula":
        return stack_memory.formula(run, row.embedding)
    return {"allocated": allocated, "device": stack_memory.device, "reserved": stack_memory.reserved}[row.kind](run)


def allocated(run: Setup) -> float:
    return stack_memory.allocated(run).total


@pytest.mark.parametrize("kind", sorted(MOST))
def test_published_bytes_are_met(kind):
    errors = [abs(predicted(row) / row.real - 1) for row in every() if row.kind == kind]
    assert len(errors) >= 20 and sum(errors) / len(errors) <= MOST[kind]


def test_no_run_is_started_on_cards_too_small_for_it():
    peaks = [row for row in every() if row.kind in ("allocated", "device", "reserved")]
    assert not [row.name for row in peaks if stack_memory.fits(predicted(row), 0.9 * row.real)]
    refused = [row.name for row in peaks if not stack_memory.fits(predicted(row), 1.15 * row.real)]
    assert len(refused) <= 0.05 * len(peaks)


@given(st.floats(1e9, 1e12), st.floats(1, 3))
def test_what_fits_a_card_fits_a_larger_one(need, factor):
    room = need * (1 + stack_memory.MARGIN) * 1.0001
    assert stack_memory.fits(need, room) and stack_memory.fits(need, factor * room)
    assert not stack_memory.fits(need, need)


@pytest.mark.parametrize(
    ("recompute", "sequence", "per_sbh"),
    [("none", False, 10 + 24 / 8 + 10), ("none", True, 34 / 8 + 10), ("selective", False, 10 + 24 / 8),
     ("selective", True, 34 / 8), ("full", False, 2)],
)  # fmt: skip
def test_a_layer_keeps_what_table_2_says(recompute, sequence, per_sbh):
    run = replace(GPT, recompute=recompute, seq_parallel=sequence)
    assert stack_memory.layer_bytes(run) == pytest.approx(per_sbh * 2048 * 12288)


def test_interleaving_holds_more_on_the_first_stage():
    assert stack_memory.in_flight(GPT, 0) == pytest.approx(8 * (1 + 7 / 24))
    assert stack_memory.in_flight(replace(GPT, interleave=1), 0) == 8


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.sampled_from([0, 1, 3]), st.integers(1, 8))
def test_splitting_never_needs_more_on_a_card(tp, pp, zero, micro):
    run = replace(GPT, tp=tp, pp=pp, zero=zero, micro_batch=micro, interleave=1, dp=2, global_batch=64)
    less = stack_memory.allocated(run).total
    assert stack_memory.allocated(replace(run, tp=2 * tp)).total < less
    assert stack_memory.allocated(replace(run, dp=4)).states <= stack_memory.allocated(run).states


@given(st.sampled_from(["none", "selective", "full"]), st.booleans(), st.booleans())
def test_recomputing_more_keeps_less(first, flash, sequence):
    order = ["none", "selective", "full"]
    run = replace(GPT, flash=flash, seq_parallel=sequence, dropout=not flash)
    kept = [stack_memory.layer_bytes(run, recompute=each) for each in order[order.index(first) :]]
    assert kept == sorted(kept, reverse=True)


def test_eager_gated_layers_keep_what_their_kernels_hand_on():
    """Two RMS norms keep an fp32 input and what they are before their weight, a gate what its activation made."""
    llama = replace(GPT, gated=True, flash=True, dropout=False, tp=1, software="torch")
    more = stack_memory.layer_bytes(llama) - stack_memory.layer_bytes(replace(llama, kernels=True))
    assert more == GPT.seq * (2 * 6 * GPT.hidden + 2 * GPT.ffn)


def test_deepspeed_keeps_no_second_gradient_where_it_sums_in_16_bits():
    run = replace(GPT, zero=1, precision="bf16", software="Megatron-DeepSpeed")
    sums = [stack_memory.bytes_per_param(each, 8) for each in
            (run, replace(run, reduce_bytes=2), replace(run, software="DeepSpeed"))]  # fmt: skip
    assert sums == [9.5, 5.5, 5.5]


def test_a_table_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("source,row,card\na,b,A100-80\n", encoding="utf-8")
    with provoke("DL-DATA-011") as caught:
        rows.read(path)
    assert "card_count" in caught.error.why


def test_a_line_that_is_no_run_is_named(tmp_path):
    good = (TRUTH / "torchtitan.csv").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "runs.csv"
    path.write_text(
        "\n".join([good[0], good[1], good[2].replace("llama3-8b,32,", "llama3-8b,many,")]), encoding="utf-8"
    )
    with provoke("DL-DATA-011") as caught:
        rows.read(path)
    assert caught.error.where.endswith(":3")
