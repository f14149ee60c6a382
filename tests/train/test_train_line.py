"""The progress line of a training run says what it is worth and what it holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from train_jobs import a_job
from train_world import GIB, SPEC, fleet, plan

from danlu.cli.output import Progress
from danlu.cli.train_line import StepLine
from danlu.plan.forecast import forecast, summed_alone
from danlu.train.result import Step


def test_a_card_with_the_whole_model_runs_at_its_own_speed():
    alone = forecast(plan(SPEC, ()))
    assert summed_alone(alone) == pytest.approx(alone.forecast.tokens_per_s)


def test_no_split_is_forecast_to_beat_its_cards_own_speeds():
    for cuts in ((4,), (3, 5), (2, 4, 6)):
        split = forecast(plan(SPEC, cuts, micro_batches=16))
        assert split.forecast.tokens_per_s < summed_alone(split)


def test_the_line_says_share_memory_by_tier_time_left_and_the_snapshots_age():
    a_plan = forecast(plan(SPEC, (4,), cards=fleet(0.4, 0.2)))
    job = a_job(Path("out"), a_plan, steps=20)
    seconds, stream = 2 * job.tokens_per_step / summed_alone(a_plan), io.StringIO()
    line = StepLine(Progress("train", stream), job)
    steps = [
        Step(n, 1.5, 1.0, 1e-3, seconds, 100 + n, 1, 4 * (n // 4), (GIB // 4, GIB // 2), 3 << 20) for n in range(1, 8)
    ]
    for each in steps:
        line.step(each)
    words = line.words(steps[-1])
    assert "50% of its cards' own speeds (emulated)" in words and "snapshot 3 s old" in words
    assert "memory 512.0 MiB of 1.0 GiB on card1, 3.0 MiB on hosts" in words
    line.step(replace(steps[4], epoch=2))
    assert "a rank was lost: all went on from the snapshot of step 4" in stream.getvalue()
