"""Few pipelines over a whole fleet, where a model fills most of its memory."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from brute_plans import every_pipeline, random_ask
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from test_plan_large import complete

from danlu.fleet.groups import shorthand
from danlu.nouns import ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.pricing import DEEPEST, space
from danlu.plan.groups.spanning import spanning
from danlu.plan.groups.sum_share import sum_share
from danlu.plan.proof import certificate, verify

WIDE = ModelSpec("llama", 16, 26624, 208, 8, 128, 93184, 128256, 8192)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 4), st.booleans())
def test_no_pipeline_of_counted_cards_has_a_shorter_bottleneck(seed, cards, dear):
    """Where messages take as long to every group: the least of them, or the most."""
    ask = random_ask(random.Random(seed), cards, 3, 8)
    there = tuple(group.count for group in ask.fleet.groups)
    where = space(replace(ask.ways(1, 1), dear=dear), len(there), DEEPEST).apart
    ways = where.ways
    found = spanning(where, ask.there, ask.batch, 1)
    each = [one for one in every_pipeline(ways, there) if len(one.stages) <= ask.batch] if len(ways.ways) else []
    least = min((float((one.time + one.after / ask.batch).max()) for one in each), default=math.inf)
    for one in found:
        room = [one.ways.room[s.way, int(i == len(one.stages) - 1)] for i, s in enumerate(one.stages)]
        assert (one.cards <= ask.there).all() and (one.bytes <= np.array(room)).all()
        assert [0, *(s.stop for s in one.stages)] == [*(s.start for s in one.stages), ways.units]
    if all(way.tp == 1 for way in ways.ways):  # all ways are wide ones
        assert bool(found) is bool(each)
        if found:
            assert float((found[0].time + found[0].after / ask.batch).max()) <= least * 1.003


def test_a_model_that_no_type_holds_alone_runs_on_both():
    found = large.search(WIDE, shorthand("8xMI300X+40xA100-80"), batch=64, seq=4096)
    assert not any(found.alone.values())
    complete(found.plan)
    assert all(found.plan.used)
    share = sum_share(found)
    assert share.cards["MI300X"] > 8 and share.cards["A100-80"] >= 40 and 0.85 < share.value < 1.15
    proved = certificate.prove_gap(found)
    said = certificate.as_dict(proved)
    assert verify.checked(said) == pytest.approx(proved.gap, rel=1e-6)
    for table in said["plan"]["tables"]:  # messages from one type to the other for nothing
        table["hops"] = [[each * (at == group) for at, each in enumerate(row)]
                         for row, group in zip(table["hops"], table["group"], strict=True)]  # fmt: skip
    with provoke("DL-DATA-030"):
        verify.checked(said)
