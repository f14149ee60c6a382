"""Fleet YAML reads back equal, and a bad one is told file and line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.fleet import text
from danlu.fleet.emulate import emulate, shares
from danlu.nouns import Card, Fleet, Host, Link, Rate

CORE = Card(
    "cpu", "cpu", "EPYC: 9", {"fp32": 6.0e10}, 2**34, 1.2e10, cores=1, rates=(Rate("matmul", "fp32", (8, 16, 32), 5e9),)
)
positive = st.floats(1e-3, 1e15)


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), positive, st.integers(1, 2**45)),
        min_size=1,
        max_size=4,
        unique_by=lambda c: c[0],
    ),
    positive,
)
def test_a_fleet_reads_back_equal(cards, per_s):
    made = tuple(replace(CORE, name=name, flops={"bf16": rate}, mem_bytes=size) for name, rate, size in cards)
    made = (replace(made[0], rates=(Rate("call", "fp32", (), per_s),)), *made[1:])
    fleet = Fleet("yes", made, (Link(made[0].name, made[-1].name, per_s, per_s),), (Host("local", 5, "x: y"),))
    assert text.loads(text.dumps(fleet)) == fleet


def test_a_dumped_file_loads(tmp_path):
    fleet = emulate(CORE, (0.8, 0.4, 0.4), (2**30, 2**29, 2**29), link=Link("", "", 1e-4, 1e9))
    text.dump(fleet, tmp_path / "fleet.yaml")
    assert text.load(tmp_path / "fleet.yaml") == fleet
    assert fleet.cards[1].flops["fp32"] == pytest.approx(2.4e10)
    assert fleet.link("card0", "card2") == Link("card0", "card2", 1e-4, 1e9)


GOOD = """fleet: 1
cards:
  - {name: a, vendor: cuda, model: x, flops: {fp16: 9.0e+13}, mem_bytes: 32GiB, mem_bw: 8.1e+11}
  - {name: b, vendor: cpu, model: x, flops: {fp16: 9.0e+13}, mem_bytes: 32GiB, mem_bw: 8.1e+11}
links:
  - {a: a, b: b, latency_s: 1.0e-5, bandwidth: 1.0e+10}
"""


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("bandwidth: 1.0e+10", "bandwidth: 0", "f.yaml:6"),
        ("b: b", "b: c", "f.yaml:6"),
        ("latency_s: 1.0e-5", "latency_s: -1", "f.yaml:6"),
        ("name: b", "name: a", "f.yaml:4"),
        ("vendor: cpu", "vendor: emulated", "f.yaml:4"),
        (
            "{name: a, vendor: cuda, model: x, flops: {fp16: 9.0e+13}",
            "{name: a, vendor: cuda, flops: {fp16: -9.0e+13}",
            "f.yaml:3",
        ),
        (
            "{name: a, vendor: cuda, model: x, flops: {fp16: 9.0e+13}",
            "{name: a, vendor: cuda, flops: {fp61: 9.0e+13}",
            "f.yaml:3",
        ),
        ("32GiB, mem_bw: 8.1e+11}\n  - {name: b", ".nan, mem_bw: 8.1e+11}\n  - {name: b", "f.yaml:3"),
        ("vendor: cpu", "vendor: cpu, colour: red", "f.yaml:4"),
        ("fleet: 1", "fleet: 2", "f.yaml:1"),
        ("fleet: 1", "fleet: [", "f.yaml"),
        ("fleet: 1", "", "f.yaml:2"),
        ("name: b", 'name: "b\\t"', "f.yaml:4"),
        ("vendor: cpu", "vendor: cpu, rates: [[reference, fp32, [], 1.0e+9]]", "f.yaml:4"),
    ],
)
def test_a_bad_fleet_is_told_its_line(tmp_path, old, new, place):
    path = tmp_path / "f.yaml"
    path.write_text(GOOD)
    assert text.load(path).card("a").mem_bytes == 32 * 2**30
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with provoke("DL-CFG-010") as caught:
        text.load(path)
    assert place in str(caught.error)


def test_a_missing_fleet_names_the_command_that_makes_one(tmp_path):
    with provoke("DL-CFG-010") as caught:
        text.load(tmp_path / "none.yaml")
    assert "danlu probe" in caught.error.fix


@pytest.mark.parametrize(
    ("speeds", "sizes"), [((), ()), ((0.5,), (1, 2)), ((0.0,), (1,)), ((1.5,), (1,)), ((0.5,), (0,))]
)
def test_an_impossible_emulated_card_is_refused(speeds, sizes):
    with provoke("DL-CFG-010"):
        emulate(CORE, speeds, sizes)


def test_speeds_sum_to_the_share_of_the_cores():
    assert shares((4, 2, 2), 2) == pytest.approx((0.8, 0.4, 0.4))
    assert shares((1,), 8) == pytest.approx((0.8,))


def test_like_cards_share_their_rates_in_the_text():
    cards = tuple(replace(CORE, name=f"cpu:{i}") for i in range(9))
    other = replace(CORE, name="other", rates=(Rate("call", "fp32", (), 1.0),))
    fleet = Fleet("many", (*cards, other, replace(other, name="bare", rates=())))
    told = text.dumps(fleet)
    assert text.loads(told) == fleet
    assert told.count("matmul") == 1
