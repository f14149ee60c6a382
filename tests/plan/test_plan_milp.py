"""The packing of pipelines and the bound of a plan, beside an integer programme solved by other people's code."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milp_plans import most_together

from danlu.errors import DoesNotFit
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.assemble import again
from danlu.plan.groups.pack import pack
from danlu.plan.groups.pipelines import Pipeline
from danlu.plan.groups.pricing import Columns
from danlu.plan.proof.bound import bound

pytest.importorskip("highspy", reason="pip install 'danlu[dev]'")

SHORT = 0.01  # of a batch: what our packing of pipelines may miss


def found_on_random_cards(seed: int) -> large.Found | None:
    """A plan of 24 layers on 12 to 48 cards in one to three groups: mixed pipelines, replicas, both."""
    rng = random.Random(seed)
    groups = tuple(
        Group(f"card{i}", 4 * rng.randint(3, 4), rng.uniform(5e13, 1e15), rng.choice([24, 40, 80]) << 30, 1.5e12,
              rng.choice([3e10, 2e11]), rng.choice([5e9, 2.5e10]), rng.choice([4, 8]))
        for i in range(rng.randint(1, 2))
    )  # fmt: skip
    model = ModelSpec("llama", 24, 4096, 32, 8, 128, 11008, 32000, 4096)
    try:
        return large.search(model, GroupedFleet("random", groups), batch=rng.choice([48, 100, 160]), seq=2048,
                            schedule=rng.choice(["1f1b", "zb-h1"]))  # fmt: skip
    except DoesNotFit:
        return None


def fits(each: Pipeline) -> bool:
    """Whether its stages have room for the states that so many pipelines share: the fewer, the more each holds."""
    room = [each.ways.room[span.way, int(i == len(each.stages) - 1)] for i, span in enumerate(each.stages)]
    return bool((each.bytes <= np.array(room) * (1 + 1e-12)).all())


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10**9))
def test_no_integer_programme_packs_pipelines_under_the_bound_nor_much_better_than_we_do(seed):
    found = found_on_random_cards(seed)
    if found is None:
        return
    ask, plan = found.ask, found.plan
    tables = {size: ask.ways(size, plan.pipelines, every=True) for size in {each.micro_batch for each in found.columns}}
    columns = Columns(ask.there)
    moved = again([(old, tables[old.micro_batch]) for old in found.columns], len(ask.fleet.groups))
    columns.add(each for each in moved if each is not None and fits(each))
    if not columns.pipelines:
        return
    use, there = columns.cards(), ask.there
    value = columns.sequences(plan.seconds * (1 + 1e-9))
    best = most_together(value.tolist(), use.tolist(), there.tolist())
    ours = float(pack(value, use, there.astype(np.int64)).counts @ value)
    assert best - SHORT * ask.batch - 1e-3 <= ours <= best + 1e-3
    # No integer programme gets so many pipelines through the batch in a time that the proof of their number excludes.
    count = plan.pipelines
    proved = bound(ask.spaces(count, count), columns.pipelines, there, ask.batch, plan.seconds, count, count)
    under = columns.sequences(proved.seconds * (1 - 1e-9))
    rows = [
        *use[:, under > 0].tolist(),
        [1.0] * int((under > 0).sum()),
        [-1.0] * int((under > 0).sum()),
    ]  # just so many
    assert most_together(under[under > 0].tolist(), rows, [*there.tolist(), count, -count]) < ask.batch
