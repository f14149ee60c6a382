"""`danlu train` from text to snapshots, as a person types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from provoke import provoke
from train_world import fleet

from danlu import families
from danlu.cli import config
from danlu.cli.app import main
from danlu.cli.train import planned
from danlu.cli.train_run import job_of, quiet_step
from danlu.fleet import text
from danlu.plan import text as plan_text
from danlu.store import checkpoint
from danlu.train import history

pytestmark = pytest.mark.procs
FLAGS = [
    "--model.layers", "3", "--model.hidden", "32", "--model.heads", "4", "--model.kv_heads", "2", "--model.ffn", "64",
    "--data.seq", "16", "--data.vocab", "300", "--plan.micro_batch", "2", "--plan.micro_batches", "4",
    "--plan.split", "even", "--train.steps", "10", "--train.save_every", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Flags of a small run: text of this checkout, three unequal cards."""
    folder = tmp_path_factory.mktemp("train")
    text.dump(fleet(0.5, 0.25, 0.25), folder / "fleet.yaml")
    source = folder / "text"
    source.mkdir()
    for path in sorted((Path(config.__file__).parents[1] / "train").glob("*.py")):
        (source / path.name).write_text(path.read_text())
    return [*FLAGS, "--data.text", f"[{source}]", "--fleet.path", str(folder / "fleet.yaml")]


@pytest.fixture(scope="module")
def drilled(words, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("drilled")
    code = main(["train", *words, "--out", str(out / "run"), "--kill", "1@8", "--json", str(out / "figures.json")])
    assert code == 0
    return out / "run", json.loads((out / "figures.json").read_text())


def test_a_drill_ends_as_the_run_without_it(drilled, words, tmp_path, capfd):
    out, figures = drilled
    assert figures["fault.card"] == "card1" and figures["fault.steps_lost"] == figures["fault.steps_repeated"] == 0
    restored, during = figures["fault.restored"], figures["fault.during"]  # on a busy machine the kill comes later
    assert restored in (6, 9) and 8 <= during <= 10 and figures["fault.steps_recomputed"] == during - 1 - restored
    assert 0 < figures["fault.recovery_s"] < 30 and figures["train.step_s"] > 0
    assert figures["train.loss_last"] < figures["train.loss_first"]
    tokens = ["--data.tokens", str(out / "tokens"), "--plan.path", str(out / "plan.json")]
    assert main(["train", *words, *tokens, "--out", str(tmp_path)]) == 0
    captured = capfd.readouterr()
    assert "emulated" in captured.out and "step 10/10" in captured.err
    assert "of its cards' own speeds (emulated)" in captured.err and " on hosts" in captured.err
    folders = [each / "checkpoints" for each in (out, tmp_path)]
    first, second = (checkpoint.read(folder, 10) for folder in folders)
    assert first.shards == second.shards  # checksums of every tensor
    assert config.load(tmp_path / "config.yaml").train.steps == 10


def test_a_run_is_not_overwritten_and_not_resumed_on_other_batches(drilled, words, capsys):
    out, _ = drilled
    plan = (out / "plan.json").read_bytes()
    assert main(["train", *words, "--out", str(out)]) == 2
    assert "DL-CFG-081" in capsys.readouterr().err and (out / "plan.json").read_bytes() == plan
    assert main(["train", *words, "--out", str(out), "--train.resume", "true"]) == 0
    assert "already at step 10" in capsys.readouterr().out
    assert main(["train", *words, "--out", str(out), "--train.resume", "true", "--train.seed", "5"]) != 0
    assert "seed" in capsys.readouterr().err


def test_a_drill_outside_the_run_is_refused_before_any_text_is_read(words, tmp_path, capsys):
    assert main(["train", *words, "--out", str(tmp_path / "run"), "--kill", "1@11"]) == 2
    assert "step 1 to 10" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_ctrl_c_leaves_whole_snapshots_and_no_process(drilled, words, tmp_path):
    tokens = ["--data.tokens", str(drilled[0] / "tokens"), "--train.steps", "100000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-m", "danlu.cli", "train", *words, *tokens], stderr=subprocess.PIPE, text=True
    ) as process:
        assert any("step" in line and "loss" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.stderr.read()
    kept = checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert (f"the snapshot of step {kept[-1]}: --train.resume" if kept else "no snapshot was kept yet") in said
    assert history.read(tmp_path / "run").state(time.time()) == "stopped"  # its last line is a moment old
    left = [path for path in (tmp_path / "run" / "checkpoints").glob("**/*") if ".part" in path.name]
    assert not left
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert not any(str(tmp_path).encode() in each for each in commands)


def test_the_traced_step_is_a_quiet_one():
    assert quiet_step(0, 100, 8) == 4 and quiet_step(8, 100, 8) == 12
    assert quiet_step(0, 100, 4) == 6 and quiet_step(0, 3, 1) == 2 and quiet_step(0, 1, 5) == 1


def test_a_shallower_model_does_not_go_on_from_a_deeper_ones_snapshot(drilled, words):
    out, _ = drilled
    text = ["--out", str(out), "--train.resume", "--train.steps", "12", "--model.layers", "2"]
    with provoke("DL-CFG-080") as caught:
        run = config.load(None, [*words, *text], environ={})
        job_of(run, planned(run))
    assert "layers.2." in caught.error.why


def test_a_quantized_folder_is_no_start(words, tmp_path, drilled):
    out, _ = drilled
    (tmp_path / "config.json").write_text(json.dumps(families_config(out) | {"danlu_quant": 1}))
    run = config.load(None, [*words, "--out", str(tmp_path / "run"), "--data.tokens", str(out / "tokens"),
                             "--model.path", str(tmp_path)], environ={})  # fmt: skip
    with provoke("DL-CFG-002"):
        job_of(run, planned(run))


def families_config(out: Path) -> dict:
    return families.config(plan_text.loads((out / "plan.json").read_text()).model)


@pytest.mark.parametrize("shares", [[3, 1], [2, 4], [4, 0]])
def test_shares_that_do_not_fit_are_refused_before_a_process_starts(shares, words, tmp_path, drilled, capsys):
    """[3, 1] cuts a pair of heads that share their keys, [2, 4] is more than four heads, [4, 0] leaves a card idle."""
    out, _ = drilled
    tree = json.loads((out / "plan.json").read_text())
    tree["stages"] = [{**tree["stages"][0], "cards": ["card0", "card1"], "stop": tree["stages"][-1]["stop"],
                       "shares": shares}]  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(tree))
    more = ["--data.tokens", str(out / "tokens"), "--plan.path", str(tmp_path / "plan.json")]
    assert main(["train", *words, *more, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "DL-CFG-020" in said and "stage 0 of copy 0, cards card0, card1" in said
    assert not (tmp_path / "run" / "job.json").exists()


def test_a_way_to_recompute_that_nobody_knows_is_refused_with_its_line(words, tmp_path, drilled, capsys):
    out, _ = drilled
    tree = json.loads((out / "plan.json").read_text())
    tree["stages"][1]["recompute"] = "selective"
    (tmp_path / "plan.json").write_text(json.dumps(tree, indent=1))
    more = ["--data.tokens", str(out / "tokens"), "--plan.path", str(tmp_path / "plan.json")]
    assert main(["train", *words, *more, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "DL-CFG-085" in said and not (tmp_path / "run").exists()
    line = int(said.partition("plan.json:")[2].partition(",")[0])
    stage = "\n".join((tmp_path / "plan.json").read_text().splitlines()[line - 1 :]).partition("}")[0]
    assert stage.lstrip().startswith("{") and "selective" in stage


def test_a_run_in_bf16_plans_trains_and_exports(words, drilled, tmp_path, capsys):
    more = ["--data.tokens", str(drilled[0] / "tokens"), "--train.dtype", "bf16"]
    assert main(["train", *words, *more, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "said.json")]) == 0
    assert "not measured in bf16" in capsys.readouterr().err
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["train.loss_last"] < said["train.loss_first"]
    assert plan_text.loads((tmp_path / "run" / "plan.json").read_text()).dtype == "bf16"
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "model"), "--dtype", "bf16"]) == 0
    assert main(["train", *words, *more, "--train.dtype", "fp8", "--out", str(tmp_path / "no")]) == 3
    assert "DL-ENV-080" in capsys.readouterr().err and not (tmp_path / "no" / "job.json").exists()
