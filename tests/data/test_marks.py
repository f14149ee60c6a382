"""Who is compared: all that any step could drop, in parts as in one stream, and nobody else."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parts import here

from danlu.data import clean_parts, compare_parts, marks, parts
from danlu.data.clean import pipeline
from danlu.data.document import Document, Funnel, to_record
from danlu.store.packs import Store, Writer

columns = st.integers(1, 3)


@given(columns.flatmap(lambda k: st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=1)))
def test_groups_are_what_walking_from_row_to_row_finds(rows):
    made = marks.groups(np.array(rows, np.uint64)).tolist()
    for start in range(len(rows)):
        reached, todo = {start}, [start]
        while todo:
            one = rows[todo.pop()]
            more = {n for n, two in enumerate(rows) if any(a == b for a, b in zip(one, two, strict=True))} - reached
            reached |= more
            todo += more
        assert made[start] == min(reached)


def family(rng: random.Random, count: int) -> list[Document]:
    """Documents of which many are copies, or nearly."""
    words = [f"w{number}" for number in range(400)]
    texts: list[list[str]] = []
    for _ in range(count):
        kind = rng.random()
        base = list(rng.choice(texts)) if texts and kind < 0.6 else rng.choices(words, k=rng.randrange(3, 120))
        if kind < 0.35:
            base[rng.randrange(len(base))] = rng.choice(words)
        texts.append(base)
    return [Document(f"d{number}", rng.choice(["", " "]) + " ".join(text)) for number, text in enumerate(texts)]


@settings(max_examples=12)  # each writes a dozen files
@given(st.integers(0, 2**32), st.sampled_from([["exact", "near"], ["near", "exact"], ["near"], ["exact"]]))
def test_parts_drop_what_one_stream_drops(tmp_path_factory, seed, steps):
    home = tmp_path_factory.mktemp("parts")
    with Writer(home / "raw") as writer:
        for document in family(random.Random(seed), 40):
            writer.add(*to_record(document))
        writer.commit({}, done=True)
    truth = Funnel()
    raw = Store(home / "raw")
    one = parts.documents(raw, {"ranges": [(0, 0)]}, 0)
    kept = [document.key for document in pipeline(one, ["normalise", *steps], truth)]
    raw.close()
    before = clean_parts.run(home / "raw", home / "jobs", "test", ["normalise", *steps],
                             here, lambda words, share: None)  # fmt: skip
    funnel = Funnel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_parts, "LEAST_SIZE", 900)  # characters: a handful of documents in a part
        patch.setattr(compare_parts, "OPENED_SIZE", 0)
        assert [document.key for document in before.documents(funnel)] == kept and before.steps == []
    assert funnel.dropped == truth.dropped and funnel.examples == truth.examples


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=40), st.integers(20, 200))
def test_parts_take_whole_groups_and_nobody_who_is_alone(rows, most):
    groups, sizes = (np.array(each, np.int64) for each in zip(*rows, strict=True))
    shares = compare_parts._shares(groups, sizes, most)
    together = {group for group in groups.tolist() if (groups == group).sum() > 1}
    found = [set(groups[share].tolist()) for share in shares]
    assert all(found) and sum(map(len, found)) == len(together) and set().union(*found) == together
    assert sum(map(len, shares)) == sum(group in together for group in groups.tolist())
    largest = max((sizes[groups == group].sum() for group in together), default=0)
    assert all(sizes[share].sum() <= most + largest for share in shares)


def test_only_steps_with_marks_that_follow_at_once_are_compared_in_parts():
    steps = ["normalise", {"language": ["en"]}, "exact", "near", "shared_lines", "near"]
    assert clean_parts.rows(steps) == steps[:2] and clean_parts.compared(steps) == ["exact", "near"]
    assert clean_parts.compared(["normalise", "shared_lines", "exact"]) == []
