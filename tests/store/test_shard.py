"""Keys find their nodes by names alone; a node that leaves moves only what it held."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.store.packs import Writer
from danlu.store.shard import Nodes, nodes_of, shard_of, shards_at

names = st.sets(st.text("abcdef0123456789.", min_size=1, max_size=8), min_size=2, max_size=9)


@settings(max_examples=25, deadline=None)
@given(names, st.integers(1, 3))
def test_a_node_that_leaves_moves_only_its_own_shards(every, copies):
    nodes = sorted(every)
    left, rest = nodes[0], nodes[1:]
    for shard in range(64):
        before, after = nodes_of(shard, nodes, copies), nodes_of(shard, rest, copies)
        assert [node for node in before if node != left] == after[: len(before) - (left in before)]
        assert len(set(before)) == min(copies, len(nodes)) and nodes_of(shard, nodes[::-1], copies) == before


def test_every_node_holds_about_its_part():
    nodes = [f"node{n}" for n in range(10)]
    held = [len(shards_at(node, nodes, copies=2)) for node in nodes]
    assert sum(held) == 2 * 4096 and max(held) < 1.25 * min(held)


@pytest.fixture
def three(tmp_path):
    """Three nodes, each key at two of them."""
    where = {name: tmp_path / name for name in ("a", "b", "c")}
    truth = {b"doc %d" % n: b"value %d" % n for n in range(500)}
    for name, folder in where.items():
        with Writer(folder) as writer:
            for key, value in truth.items():
                if name in nodes_of(shard_of(key), list(where), 2):
                    writer.add(key, value)
            writer.commit({}, done=True)
    return where, truth


def test_keys_are_found_at_their_nodes_and_with_one_node_lost(three):
    where, truth = three
    nodes = Nodes(where, copies=2)
    assert nodes.get_many([*truth, b"absent"]) == [*truth.values(), None]
    assert all(nodes.get(key) == value for key, value in truth.items())
    nodes.close()
    shutil.rmtree(where["b"])
    (where["b"]).mkdir()
    (where["b"] / "manifest.json").write_text("{")
    nodes = Nodes(where, copies=2)
    assert nodes.get_many(list(truth)) == list(truth.values())
    assert all(nodes.get(key) == value for key, value in truth.items())
    nodes.close()
    alone = Nodes(where, copies=1)
    with provoke("DL-DATA-063"):
        alone.get_many(list(truth))
    alone.close()
