"""The catalogue of cards and the shorthand of fleets."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.fleet import catalogue, groups

names = st.sampled_from(sorted(catalogue.entries()))


def test_it_has_the_cards_people_mix():
    assert len(catalogue.entries()) >= 25
    assert len({each.vendor for each in catalogue.entries().values()}) >= 10


def test_every_figure_says_how_it_was_counted_and_by_whom():
    for each in catalogue.entries().values():
        for thing, found in each.figures.items():
            for figure in found:
                right = {"bf16": ("dense", "sparse"), "link": ("one-way", "both")}.get(thing, ("-",))
                assert figure.counted in right and figure.source, (each.name, thing)
                assert figure.value > 0 and figure.kind in ("claimed", "measured"), (each.name, thing)


def test_the_file_has_only_what_its_reader_knows():
    tree = yaml.safe_load(files("danlu.fleet").joinpath("catalogue.yaml").read_text(encoding="utf-8"))
    assert tree["catalogue"] == 1 and set(tree) == {"catalogue", "sources", "cards"}
    for name, card in tree["cards"].items():
        assert set(card) <= {"vendor", "names", "watts", "note", "fp8", "bf16_runs", *catalogue.NAMES}, name


def test_no_two_cards_answer_to_one_name():
    said = [name.casefold() for each in catalogue.entries().values() for name in (each.name, *each.names)]
    assert len(said) == len(set(said))


def test_sparse_and_two_way_figures_are_halved():
    a100 = catalogue.entry("a100_80")
    assert a100.span("bf16") == catalogue.Span(312e12, 312e12, 312e12)
    assert a100.span("link").value == 300e9 and not a100.warnings


def test_sources_that_disagree_become_an_interval_and_a_warning():
    card = catalogue.entry("C500")
    span = card.span("bf16")
    assert (span.low, span.high, span.wide) == (128e12, 240e12, True) and span.low < span.value < span.high
    assert any("128 to 240" in said for said in card.warnings)


def test_what_was_measured_wins_over_what_is_claimed():
    assert catalogue.entry("BI-V150").span("bandwidth").value == 590e9


@given(names, st.sampled_from(sorted(catalogue.NAMES)))
def test_the_value_lies_inside_its_interval(name, thing):
    card = catalogue.entry(name)
    if card.figures[thing]:
        span = card.span(thing)
        assert span.low <= span.value * (1 + 1e-12) and span.value <= span.high * (1 + 1e-12)


@given(st.lists(st.tuples(st.integers(1, 10**6), names), min_size=1, max_size=4))
def test_shorthand_says_what_was_written(parts):
    found = catalogue.shorthand("+".join(f"{count}x{name}" for count, name in parts))
    assert [(count, card.name) for count, card in found] == parts


def test_an_unknown_card_names_its_neighbours():
    with provoke("DL-CFG-012") as caught:
        catalogue.shorthand("8xA100-8O")
    assert "A100-80" in caught.error.why and "mem_bytes" in caught.error.fix


def test_a_figure_nobody_published_is_not_invented():
    with provoke("DL-CFG-012") as caught:
        catalogue.entry("S5000").span("bf16")
    file = caught.error.fix.rpartition("fleet file: ")[2]  # pasted as it stands, it is a fleet
    found = groups.loads(file).groups[0]
    assert (found.card, found.mem_bytes) == ("MTT-S5000", 80 * 10**9)


@pytest.mark.parametrize("text", ["", "8", "0xH20", "-4xH20", "8xH20+", "xH20", "H20x8x", "H20", "8.5xH20", "1e6xH20",
                                  "99999999999xH20", f"{'9' * 5000}xH20"])  # fmt: skip
def test_a_shorthand_that_is_none(text):
    with provoke("DL-CFG-010") as caught:
        catalogue.shorthand(text)
    fix = catalogue.shorthand(caught.error.fix)  # works when typed, and is about the card that was meant
    assert fix == catalogue.shorthand("1xH20") or text in ("", "8", "H20x8x", "8xH20+")


def test_a_capital_x_counts_too():
    assert catalogue.shorthand("8XH20") == catalogue.shorthand("8xH20")
