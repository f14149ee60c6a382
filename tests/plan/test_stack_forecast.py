"""The forecast of a stated run: its terms sum up, its interval holds what it says, its verdict follows its bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.cli.plan_check import rated
from danlu.plan.stated import rows, score, stack_forecast, stack_time
from danlu.plan.stated.setup import Experts, Setup
from danlu.plan.stated.stack_fit import cases, fit
from danlu.plan.stated.stack_forecast import NAMES, Residual, coverage, forecast, half_width
from danlu.plan.stated.stack_work import work

TRUTH = Path(__file__).parents[2] / "bench" / "truth"
ROWS = [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]
LLAMA = Setup("H100", 64, 8, 50e9, 32, 4096, 32, 8, 14336, True, 128256, 8192, 128, 2, 2, 2, 16)


def test_terms_are_all_of_the_seconds():
    known = stack_time.published()
    for case in cases(ROWS, rated):
        run, amounts = case.runs[0]
        parts = stack_forecast.terms(run, amounts, case.card, known)
        assert tuple(parts) == NAMES and min(parts.values()) >= 0
        assert sum(parts.values()) == pytest.approx(stack_time.seconds(run, amounts, case.card, known))


def test_four_of_five_left_out_runs_end_inside_their_interval():
    inside, width = coverage(stack_forecast.residuals())
    assert 0.75 <= inside <= 0.9 and width < 0.2


def test_runs_nothing_was_fitted_to_end_inside_the_interval_beside_them():
    cold = [row for path in sorted((TRUTH / "cold").glob("*.csv")) for row in rows.read(path)]
    errors, known = score.residuals(score.score(cold, rated)), stack_forecast.residuals()
    inside = [abs(each.error) <= half_width(each.shares, known) for each in errors]
    assert len(inside) > 80 and sum(inside) >= 0.8 * len(inside)


@pytest.mark.parametrize("source", ["fms_fsdp"])
def test_the_kept_errors_are_those_of_a_source_that_was_left_out(source):
    every = ROWS + [row for path in sorted((TRUTH / "more").glob("*.csv")) for row in rows.read(path)]
    constants = fit(cases([row for row in every if row.source != source], rated))
    left_out = score.score([row for row in every if row.source == source], rated, known=constants)
    kept = [each for each in stack_forecast.residuals() if each.source == source]
    for ours, fresh in zip(kept, score.residuals(left_out), strict=True):
        assert ours.error == pytest.approx(fresh.error, abs=0.02)


@given(st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=40))
def test_an_interval_of_equal_rows_is_their_quantile(errors):
    here = (1.0, *(0.0 for _ in NAMES[1:]))
    width = half_width(here, [Residual("a", error, here) for error in errors])
    assert sum(abs(error) <= width for error in errors) >= 0.8 * len(errors)
    assert width in [abs(error) for error in errors]


def test_a_run_unlike_all_others_has_a_wider_interval():
    here, there = (1.0, *(0.0 for _ in NAMES[1:])), (*(0.0 for _ in NAMES[1:]), 1.0)
    known = [Residual("a", 0.01 * i, here) for i in range(10)]
    assert half_width(there, known) == pytest.approx((1 + stack_forecast.WIDER) * half_width(here, known))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["A100-80", "H100", "H20", "B200", "MI300X", "RTX-4090", "Ascend-910B", "A100-80-PCIe"]),
    st.sampled_from([(1, 1, 64), (8, 1, 8), (8, 4, 2), (4, 2, 8), (2, 1, 32)]), st.sampled_from([0, 1, 2, 3]),
    st.sampled_from(["none", "selective", "full"]), st.sampled_from(["bf16", "fp8", "fp32"]),
    st.sampled_from(["Megatron-LM", "torchtitan", "DeepSpeed", "something else"]),
    st.sampled_from([None, Experts(8, 2, 14336), Experts(64, 6, 1408, 2816, 1)]), st.booleans(),
)  # fmt: skip
def test_runs_nobody_published_have_sane_forecasts(name, cut, zero, recompute, precision, software, experts, flash):
    tp, pp, dp = cut
    run = replace(LLAMA, card=name, tp=tp, pp=pp, dp=dp, zero=zero, recompute=recompute, precision=precision,
                  software=software, experts=experts, flash=flash, ep=min(8, dp) if experts else 1)  # fmt: skip
    card = rated(name)
    found = forecast(run, card)
    fastest = card.flops * (2.0 if precision == "fp8" else 1.0)
    done = work(found.run).stages[:, :3].sum() * found.run.micro_batches / pp
    assert 0.002 * card.flops < done / found.seconds < fastest
    assert 0 < found.low < found.seconds < found.high < 2 * found.seconds and found.dominant in NAMES
    assert found.fits == (found.need * 1.025 <= card.mem_bytes)
