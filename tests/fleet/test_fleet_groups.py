"""Large fleets in groups: one word, YAML, or measured cards counted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.errors import DanluError
from danlu.fleet import groups
from danlu.nouns import Card, Fleet, Link

YAML = """
fleet: 1
name: two halls
groups:
  - {card: A100-80, count: 128, site: north}
  - {card: mine, count: 16, per_host: 4, flops: 1.5e14, mem_bytes: 96GB, mem_bw: 4.0e12, link: 4.5e11,
     network: 5.0e10, oversubscription: 2}
between_sites: 1.25e9
"""


MEASURED = """
fleet: 1
cards:
  - {name: a, vendor: cuda, model: V100, flops: {fp16: 9e13}, mem_bytes: 32GB, mem_bw: 8e11, host: one}
  - {name: b, vendor: cuda, model: V100, flops: {fp16: 9e13}, mem_bytes: 32GB, mem_bw: 8e11, host: two}
links:
  - {a: one, b: two, latency_s: 1e-5, bandwidth: 1e10}
"""
PIECES = (
    "0", "-1", "1e400", "nan", "-.inf", "null", "[]", "{}", "'", '"', ": ", "- ", "\n", "  ", "\t", "true", "&a", "*a",
    "!!python/object:x", "\x00", "99999999999999999999", "1_000", "<<", "A100-80", "2026-01-01",
)  # fmt: skip


def test_a_word_takes_its_figures_from_the_catalogue():
    fleet = groups.shorthand("128xA100+640xH20")
    assert [(g.card, g.count) for g in fleet.groups] == [("A100-80", 128), ("H20", 640)]
    assert fleet.cards == 768
    assert fleet.groups[0].flops == pytest.approx(312e12) and fleet.groups[1].mem_bytes == 96_000_000_000


def test_yaml_says_what_the_catalogue_does_not_know():
    fleet = groups.loads(YAML)
    north, mine = fleet.groups
    assert (north.flops, north.site) == (312e12, "north")
    assert (mine.card, mine.per_host, mine.network, mine.mem_bytes) == ("mine", 4, 2.5e10, 96_000_000_000)


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "said"),
    [
        (YAML, "96GB", "96", 6, "9.6e+10 may be meant"),
        (YAML, "     network: 5.0e10", "     network: 50", 7, "5e+10 may be meant"),
        (MEASURED, "fp16: 9e13", "fp16: 90", 4, "9e+13 may be meant"),
        (MEASURED, "mem_bw: 8e11, host: two", "mem_bw: 800, host: two", 5, "8e+11 may be meant"),
        (MEASURED.partition("links:")[0], "name: b", "name: c", 5, "no link leads to two"),
    ],
)
def test_a_wrong_unit_and_a_host_apart_are_told_with_their_line(text, old, new, line, said):
    assert old in text
    with provoke("DL-CFG-010") as caught:
        groups.loads(text.replace(old, new), "f.yaml")
    assert caught.error.where == f"f.yaml:{line}" and said in caught.error.what


@pytest.mark.parametrize(
    "change", [("count: 128", "count: 0"), ("site: north", "sight: north"), ("flops: 1.5e14", "flops: -1")]
)
def test_a_group_that_cannot_be_meant_names_its_line(change):
    with provoke("DL-CFG-010") as caught:
        groups.loads(YAML.replace(*change))
    assert caught.error.where in ("fleet:5", "fleet:6")


def test_an_unknown_card_is_to_be_declared():
    with provoke("DL-CFG-012") as caught:
        groups.loads(YAML.replace("flops: 1.5e14, ", ""))
    assert caught.error.where == "fleet:6"


def test_a_hosts_memory_needs_the_link_to_it():
    both = groups.loads(YAML.replace("link: 4.5e11", "link: 4.5e11, host_link: 2.5e10, host_mem_bytes: 200GB"))
    assert (both.groups[1].host_link, both.groups[1].host_mem_bytes) == (2.5e10, 200_000_000_000)
    with provoke("DL-CFG-010") as caught:
        groups.loads(YAML.replace("link: 4.5e11", "link: 4.5e11, host_link: 2.5e10"))
    assert "go together" in caught.error.what and caught.error.where == "fleet:6"


def test_a_card_multiplies_8_bits_where_its_maker_or_the_file_says_so():
    assert [group.fp8 for group in groups.shorthand("8xH100+8xA100-80").groups] == [True, False]
    for said, fp8 in (("true", True), ("false", False)):
        words = f"fleet: 1\ngroups:\n  - {{card: H100, count: 8, fp8: {said}}}\n"
        assert groups.loads(words).groups[0].fp8 is fp8


@pytest.mark.parametrize("change", ["flops: 150", "flops: 1.5e18", "mem_bytes: 96", "network: 200"])
def test_a_figure_in_another_unit_is_refused_with_its_line(change):
    name = change.partition(":")[0]
    with provoke("DL-CFG-010") as caught:
        groups.loads(re.sub(rf"\b{name}: [^,]+", change, YAML))
    assert "no card has" in caught.error.what
    assert caught.error.where == ("fleet:7" if name == "network" else "fleet:6")


def test_hosts_that_no_link_joins_name_the_line_of_the_links():
    words = MEASURED.replace("bandwidth: 1e10", "bandwidth: 1e10}\n  - {a: two, b: two, latency_s: 0, bandwidth: 1")
    assert groups.loads(words).cards == 2
    with provoke("DL-CFG-010") as caught:
        groups.loads(words.replace("b: two, latency_s: 1e-5", "b: one, latency_s: 1e-5"))
    assert caught.error.where == "fleet:6" and "two" in caught.error.what


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([YAML, MEASURED]), st.integers(1, 4))
def test_no_damaged_text_ends_in_anything_but_a_fleet_or_an_error_of_ours(rng, words, times):
    for _ in range(times):
        at = rng.randrange(len(words) + 1)
        put = rng.choice(["", *PIECES, chr(rng.randrange(1, 0x300)), words[rng.randrange(len(words) + 1) :][:30]])
        words = words[:at] + put + words[at + rng.randrange(12) :]
    try:
        assert groups.loads(words).cards >= 1
    except DanluError as error:
        assert error.what and error.why and error.fix and error.where.startswith("fleet")


def test_measured_cards_that_are_alike_are_counted():
    def card(name: str, host: str, model: str = "V100") -> Card:
        return Card(name, "cuda", model, {"fp16": 9e13}, 2**35, 8e11, host)

    cards = (card("a", "one"), card("b", "one"), card("c", "two"), card("d", "two"), card("e", "three", "P100"))
    links = (Link("a", "b", 1e-5, 3e10), Link("c", "d", 1e-5, 2e10), Link("one", "two", 1e-5, 5e9),
             Link("two", "three", 1e-5, 5e9))  # fmt: skip
    old, single = groups.grouped(Fleet("f", cards, links)).groups
    assert (old.count, old.per_host, old.link, old.network) == (4, 2, 2e10, 5e9)
    assert (single.card, single.count, single.per_host) == ("P100", 1, 1)


@pytest.mark.parametrize("wrong", [
    "network: 0", "netwrk: 2e10", "mem_bytes: 64 parsecs", "mem_bw: 900", "count: -3", "per_host: 0", "flops: -1e14",
    "oversubscripton: 2", "watts: many",
])  # fmt: skip
def test_a_wrong_line_is_right_when_the_fix_stands_in_its_place(wrong):
    lines = ["fleet: 1", "groups:", "  - card: H20", "    count: 8", f"    {wrong}"]
    if wrong.startswith("count"):
        del lines[3]
    with provoke("DL-CFG-010") as caught:
        groups.loads("\n".join(lines), "mine.yaml")
    at = int(re.search(r"mine.yaml:(\d+)", caught.error.where)[1])
    fix = re.match(r"write `(.+)` ", caught.error.fix)
    assert lines[at - 1].strip() == wrong and fix is not None
    lines[at - 1] = f"    {fix[1]}"
    assert groups.loads("\n".join(lines)).groups[0].card == "H20"


def test_a_file_without_its_version_says_the_line_to_add():
    with provoke("DL-CFG-010") as caught:
        groups.loads("groups: [{card: H20, count: 8}]")
    assert "fleet is missing" in caught.error.what and "`fleet: 1`" in caught.error.fix


def test_an_unknown_card_of_a_group_can_be_said_there():
    with provoke("DL-CFG-012") as caught:
        groups.loads("fleet: 1\ngroups:\n  - {card: Foo, count: 8}")
    said = re.search(r"\{card: .+\}", caught.error.fix)
    assert said and groups.loads(f"fleet: 1\ngroups:\n  - {said[0]}").groups[0].count == 8


def test_two_sites_without_a_line_are_refused_with_the_line_to_add():
    text = "fleet: 1\ngroups:\n  - {card: H20, count: 8, site: a}\n  - {card: H20, count: 8, site: b}\n"
    with provoke("DL-CFG-010") as caught:
        groups.loads(text, "mine.yaml")
    assert caught.error.where == "mine.yaml:4" and "a and b" in caught.error.what
    assert groups.loads(text + "between_sites: 1.25e9").line("a", "b") == 1.25e9
    link = re.search(r"\{a: .+\}", caught.error.fix)
    assert link and groups.loads(text + f"links: [{link[0]}]").line("a", "b") == 1.25e9


def test_no_cards_of_a_type_are_one_card_in_the_fix():
    with provoke("DL-CFG-010") as caught:
        groups.shorthand("0xA100-80")
    assert groups.shorthand(caught.error.fix).cards == 1
