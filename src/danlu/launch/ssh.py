"""Helpers on other hosts by ssh: the connection is their life, so they end when it does."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from danlu.launch.orders import helper

OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


def command(host: str, orders: Path, options: Sequence[str] = ()) -> tuple[str, ...]:
    """What starts the helper of a host; the folder and the Python must be at the same place there.

    options  more words for ssh, for example ("-p", "2222")
    """
    # The remote shell ends the helper when its input ends, that is when the connection does, whoever was killed.
    come = f"{shlex.join(helper(orders, host))} & come=$!; cat >/dev/null; kill $come"
    path = os.environ.get("PYTHONPATH", "")
    before = f"export PYTHONPATH={shlex.quote(path)}; " if path else ""
    return ("ssh", *OPTIONS, *options, host, before + come)


def start(hosts: Sequence[str], orders: Path, options: Sequence[str], logs: Path) -> list[subprocess.Popen[bytes]]:
    """One connection per host. They close with this process; `stop` closes them sooner."""
    logs.mkdir(parents=True, exist_ok=True)
    started = []
    for host in hosts:
        with (logs / f"ssh-{host}.log").open("ab") as log:
            tied = (sys.executable, "-m", "danlu.launch.child", str(os.getpid()), *command(host, orders, options))
            started.append(subprocess.Popen(tied, stdin=subprocess.PIPE, stdout=log, stderr=log))
    return started


def stop(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Close the connections."""
    for each in started:
        if each.stdin is not None:
            each.stdin.close()
    for each in started:
        try:
            each.wait(10.0)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
