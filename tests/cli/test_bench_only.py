"""`danlu bench AREA --only CASE`: one case at a time, and every figure with the commit it was measured at."""

from __future__ import annotations

import argparse
import json

import pytest

from danlu.cli import bench
from danlu.errors import BadValue, UnknownPlugin


def test_a_file_keeps_its_other_cases_and_says_their_commits(tmp_path):
    path = tmp_path / "train.json"
    assert bench.earlier(path) == {}
    first = bench.joined({}, {"a": 1, "b": 2}, "aaaaaaa")
    assert first["commits"] == {} and first["commit"] == "aaaaaaa"
    path.write_text(json.dumps({**first, "seconds": 3.0}))
    second = bench.joined(bench.earlier(path), {"b": 5}, "bbbbbbb")
    assert (second["a"], second["b"], second["commit"]) == (1, 5, "bbbbbbb")
    assert second["commits"] == {"a": "aaaaaaa"}
    third = bench.joined(second, {"c": 7}, "ccccccc")
    assert third["commits"] == {"a": "aaaaaaa", "b": "bbbbbbb"}
    assert bench.joined(third, {"a": 1, "b": 2}, "ccccccc")["commits"] == {}


def test_figures_of_another_machine_are_not_written_over(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"a": 1, "machine": "another", "commit": "aaaaaaa"}))
    with pytest.raises(BadValue, match="another"):
        bench.earlier(path)


def test_the_worst_case_is_the_worst_of_all_that_were_measured():
    found = {"share_of_bound.efficiency_211_m24": 0.97, "share_of_bound.efficiency_5321_m96": 0.95,
             "share_of_bound.even_211_m24": 0.5, "forecast_error.efficiency_211_m24": -0.04}  # fmt: skip
    assert bench.load("train").worst(found) == {"share_of_bound": 0.95, "forecast_error": 0.04}
    assert bench.load("train").worst({"tokens_vs_eager": 1.1}) == {}


def test_a_case_that_is_not_there_names_those_that_are():
    with pytest.raises(UnknownPlugin, match="5321_m96"):
        bench.load("train").measure(1, "211_m25")


def test_an_area_without_cases_says_so():
    parser = argparse.ArgumentParser()
    bench.arguments(parser)
    with pytest.raises(Exception, match="measured as a whole"):
        bench.run(parser.parse_args(["serve", "--only", "x"]))
