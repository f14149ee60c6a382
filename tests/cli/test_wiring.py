"""From run.yaml to model, fleet and plan, and the commands that show them."""

from __future__ import annotations

import argparse
import json

import pytest
from provoke import provoke

from danlu.cli import config, plan, wiring
from danlu.cli.app import main
from danlu.fleet import text
from danlu.nouns import Card, Fleet, Host, Link, Rate
from danlu.plan import text as plan_text

CORE = Card("cpu:0", "cpu", "test", {"fp32": 5e10}, 2**33, 1e10, cores=1.0, rates=(Rate("call", "fp32", (), 1e5),))


@pytest.fixture
def machine(tmp_path):
    """OUT with a machine of two cores measured before, so that nothing is measured now."""
    cores = (CORE, Card("cpu:1", *(getattr(CORE, name) for name in CORE.__slots__[1:])))
    fleet = Fleet("box", cores, (Link("cpu:0", "cpu:1", 1e-5, 2e9),), (Host("local", 2**34),))
    text.dump(fleet, tmp_path / "fleet.yaml")
    return tmp_path


def words(out, *more):
    return ["--out", str(out), "--fleet.emulate", "[4, 2, 2]", "--fleet.mem_gib", "[1, 0.5, 0.5]", *more]


def test_a_run_becomes_model_fleet_and_plan(machine):
    run = config.load(None, words(machine, "--data.vocab", "1000", "--model.tied", "true"), {})
    spec = wiring.spec_of(run)
    assert (spec.layers, spec.hidden, spec.vocab, spec.tied) == (6, 192, 1000, True)
    fleet = wiring.fleet_of(run, print)
    assert [round(card.cores, 3) for card in fleet.cards] == [0.8, 0.4, 0.4]
    assert [card.mem_bytes for card in fleet.cards] == [2**30, 2**29, 2**29]
    assert all(card.emulated for card in fleet.cards) and fleet.link("card0", "card2").bandwidth == 2e9
    best = wiring.plan_of(run, spec, fleet)
    even = wiring.plan_of(config.load(None, words(machine, "--plan.split", "even"), {}), spec, fleet)
    assert best.forecast.step_s < even.forecast.step_s
    assert even.layers_per_stage == (2, 2, 2)


def test_a_run_says_how_it_wants_to_be_planned(machine):
    def planned(*more):
        run = config.load(None, words(machine, "--data.vocab", "1000", *more), {})
        return wiring.plan_of(run, wiring.spec_of(run), wiring.fleet_of(run, print))

    best, copied = planned(), planned("--plan.copies", "3")
    assert copied.forecast.step_s <= best.forecast.step_s
    assert sum(each.micro_batches for each in copied.pipelines) == best.micro_batches
    assert planned("--plan.schedule", "1f1b").schedule.startswith("1f1b")
    even = planned("--plan.split", "even", "--plan.schedule", "zero-bubble")
    assert even.schedule == "zb" and even.layers_per_stage == (2, 2, 2)


def test_a_pipeline_longer_than_its_micro_batches_is_refused_with_the_line(machine):
    path = machine / "run.yaml"
    asked = "danlu: 1\nout: {0}\nfleet:\n  emulate: [4, 2, 2]\nplan:\n  split: {1}\n  micro_batches: {2}\n"
    path.write_text(asked.format(machine, "even", 2))
    with provoke("DL-MEM-004") as caught:
        plan.run(arguments(path))
    assert caught.error.where == f"{path}:7" and "3 stages" in caught.error.what
    path.write_text(asked.format(machine, "even", 3))
    assert plan.run(arguments(path)) == 0
    told = json.loads((machine / "plan.json").read_text())
    own = machine / "own.json"
    own.write_text(json.dumps(told | {"micro_batches": 2}, indent=1))
    path.write_text(f"out: {machine}\nplan:\n  path: {own}\n")
    with provoke("DL-MEM-004") as caught:
        plan.run(arguments(path))
    assert '"micro_batches": 2' in line_of(caught.error, own)
    told["stages"][1] |= {"start": 1}
    own.write_text(json.dumps(told, indent=1))
    with provoke("DL-DATA-010") as caught:
        plan.run(arguments(path))
    assert "{" in line_of(caught.error, own) and "stage 1" in caught.error.why


@pytest.mark.parametrize(("changed", "code", "line", "why"), [
    ({"schedule": "gpipe"}, "DL-CFG-011", '"schedule": "gpipe"', "known are"),
    ({"schedule": "zb", "orders": ["FB" * 4] * 2}, "DL-CFG-011", '"orders": [', "2 orders for 3 stages"),
    ({"schedule": "zb", "orders": ["FB" * 4, "FFFFBBBB", "FB" * 4]}, "DL-CFG-011", '"orders": [', "stage 1 before"),
    ({"context": 3}, "DL-CFG-021", '"context": 3', "have [3] of"),
])  # fmt: skip
def test_a_plan_file_that_cannot_run_is_refused_with_the_line(changed, code, line, why, machine):
    """Orders that wait for each other, too, which would hang for ever."""
    path, own = machine / "run.yaml", machine / "own.json"
    path.write_text(f"out: {machine}\nfleet: {{emulate: [4, 2, 2]}}\nplan: {{split: even, micro_batches: 4}}\n")
    assert plan.run(arguments(path)) == 0
    own.write_text(json.dumps(json.loads((machine / "plan.json").read_text()) | changed, indent=1))
    path.write_text(f"out: {machine}\nplan: {{path: {own}}}\n")
    with provoke(code) as caught:
        plan.run(arguments(path))
    error = caught.error.at(caught.error.where.partition(",")[0])
    assert line in line_of(error, own) and why in caught.error.why


def line_of(error, path):
    """The line of a file that an error names."""
    name, line = error.where.rsplit(":", 1)
    assert name == str(path)
    return path.read_text().splitlines()[int(line) - 1]


def test_a_key_of_the_command_line_is_not_told_as_one_of_the_file(machine):
    path = machine / "run.yaml"
    path.write_text(f"out: {machine}\nfleet: {{emulate: [4, 2]}}\nplan:\n  split: even\n")
    with provoke("DL-CFG-002") as caught:
        plan.run(argparse.Namespace(**{**vars(arguments(path)), "overrides": ["--plan.tensor", "2"]}))
    assert caught.error.where == "command line: --plan.tensor"
    path.write_text(f"{path.read_text()}  tensor: 2\n")
    with provoke("DL-CFG-002") as caught:
        plan.run(arguments(path))
    assert "tensor: 2" in line_of(caught.error, path)


def test_heads_that_do_not_divide_are_told_with_the_line(machine):
    path = machine / "run.yaml"
    path.write_text(f"out: {machine}\nfleet: {{emulate: [4, 2]}}\nmodel:\n  layers: 2\n  heads: 7\n")
    with provoke("DL-CFG-002") as caught:
        plan.run(arguments(path))
    assert "heads: 7" in line_of(caught.error, path)


def arguments(path):
    """What `danlu plan PATH` says."""
    parser = argparse.ArgumentParser()
    plan.arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args([str(path)])), overrides=[])


def test_cards_are_emulated_on_a_machine_that_is_given_by_file(machine, tmp_path):
    other = ["--out", str(tmp_path / "other"), "--fleet.path", str(machine / "fleet.yaml"), "--fleet.emulate", "[2, 1]"]
    fleet = wiring.fleet_of(config.load(None, other), print)
    assert [card.cores for card in fleet.cards] == [0.8, 0.4] and fleet.cards[0].emulated


def test_nothing_is_emulated_on_a_fleet_without_a_cpu(tmp_path):
    card = Card("gpu0", "cuda", "test", {"bf16": 1e14}, 2**36, 1e12)
    text.dump(Fleet("far", (card,), (), (Host("local", 2**36),)), tmp_path / "far.yaml")
    run = config.load(None, ["--fleet.path", str(tmp_path / "far.yaml"), "--fleet.emulate", "[2, 1]"])
    with provoke("DL-CFG-002") as caught:
        wiring.fleet_of(run, print)
    assert "cuda" in caught.error.why


def test_a_token_file_sets_the_vocabulary(machine):
    (machine / "tokens").mkdir()
    (machine / "tokens" / "manifest.json").write_text(json.dumps({"tokens": 1, "vocab": 777}))
    assert wiring.spec_of(config.load(None, words(machine), {})).vocab == 777


def test_a_broken_token_file_is_refused(machine):
    (machine / "tokens").mkdir()
    (machine / "tokens" / "manifest.json").write_text("{}")
    with provoke("DL-CFG-003"):
        wiring.spec_of(config.load(None, words(machine), {}))


def test_heads_that_do_not_divide_are_refused(machine):
    with provoke("DL-CFG-002"):
        wiring.spec_of(config.load(None, words(machine, "--model.kv_heads", "4"), {}))


def test_the_plan_command_writes_the_plan_it_shows(machine, capsys):
    svg, figures = machine / "step.svg", machine / "figures.json"
    assert main(["plan", *words(machine), "--svg", str(svg), "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    kept = plan_text.loads((machine / "plan.json").read_text())
    found = json.loads(figures.read_text())
    assert "*emulated*" in shown and "even split" in shown
    assert found["plan.layers_per_card"] == list(kept.layers_per_stage)
    assert found["plan.forecast_step_s"] == kept.forecast.step_s < found["plan.even_forecast_step_s"]
    assert svg.read_text().startswith("<svg")
    again = wiring.plan_of(config.load(None, ["--plan.path", str(machine / "plan.json")], {}), kept.model, kept.fleet)
    assert again == kept
    elsewhere = config.load(None, ["--plan.path", str(machine / "plan.json"), "--out", str(machine / "new")], {})
    assert wiring.fleet_of(elsewhere, print) == kept.fleet and not (machine / "new").exists()  # nothing is measured
    assert plan.figures(again, again)["plan.forecast_step_s"] == kept.forecast.step_s


def test_a_plan_that_cannot_fit_exits_4(machine, capsys):
    assert main(["plan", *words(machine)[:4], "--fleet.mem_gib", "[0.001, 0.001, 0.001]"]) == 4
    assert "DL-MEM-001" in capsys.readouterr().err


def test_a_bad_fleet_file_exits_2(machine, capsys):
    (machine / "mine.yaml").write_text("fleet: 1\ncards:\n  - {name: a}\n")
    assert main(["plan", "--out", str(machine), "--fleet.path", str(machine / "mine.yaml")]) == 2
    assert "mine.yaml:3" in capsys.readouterr().err


def test_emulated_cards_without_memories_for_each_name_the_line(machine):
    path = machine / "run.yaml"
    (machine / "plain.yaml").write_text(
        "fleet: 1\ncards:\n  - {name: a, vendor: cpu, flops: {fp32: 5.0e10}, mem_bytes: 4GiB, mem_bw: 1.0e10}\n"
    )
    fleet = f"  path: {machine}/plain.yaml\n  emulate: [2, 1]\n"
    path.write_text(f"out: {machine}\nfleet:\n{fleet}  mem_gib: [1]\n")
    with provoke("DL-CFG-010") as caught:
        plan.run(arguments(path))
    assert "mem_gib" in line_of(caught.error, path)
    path.write_text(f"out: {machine}\nfleet:\n{fleet}")
    assert plan.run(arguments(path)) == 0
