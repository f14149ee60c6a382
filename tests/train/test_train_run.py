"""Whole jobs with real processes: they learn, survive kills at any moment to the last bit, and leave nothing behind."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from provoke import provoke
from train_jobs import ARGV, SLOW, a_job, same, weights
from train_world import SPEC, plan

from danlu.fault.drill import Drill
from danlu.launch import local
from danlu.launch.nursery import Nursery
from danlu.nouns import Replica
from danlu.store import checkpoint
from danlu.train import owner, snapshot
from danlu.train.job import TrainJob, dumps, loads
from danlu.train.rank import build
from danlu.train.result import Result
from danlu.train.start import saved_tensors

pytestmark = pytest.mark.procs
nursery: Nursery


def setup_module():
    """Anew whenever a process comes to this file: tests of it may run in several, and at more than one time."""
    global nursery
    nursery = Nursery(["danlu.train.rank"])


def teardown_module():
    nursery.close()


def train(job: TrainJob, spares: int = 0, **options) -> Result:
    return owner.run(job, ARGV, nursery.spawn, spares=spares, **options)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[TrainJob, Result]:
    job = a_job(tmp_path_factory.mktemp("unbroken"))
    return job, train(job)


def test_a_job_learns_and_tells_what_it_did(unbroken):
    job, result = unbroken
    assert [each.step for each in result.steps] == list(range(1, 13))
    assert result.steps[-1].loss < result.steps[0].loss - 0.3
    assert not result.faults and result.lost == result.repeated == 0
    assert result.step_s > 0 and all(busy > 0 for busy in result.busy_s) and all(peak > 0 for peak in result.peak_bytes)
    ops = [[op for op, *_ in spans] for spans in result.spans]
    assert all(each.count("forward") == each.count("backward") == 4 and each[-1] == "step" for each in ops)
    assert all(start <= end for spans in result.spans for _, _, start, end in spans)
    lines = [json.loads(line) for line in (job.out / "steps.jsonl").read_text().splitlines()]
    assert [(each["step"], each["loss"]) for each in lines] == [(s.step, s.loss) for s in result.steps]
    assert weights(job).keys() >= {"embed.weight", "head.weight.m", "layers.1.attn.q.weight.v"}


def test_kills_and_a_freeze_at_random_moments_leave_no_trace_in_the_bits(unbroken, tmp_path):
    seed = 11
    random.seed(seed)
    kinds = ["kill", "kill", "freeze"]
    drills = [
        Drill(stage, random.randint(1, 12), kind) for stage, kind in zip(random.sample(range(3), 3), kinds, strict=True)
    ]
    drills.sort(key=lambda drill: drill.step)
    job = a_job(tmp_path, save_every=3, patience_s=3.0)
    result = train(job, drills=drills, spares=1)
    assert same(weights(job), weights(unbroken[0])), f"seed {seed}"
    assert [(s.step, s.loss, s.norm) for s in result.steps] == [(s.step, s.loss, s.norm) for s in unbroken[1].steps]
    assert [fault.stage for fault in result.faults] == [drill.stage for drill in drills]
    for fault, drill in zip(result.faults, drills, strict=True):
        assert fault.card == f"card{drill.stage}" and fault.restored % 3 == 0 and fault.restored < fault.during
        assert fault.recomputed == fault.during - 1 - fault.restored
        assert 0 <= fault.detected_s < fault.recovery_s <= fault.caught_up_s
    lines = [json.loads(line)["step"] for line in (job.out / "steps.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 13))


def test_a_run_resumes_on_another_number_of_cards(unbroken, tmp_path):
    early = a_job(tmp_path, save_every=2)  # no rank begins step 9 before all have committed 2: two may be on their way

    def stop(step) -> None:
        if step.step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(early, on_step=stop)
    there = checkpoint.latest(early.checkpoints)
    assert there in (2, 4, 6, 8)
    with provoke("DL-CFG-081"):
        snapshot.start_of(tmp_path, resume=False)
    assert snapshot.start_of(tmp_path, resume=True) == there
    result = train(a_job(tmp_path, plan(SPEC, (4,), cards=SLOW), start=there))
    assert [each.step for each in result.steps] == list(range(there + 1, 13)) and result.began_at == there
    found, expected = weights(early), weights(unbroken[0])
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[name], expected[name], rtol=1e-3, atol=1e-5) for name in found)
    wider = a_job(tmp_path, plan(replace(SPEC, ffn=64), (4,)))
    with provoke("DL-CFG-080") as caught:
        saved_tensors(wider, build(wider, 1), 12)
    assert "(48, 32)" in caught.error.why and "(64, 32)" in caught.error.why


def test_no_process_or_socket_is_left_when_the_owner_is_killed(tmp_path):
    path = tmp_path / "wanted.json"
    path.write_text(dumps(a_job(tmp_path / "out", steps=100_000, save_every=50)))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom pathlib import Path\n"
        "from test_train_run import setup_module, train\nfrom danlu.train.job import loads\nsetup_module()\n"
        f"train(loads(Path({str(path)!r}).read_text()), on_step=lambda s: print(s.step, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) == 1
        children = offspring(process.pid)
        assert len(children) == 4  # the nursery and its three
        process.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() and alive(pid) for pid in children):
        assert time.monotonic() < deadline
        os.sched_yield()


def offspring(pid: int) -> list[int]:
    mine = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return mine + [other for child in mine for other in offspring(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rank_that_always_dies_ends_the_job_with_its_log(tmp_path):
    with provoke("DL-RUN-012") as caught:
        owner.run(a_job(tmp_path), (sys.executable, "-c", "print('no torch here'); raise SystemExit(3)"), local.spawn)
    assert "exit code 3" in str(caught.error) and "no torch here" in caught.error.why


def test_a_loss_that_is_no_number_keeps_the_last_snapshot(tmp_path):
    job = a_job(tmp_path, lr=1e30, clip=1e30, warmup=0, save_every=1)
    with provoke("DL-CFG-086") as caught:
        train(job)
    assert "on host local, card card" in caught.error.where and " of " in caught.error.what
    last = checkpoint.latest(job.checkpoints)
    assert last is None or all(np.isfinite(each).all() for each in checkpoint.load(job.checkpoints, last).values())


def test_a_full_disk_is_named_and_no_process_is_left(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    started = []

    def noted(job, log):
        started.append(nursery.spawn(job, log))
        return started[-1]

    with provoke("DL-MEM-002") as caught:
        owner.run(a_job(tmp_path), ARGV, noted, spares=0)
    assert str(tmp_path) in caught.error.where
    assert len(started) == 3 and all(process.poll() is not None for process in started)


def test_a_job_file_comes_back_as_it_was(tmp_path):
    job = a_job(tmp_path, weights=tmp_path / "hf")
    assert loads(dumps(job)) == job
    for text in ("{", "{}", dumps(job).replace('"job": 1', '"job": 9'), dumps(job).replace('"seed"', '"sead"')):
        with provoke("DL-DATA-080"):
            loads(text, "job.json")


def test_cards_that_share_layers_and_copies_of_the_model_survive_a_kill(tmp_path):
    """Two cards share every layer 1 to 1, beside a copy on one card with a third of the batch; one of each dies."""
    a_plan = plan(SPEC, (), cards=SLOW)
    stage = replace(a_plan.stages[0], cards=("card0", "card1"), shares=(2, 2))
    other = Replica((replace(stage, cards=("card2",), shares=()),), 1)
    shared = replace(a_plan, stages=(stage,), micro_batches=2, replicas=(other,))
    whole, broken = (a_job(tmp_path / name, shared, steps=6, save_every=2) for name in ("whole", "broken"))
    quiet = train(whole)
    result = train(broken, drills=[Drill(1, 3), Drill(2, 5)], spares=1)
    assert [fault.card for fault in result.faults] == ["card1", "card2"]
    assert [(s.loss, s.norm) for s in result.steps] == [(s.loss, s.norm) for s in quiet.steps]
    assert same(weights(broken), weights(whole)) and weights(whole).keys() >= {"embed.weight", "head.weight.m"}
    alone = train(a_job(tmp_path / "alone", replace(a_plan, micro_batches=3), steps=6))
    assert [s.loss for s in quiet.steps] == pytest.approx([s.loss for s in alone.steps], rel=1e-5)
