"""Ranks on several hosts by a shared folder: the same curve as on one, over kills, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from provoke import provoke
from test_launch_local import alive, until
from train_jobs import ARGV, SLOW, a_job, same, weights
from train_world import SPEC, plan

from danlu.cli.app import main
from danlu.fault.drill import Drill
from danlu.launch import k8s, local, slurm, ssh
from danlu.launch.orders import Orders, helper
from danlu.nouns import Job
from danlu.train import owner

pytestmark = pytest.mark.procs
FOREVER = "import os, signal; print(os.getpid(), flush=True); signal.pause()"


@pytest.fixture
def helpers(tmp_path):
    """Two hosts, which are this machine twice."""
    folder = tmp_path / "orders"
    started = {host: local.spawn(Job(host, helper(folder, host)), tmp_path / f"{host}.log") for host in "ab"}
    yield folder, started
    local.stop(list(started.values()))


def job(name: str, code: str, host: str = "a") -> Job:
    return Job(name, (sys.executable, "-c", code), env={"MARK": "m"}, host=host)


def test_orders_run_on_their_host_and_tell_their_end(helpers, tmp_path):
    folder, started = helpers
    orders = Orders(folder)
    log = tmp_path / "log"
    ended = orders.spawn(job("ends", "import os, sys; print(os.environ['MARK']); sys.exit(7)", "b"), log)
    killed = orders.spawn(job("killed", FOREVER), tmp_path / "killed")
    stays = orders.spawn(job("stays", FOREVER), tmp_path / "stays")
    assert ended.wait(30) == ended.poll() == 7 and log.read_text() == "m\n"
    again = orders.spawn(job("ends", "import sys; sys.exit(8)", "b"), log)  # the next crew of a run counts from 0, too
    assert again.wait(30) == 8
    until(lambda: (tmp_path / "killed").exists() and (tmp_path / "killed").read_text().endswith("\n"))
    killed.signal(signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL and stays.poll() is None
    until(lambda: (tmp_path / "stays").read_text().endswith("\n"))
    pid = int((tmp_path / "stays").read_text())
    orders.close()
    assert {process.wait(30) for process in started.values()} == {0}
    assert not alive(pid) and stays.poll() == -signal.SIGTERM


def test_what_a_helper_runs_dies_with_it(helpers, tmp_path):
    folder, started = helpers
    orders = Orders(folder)
    process = orders.spawn(job("stays", FOREVER), tmp_path / "stays")
    until(lambda: (tmp_path / "stays").exists() and (tmp_path / "stays").read_text().endswith("\n"))
    pid = int((tmp_path / "stays").read_text())
    os.kill(started["a"].pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    process.signal(signal.SIGKILL)
    until(lambda: process.poll() == -signal.SIGKILL)


def test_a_helper_goes_home_when_its_owner_was_killed(tmp_path):
    folder, log = tmp_path / "orders", tmp_path / "stays"
    owned = ("from danlu.launch.orders import *\n"
             f"stays = Job('stays', (sys.executable, '-c', {FOREVER!r}), host='a')\n"
             f"Orders(Path({str(folder)!r})).spawn(stays, Path({str(log)!r})); signal.pause()")  # fmt: skip
    serves = (f"from pathlib import Path; from danlu.launch.come import serve; folder = Path({str(folder)!r})\n"
              "folder.mkdir(); print(serve(folder, 'a', 4.0))")  # fmt: skip
    helper = local.spawn(Job("a", (sys.executable, "-c", serves)), tmp_path / "a.log")
    until(folder.is_dir)
    keeper = subprocess.Popen([sys.executable, "-c", owned])
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    pid = int(log.read_text())
    assert helper.wait(6.0) is None and alive(pid)  # longer than it waits for a dead owner
    keeper.kill()
    keeper.wait()
    assert helper.wait(30.0) == 0 and not alive(pid) and (tmp_path / "a.log").read_text() == "False\n"


def test_nothing_is_left_of_a_torchrun_that_was_killed(tmp_path):
    os.mkfifo(tmp_path / "run.yaml")  # whoever reads it waits
    environment = {**os.environ, "LOCAL_RANK": "0", "GROUP_RANK": "0"}
    words = ["-m", "danlu.launch.torchrun", tmp_path / "orders", "a,b", "config", "check", tmp_path / "run.yaml"]
    runs = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    agent = subprocess.Popen([sys.executable, "-c", runs, *words], env=environment)

    def children(pid: int) -> list[int]:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    until(lambda: [len(children(rank)) for rank in children(agent.pid)] == [2])
    (rank,) = children(agent.pid)
    pids = [rank, *children(rank)]
    agent.kill()
    agent.wait()
    until(lambda: not any(map(alive, pids)))


def test_a_host_without_helper_is_named(tmp_path):
    with provoke("DL-ENV-020") as caught:
        Orders(tmp_path / "orders", come_s=0.2).spawn(job("x", "pass", "nowhere"))
    assert "nowhere" in caught.error.what and "danlu.launch.come" in caught.error.fix


def test_a_run_over_two_hosts_is_the_run_on_one_even_when_a_rank_is_killed(helpers, tmp_path):
    folder, _ = helpers
    one = a_job(tmp_path / "one", steps=8)
    owner.run(one, ARGV, local.spawn, spares=0)
    cards = replace(SLOW, cards=tuple(replace(c, host=h) for c, h in zip(SLOW.cards, "aba", strict=True)))
    two = a_job(tmp_path / "two", plan(SPEC, (3, 5), cards=cards), steps=8)
    orders = Orders(folder)
    result = owner.run(two, ARGV, orders.spawn, spares=1, interface="127.0.0.1", drills=[Drill(1, 5)])
    orders.close()
    assert len(result.faults) == 1 and result.lost == result.repeated == 0
    assert all(0 < step.seconds < 60 for step in result.steps)
    assert same(weights(one), weights(two))


def run_yaml(tmp_path) -> Path:
    fleet = {"fleet": 1, "name": "two", "hosts": [{"name": h, "mem_bytes": "8GiB"} for h in ("n1", "n2")],
             "cards": [{"name": f"c{h}", "vendor": "cpu", "model": "x", "flops": {"fp32": 1e10}, "mem_bytes": "4GiB",
                        "mem_bw": 1e10, "host": h} for h in ("n1", "n2")],
             "links": [{"a": "n1", "b": "n2", "latency_s": 1e-4, "bandwidth": 1e9}]}  # fmt: skip
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    path = tmp_path / "run.yaml"
    path.write_text(f"danlu: 1\nout: {tmp_path / 'out'}\nfleet: {{path: {tmp_path / 'fleet.yaml'}}}\n")
    return path


@pytest.mark.parametrize("on", ["local", "ssh", "slurm", "ray", "k8s"])
def test_a_dry_run_shows_what_would_start(on, tmp_path, capsys):
    inside = ["--mount", str(tmp_path)] if on == "k8s" else []
    assert main(["launch", str(run_yaml(tmp_path)), "--on", on, "--dry-run", "--train.steps", "7", *inside]) == 0
    told = capsys.readouterr().out
    assert "danlu.cli" in told and "--train.steps 7" in told and ("n2" in told) == (on != "local")
    assert ("--launch.by orders" in told) == (on != "local") and not (tmp_path / "out" / "orders").exists()


def test_pods_that_would_not_meet_are_refused(tmp_path, capsys):
    assert main(["launch", str(run_yaml(tmp_path)), "--on", "k8s", "--mount", str(tmp_path / "other")]) == 2
    told = capsys.readouterr().err
    assert f"--out {tmp_path / 'other' / 'out'}" in told and not (tmp_path / "out" / "launch.k8s.yaml").exists()


def test_a_host_that_ssh_does_not_reach_is_named_at_once(tmp_path):
    began = time.monotonic()
    lines = ssh.Connections(["far"], tmp_path / "orders", ["-o", "ProxyCommand=false"], tmp_path / "logs")
    try:
        with provoke("DL-ENV-020") as caught:
            Orders(tmp_path / "orders").spawn(job("never", FOREVER, "far"))
    finally:
        lines.close()
    assert "far" in caught.error.what and "ended with" in caught.error.why and time.monotonic() - began < 60


def test_the_slurm_script_is_a_script(tmp_path, capsys):
    main(["launch", str(run_yaml(tmp_path)), "--on", "slurm", "--dry-run"])
    told = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=told, text=True, check=False).returncode == 0
    assert "#SBATCH --nodes=2" in told and "hosts=(n1 n2)" in told


def test_the_kubernetes_manifest_says_that_nobody_ran_it():
    text = k8s.manifest("danlu-x", ["a", "b c"], ["python", "-m", "danlu.cli", "train", "x y.yaml"], Path("/run/o"),
                        image="im", claim="cl", mount="/run")  # fmt: skip
    found = yaml.safe_load(text)
    spec = found["spec"]["template"]["spec"]
    assert "nobody of danlu has run it" in text and found["spec"]["completions"] == 2
    script = spec["containers"][0]["command"][2]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "hosts=(a 'b c')" in script and "'x y.yaml'" in script
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "cl"


def test_slurm_that_is_not_there_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with provoke("DL-ENV-021") as caught:
        slurm.submit(tmp_path / "script")
    assert "sbatch" in caught.error.what and "--dry-run" in caught.error.fix
    assert main(["launch", str(run_yaml(tmp_path)), "--on", "slurm"]) == 3


@pytest.mark.parametrize("back", [True, False])
def test_a_slurm_that_is_out_of_reach_for_a_while_cancels_no_job(tmp_path, monkeypatch, back):
    answers = f"rm {tmp_path}/out || exec echo JobId=7 JobState=COMPLETED\n" if back else ""
    (tmp_path / "out").touch()
    for name, text in {"scontrol": f"{answers}echo Unable to contact slurm controller >&2; exit 1",
                       "scancel": f"touch {tmp_path}/cancelled"}.items():  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said: list[str] = []
    if back:
        assert slurm.follow("7", said.append) == "COMPLETED"
        assert said == ["pending", "is out of reach: unable to contact slurm controller"]
    else:
        with provoke("DL-ENV-021") as caught:
            slurm.follow("7", said.append, silent_s=0.0)
        assert "job 7" in caught.error.where and "may still run" in caught.error.where
    assert not (tmp_path / "cancelled").exists()
