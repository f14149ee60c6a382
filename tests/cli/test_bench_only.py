"""`danlu bench AREA --only CASE`: one case at a time, and figures that never mix commits."""

from __future__ import annotations

import argparse
import json

import pytest

from danlu.cli import bench
from danlu.errors import UnknownPlugin


def test_a_file_keeps_its_other_cases_of_this_commit_only(tmp_path):
    path = tmp_path / "train.json"
    assert bench.earlier(path) == {}
    here = {"machine": bench.machine(), "commit": bench.commit()}
    path.write_text(json.dumps({"efficiency_211_m24": 0.9, **here}))
    assert bench.earlier(path)["efficiency_211_m24"] == 0.9
    path.write_text(json.dumps({"efficiency_211_m24": 0.9, **here, "commit": "0123456"}))
    assert bench.earlier(path) == {}


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
