"""`danlu export`: from a run's snapshot to a folder that loads with the same weights."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import export_world
import pytest
import torch
from export_world import export_zeros
from provoke import provoke
from test_tokens import byte_level

from danlu.cli.app import main
from danlu.cli.export import export_run
from danlu.events import fallbacks
from danlu.model.load import load
from danlu.model.net import Decoder, init
from danlu.nouns import Card, Fleet, ModelSpec, Plan, Stage
from danlu.plan import text
from danlu.store import checkpoint
from danlu.train import job
from danlu.train.job import TrainJob

torch.set_num_threads(1)

SPEC = ModelSpec("qwen2", 2, 16, 2, 1, 8, 24, 400, 64, tied=True, qkv_bias=True)
CARDS = tuple(Card(name, "emulated", "slice", {"fp32": 1e9}, 2**30, 1e9) for name in ("a", "b"))


@pytest.fixture
def run(tmp_path):
    """A run of two stages with snapshots of steps 3 and 5, as training leaves it."""
    folder = tmp_path / "run"
    (folder / "tokens").mkdir(parents=True)
    byte_level(folder / "tokens")
    stages = (Stage(("a",), 0, 3), Stage(("b",), 3, len(SPEC.units)))
    (folder / "plan.json").write_text(text.dumps(Plan(SPEC, Fleet("f", CARDS), stages, "1f1b", 2, 1, 8)))
    for step in (3, 5):
        shards = []
        for rank, stage in enumerate(stages):
            decoder = Decoder(SPEC, stage.start, stage.stop)
            init(decoder, step)
            tensors = {name: p.detach().numpy() for name, p in decoder.named_parameters() if name != "head.weight"}
            moments = {f"{name}.m": array for name, array in tensors.items()}
            shards.append(checkpoint.save_shard(folder / "checkpoints", step, rank, {**tensors, **moments}))
        checkpoint.commit(folder / "checkpoints", step, shards)
    return folder


def holds(folder, step: int, dtype: torch.dtype = torch.float32) -> bool:
    expected = Decoder(SPEC)
    init(expected, step)
    found = load(folder).state_dict()
    return all(torch.equal(found[name], p.to(dtype).float()) for name, p in expected.state_dict().items())


def test_the_newest_snapshot_becomes_a_folder(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "out"), "--json", str(tmp_path / "done.json")]) == 0
    assert holds(tmp_path / "out", 5) and (tmp_path / "out" / "tokenizer.json").exists()
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["export.step"] == 5 and done["export.params"] == SPEC.params
    assert "from step 5" in capsys.readouterr().out


def test_a_named_snapshot_and_bf16(run, tmp_path):
    export_run(run / "checkpoints" / "step-000000003", tmp_path / "out", dtype="bf16")
    assert holds(tmp_path / "out", 3, torch.bfloat16)


def test_a_damaged_newest_snapshot_is_passed_over(run, tmp_path):
    shard = run / "checkpoints" / "step-000000005" / "rank-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    assert export_run(run, tmp_path / "out")["export.step"] == 3


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with provoke("DL-DATA-060"):
        export_run(tmp_path, tmp_path / "out")
    (run / "plan.json").unlink()
    with provoke("DL-DATA-010"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_tokenizer_says_so(run, tmp_path):
    (run / "tokens" / "tokenizer.json").unlink()
    before = fallbacks["export.tokenizer"]
    export_run(run, tmp_path / "out")
    assert fallbacks["export.tokenizer"] == before + 1


def test_the_tokenizer_is_found_where_the_tokens_were(run, tmp_path):
    (run / "tokens").rename(tmp_path / "elsewhere")
    plan = text.loads((run / "plan.json").read_text())
    told = TrainJob(plan, run, tmp_path / "elsewhere", 5, 1e-3, 0, 0.0, 1.0, 0, 1, "key", 1)
    (run / "job.json").write_text(job.dumps(told))
    export_run(run, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()


def child(what: str, out) -> subprocess.Popen[bytes]:
    code = f"import pathlib, export_world; export_world.{what}(pathlib.Path({str(out)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])


def test_a_full_disk_leaves_the_older_model(tmp_path):
    export_zeros(tmp_path / "out")
    (tmp_path / "out" / "mark").write_text("older")
    assert child("export_in_a_limit", tmp_path / "out").wait(60) == 0
    assert (tmp_path / "out" / "mark").exists() and [each.name for each in tmp_path.iterdir()] == ["out"]


def test_kill_9_at_any_moment_leaves_a_whole_model_and_the_next_export_tidies_up(tmp_path):
    out, rng = tmp_path / "out", random.Random(7)
    export_zeros(out)
    process = child("export_for_ever", out)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".out.part").exists() and time.monotonic() < deadline:
        pass
    for _ in range(rng.randrange(1_000_000)):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if out.exists():
        assert load(out).spec == export_world.SPEC
    export_zeros(out)
    assert [each.name for each in tmp_path.iterdir()] == ["out"] and load(out).spec == export_world.SPEC
