"""Machines that were probed alone become one fleet, over which a run can be launched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from provoke import provoke
from test_fleet_text import CORE

from danlu.cli.app import main
from danlu.fleet import text
from danlu.fleet.emulate import emulate
from danlu.fleet.join import join
from danlu.nouns import Fleet, Host, Link

ONE = emulate(CORE, (0.8, 0.4), (2**30, 2**29), link=Link("", "", 1e-5, 1e9), host=Host("local", 2**33))


def test_two_machines_of_one_kind_are_told_apart(tmp_path, capsys):
    for name in "ab":
        text.dump(ONE, tmp_path / f"{name}.yaml")
    words = ["probe", "--join", f"n1={tmp_path}/a.yaml", f"n2={tmp_path}/b.yaml", "--out", str(tmp_path / "both.yaml")]
    assert main([*words, "--bandwidth", "1.25e8", "--latency", "2e-4"]) == 0
    assert "n1 - n2" in capsys.readouterr().out
    both = text.load(tmp_path / "both.yaml")
    assert [(card.name, card.host) for card in both.cards] == [
        ("n1/card0", "n1"), ("n1/card1", "n1"), ("n2/card0", "n2"), ("n2/card1", "n2")]  # fmt: skip
    assert both.hosts == (Host("n1", 2**33), Host("n2", 2**33))
    assert both.link("n1/card1", "n2/card0") == Link("n1", "n2", 2e-4, 1.25e8)
    assert both.link("n2/card0", "n2/card1") == Link("n2/card0", "n2/card1", 1e-5, 1e9)
    assert [replace(card, name=card.name[3:], host="local") for card in both.cards] == [*ONE.cards, *ONE.cards]
    assert main(words) == 2 and "iperf3" in capsys.readouterr().err  # a link nobody knows is not guessed


@pytest.mark.parametrize("word", ["n1=again.yaml", "n2", "=b.yaml", "n2="])
def test_a_word_that_names_no_host_and_file_is_refused(word, tmp_path, capsys):
    text.dump(ONE, tmp_path / "a.yaml")
    assert main(["probe", "--join", f"n1={tmp_path}/a.yaml", word, "--bandwidth", "1e9"]) == 2
    assert "DL-CFG-002" in capsys.readouterr().err


def test_a_file_of_two_hosts_and_a_link_of_no_network_are_refused():
    apart = Fleet("two", (CORE, replace(CORE, name="other", host="far")))
    for machines, bandwidth in (({"n1": apart}, 1e9), ({"n1": ONE}, 0.0)):
        with provoke("DL-CFG-010"):
            join(machines, latency_s=0.0, bandwidth=bandwidth)
