"""Real launchers: Slurm with two slurmd on this machine, sshd, torchrun, Ray; each trains a while over two hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import free_ports, needs, ray_cluster, slurm_cluster, until

from danlu.fleet import text
from danlu.fleet.emulate import emulate, shares
from danlu.fleet.probe import probe

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """Makes run.yaml of a small run over two emulated cards on two hosts, whatever these are called."""
    machine = probe()
    home = tmp_path_factory.mktemp("text")
    words = "the cat sat on the mat and looked at the rain while the dog slept in the warm kitchen by the fire".split()
    for at in range(200):
        (home / f"{at}.txt").write_text(" ".join(words[(at * 7 + i * (1 + at % 5)) % len(words)] for i in range(300)))
    base = machine.cards[0]

    def made(folder: Path, *hosts: str) -> Path:
        fleet = emulate(base, shares([1.0] * len(hosts), 2), [2**30] * len(hosts), link=None, host=machine.hosts[0])
        cards = tuple(replace(card, host=host) for card, host in zip(fleet.cards, hosts, strict=True))
        places = tuple(replace(machine.hosts[0], name=host) for host in hosts)
        text.dump(replace(fleet, cards=cards, hosts=places), folder / "fleet.yaml")
        run = {"danlu": 1, "out": str(folder / "out"), "fleet": {"path": str(folder / "fleet.yaml")},
               "data": {"text": [str(home)], "vocab": 300, "seq": 32}, "plan": {"micro_batches": 4, "micro_batch": 2},
               "model": {"layers": 4, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn": 128},
               "train": {"steps": 6, "save_every": 3}}  # fmt: skip
        path = folder / "run.yaml"
        path.write_text(json.dumps(run))
        return path

    return made


def launched(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], env={**os.environ, **environment}, capture_output=True, text=True,
                          timeout=110, check=False)  # fmt: skip


def trained(folder: Path, *hosts: str) -> None:
    """The run is whole, and each host's card computed."""
    steps = [json.loads(line)["step"] for line in (folder / "out" / "steps.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (folder / "out" / "checkpoints" / "step-000000006" / "manifest.json").exists()
    orders = [json.loads(path.read_text()) for path in (folder / "out" / "orders").glob("*.order")]
    assert {order["host"] for order in orders} == set(hosts)
    logs = "".join(path.read_text() for path in (folder / "out" / "logs").glob("process-*.log"))
    assert "rank 0 on card" in logs and "rank 1 on card" in logs


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


def test_slurm_trains_over_two_nodes(slurm, a_run, tmp_path):
    done = launched("-m", "danlu.cli", "launch", str(a_run(tmp_path, "n1", "n2")), "--on", "slurm", SLURM_CONF=slurm)
    assert done.returncode == 0, done.stderr
    trained(tmp_path, "n1", "n2")


def test_a_job_that_slurm_ends_says_where_to_look(slurm, a_run, tmp_path):
    path = a_run(tmp_path, "n1", "n2")
    done = launched("-m", "danlu.cli", "launch", str(path), "--on", "slurm", "--data.text", "/no", SLURM_CONF=slurm)
    assert done.returncode == 3 and "DL-ENV-021" in done.stderr and "slurm-" in done.stderr


def test_ssh_trains_over_two_hosts_and_leaves_nothing(a_run, tmp_path):
    needs("sshd", "ssh", "ssh-keygen")
    (port,) = free_ports(1)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = ["-o", f"HostKey={tmp_path / 'host'}", "-o", f"AuthorizedKeysFile={tmp_path / 'user.pub'}",
               "-o", "StrictModes=no", "-o", "PidFile=none"]  # fmt: skip
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-p", str(port), *options])
    mine = f"-p {port} -i {tmp_path / 'user'} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    try:
        path = a_run(tmp_path, "localhost", "127.0.0.1")
        done = launched("-m", "danlu.cli", "launch", str(path), "--on", "ssh", "--ssh", mine)
        assert done.returncode == 0, done.stderr
        trained(tmp_path, "localhost", "127.0.0.1")
        search = ["pgrep", "-f", str(tmp_path / "out" / "orders")]
        until(lambda: not subprocess.run(search, capture_output=True, check=False).stdout)
    finally:
        server.terminate()
        server.wait()


def test_torchrun_trains_over_two_nodes(a_run, tmp_path):
    path = a_run(tmp_path, "t1", "t2")
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr",
            "127.0.0.1", "--master-port", str(port), "-m", "danlu.launch.torchrun", str(tmp_path / "out" / "orders"),
            "t1,t2", "train", str(path), "--launch.by", "orders", "--launch.interface", "127.0.0.1"]  # fmt: skip
    nodes = [subprocess.Popen([*argv[:3], "--node-rank", str(rank), *argv[3:]], stderr=subprocess.DEVNULL)
             for rank in (0, 1)]  # fmt: skip
    assert [node.wait(110) for node in nodes] == [0, 0]
    trained(tmp_path, "t1", "t2")


def test_ray_starts_the_helpers(a_run, tmp_path):
    with ray_cluster() as address:
        path = a_run(tmp_path, "r1", "r2")
        done = launched("-m", "danlu.cli", "launch", str(path), "--on", "ray", "--address", address)
        assert done.returncode == 0, done.stderr
        trained(tmp_path, "r1", "r2")
