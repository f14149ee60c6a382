"""A text that was read has a line for every key; one that was not says why, and never ends the process."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from danlu import lines
from danlu.errors import UnreadablePlan
from danlu.plan import text as plan_text

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3)
                     | st.lists(inner, max_size=3), max_leaves=12)  # fmt: skip


def paths(tree: object, keys: tuple[int | str, ...] = ()):
    """Every path of keys of a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in pairs:
        yield (*keys, key)
        yield from paths(inner, (*keys, key))


@given(st.text(alphabet="ab:,-{}[]&*!#|>?'\"% \n\t0", max_size=40))
@example("{b:,}")  # read by one parser of PyYAML and refused by the other
def test_every_key_of_a_text_that_is_read_has_its_line(text):
    try:
        tree = lines.read(text)
    except lines.NotYaml as error:
        assert str(error) and error.at("f").startswith("f")
        return
    for keys in paths(tree):
        if all(isinstance(key, (str, int)) for key in keys):
            assert 1 <= int(lines.place(text, "f", keys).removeprefix("f:")) <= text.count("\n") + 1


@given(TREES)
def test_the_line_of_a_key_holds_the_key(tree):
    text = yaml.safe_dump(tree)
    assert lines.read(text) == tree
    for keys in paths(tree):
        if isinstance(keys[-1], str) and keys[-1].isalpha() and keys[-1].isascii():
            line = lines.line_of(text, keys)
            assert line and keys[-1] in text.splitlines()[line - 1]


@given(TREES)
def test_any_json_has_places(tree):
    text = json.dumps(tree, indent=1)
    for keys in paths(tree):
        assert lines.place(text, "f", keys).startswith("f:")


NO_YAML = [
    "[" * 100_000,
    "{a: " * 100_000,
    "[? " * 50_000,
    "a: 2026-99-99",
    "a: 1\na: 2",
    "\0",
    "{[a]: 1}",
    "? {a: 1}\n: 2",
]


@pytest.mark.parametrize("text", NO_YAML)
def test_what_is_no_yaml_is_told(text):
    with pytest.raises(lines.NotYaml) as caught:
        lines.read(text)
    assert str(caught.value)


def test_a_deep_plan_is_no_plan():
    with pytest.raises(UnreadablePlan):
        plan_text.loads("[" * 100_000)
