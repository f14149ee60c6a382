"""Clusters of this machine for tests of launchers: real slurmctld and slurmd, a real Ray."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool.%n
SlurmctldPidFile={home}/ctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
SlurmctldLogFile={home}/ctld.log
SlurmdLogFile={home}/slurmd.%n.log
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def needs(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo ./danlu test --system")
    if missing := [each for each in programs if shutil.which(each) is None]:
        pytest.skip(f"no {missing[0]}: apt-get install slurm-wlm openssh-server")


def free_ports(count: int) -> list[int]:
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


def until(condition, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@contextmanager
def two_hosts(delay_ms: float, mbit: int) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Two network namespaces joined by a veth pair, shaped both ways; gives their names and their addresses.

    A kernel without netem shapes the rate alone, by a token bucket, and says so.
    """
    needs("ip", "tc")
    names = tuple(f"danlu{os.getpid()}{each}" for each in "ab")
    addresses = ("10.207.11.1", "10.207.11.2")

    def call(*words: str, check: bool = True) -> int:
        return subprocess.run(words, check=check, capture_output=True, text=True).returncode

    made = [call("ip", "netns", "add", name, check=False) for name in names]
    try:
        if any(made) or call("ip", "link", "add", names[0], "type", "veth", "peer", names[1], check=False):
            pytest.skip("this kernel gives no network namespaces: run it in a virtual machine")
        for name, address in zip(names, addresses, strict=True):
            call("ip", "link", "set", name, "netns", name)
            call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", name)
            call("ip", "-n", name, "link", "set", name, "up")
            call("ip", "-n", name, "link", "set", "lo", "up")
            shape = ("tc", "-n", name, "qdisc", "add", "dev", name, "root")
            netem = ("netem", "delay", f"{delay_ms}ms", "rate", f"{mbit}mbit", "limit", "100000")
            bucket = ("tbf", "rate", f"{mbit}mbit", "burst", "8kb", "latency", "2s")
            if call(*shape, *netem, check=False):
                print("no netem in this kernel: the link is slow, and not late")
                if call(*shape, *bucket, check=False):
                    pytest.skip("this kernel shapes no link: modprobe sch_netem or sch_tbf")
        yield names, addresses
    finally:
        for name in names:
            call("ip", "netns", "del", name, check=False)


@contextmanager
def slurm_cluster(home: Path) -> Iterator[str]:
    """A Slurm cluster of two nodes, both this machine; gives the path of its slurm.conf."""
    needs("slurmctld", "slurmd", "munged", "sbatch")
    for name in ("state", "spool.n1", "spool.n2"):
        (home / name).mkdir()
    conf = home / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), home=home, ports=free_ports(3)))
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    with ExitStack() as running:

        def start(*argv: str, user: str | None = None) -> None:
            process = subprocess.Popen(
                argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user
            )
            running.callback(process.wait)
            running.callback(process.terminate)

        start("munged", "--force", "--foreground", user="munge")
        until(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "n1")
        start("slurmd", "-D", "-N", "n2")
        idle = ["sinfo", "-h", "-t", "idle", "-o", "%D"]
        until(
            lambda: subprocess.run(idle, env=environment, capture_output=True, text=True, check=False).stdout == "2\n"
        )
        yield str(conf)


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A Ray cluster of two nodes, both this machine; gives its address."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="pip install 'danlu[ray]'")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()
