"""Plan JSON reads back equal, and refuses what is no plan."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from provoke import provoke
from test_schedule import plan_of

from danlu.nouns import Forecast, Rate, RopeScaling
from danlu.plan import text


def test_a_plan_reads_back_equal():
    plan = plan_of(3, 4, "1f1b:2", tied=True)
    card = replace(plan.fleet.cards[0], rates=(Rate("matmul", "fp32", (8, 16, 32), 1.25e9),))
    fleet = replace(plan.fleet, cards=(card, *plan.fleet.cards[1:]))
    spec = replace(plan.model, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), window=7)
    full = replace(plan, fleet=fleet, model=spec, forecast=Forecast(0.1, 1e4, (0.1, 0.05, 0.1), (5, 6, 7)))
    assert text.loads(text.dumps(plan)) == plan
    assert text.loads(text.dumps(full)) == full


def broken(**changes):
    return json.dumps({**json.loads(text.dumps(plan_of(2, 2, "1f1b"))), **changes})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "JSON"),
        ("[]", "plan: None"),
        (broken(plan=99), "plan: 99"),
        (broken(colour="red"), "colour"),
        (broken(micro_batches="two"), "plan.micro_batches"),
        (broken(micro_batches=0), "at least 1"),
        (broken(stages=[{"cards": ["0"], "start": 0, "stop": 3}]), "3 of the model's"),
        (broken(stages=[{"cards": ["9"], "start": 0, "stop": 18}]), "'9'"),
        (broken(stages=[]), "0 of the model's"),
    ],
)
def test_what_is_no_plan_is_refused(bad, says):
    with provoke("DL-DATA-010") as caught:
        text.loads(bad, "runs/a/plan.json")
    assert says in str(caught.error) and "runs/a/plan.json" in str(caught.error)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"micro_batches": 2', '"micro_batches": 0'),
        ('"seq": 8', '"seq": "eight"'),
        ('"mem_bytes"', '"memory"'),
        ('"1"', '"ghost"'),
        ('"flops": {', '"flops": {{'),
    ],
)
def test_a_plan_that_does_not_hold_names_its_line(old, new):
    whole = text.dumps(plan_of(2, 2, "1f1b"))
    at = whole.rindex(old)
    with provoke("DL-DATA-010") as caught:
        text.loads(whole[:at] + new + whole[at + len(old) :], "plan.json")
    assert caught.error.where == f"plan.json:{whole[:at].count(chr(10)) + 1}", caught.error
