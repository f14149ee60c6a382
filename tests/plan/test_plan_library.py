"""`plan.search` and `plan.simulate` are what the commands run, of either kind of fleet, and load no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from danlu import plan
from danlu.cli import app
from danlu.errors import BadModel
from danlu.fleet.groups import shorthand
from danlu.nouns import Card, Fleet, Link
from danlu.plan import forecast, splits
from danlu.plan.presets import preset


def test_a_fleet_of_groups_gets_the_plan_of_the_command(tmp_path, capsys):
    chosen = plan.search("llama-3-8b", shorthand("8xA100-80+16xH20"), batch=64, seq=4096)
    told = tmp_path / "plan.json"
    asked = ["--batch", "64", "--seq", "4096", "--json", str(told)]
    assert app.main(["plan", "llama-3-8b", "8xA100-80+16xH20", *asked]) == 0
    capsys.readouterr()
    said = json.loads(told.read_text(encoding="utf-8"))
    assert (said["step_s"], said["kind"]) == (chosen.best.seconds, chosen.best.plan.name)
    played = plan.simulate(chosen.best.plan)
    assert [len(stages) for stages in played] == [len(each.stages) for each in chosen.best.plan.replicas]
    longest = max(stages[0][-1].stop for stages in played)
    assert longest == pytest.approx(chosen.best.plan.seconds, rel=0.1)


def test_cards_with_names_get_the_plan_of_a_run():
    cards = tuple(Card(name, "cpu", "c", {"fp32": flops}, 2**38, 5e10) for name, flops in (("a", 1e11), ("b", 5e10)))
    fleet = Fleet("f", cards, (Link("a", "b", 1e-5, 1e9),))
    ask = {"micro_batch": 1, "micro_batches": 8, "seq": 128}
    found = plan.search(preset("llama-2-7b"), fleet, **ask)
    assert found == splits.search(preset("llama-2-7b"), fleet, **ask)
    assert plan.simulate(found) == forecast.timeline(found)


def test_a_name_that_is_no_preset_is_told_the_nearest():
    with pytest.raises(BadModel, match="llama-3-8"):
        plan.search("llama-3-8bb", shorthand("8xH100"), batch=8, seq=1024)


def test_the_library_loads_no_torch_and_keeps_its_names_beside_its_parts():
    code = ("import sys; from danlu import plan; import danlu.plan.splits, danlu.plan.events; "
            "assert callable(plan.search) and callable(plan.simulate); print('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plan.nothing  # type: ignore[attr-defined]
