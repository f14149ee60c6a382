"""Helpers on other hosts by ssh: the connection is their life, so they end when it does."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from danlu.launch.child import tied
from danlu.launch.orders import POLL_S, appear, helper

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


class Connections:
    """Owns one connection per host. They close with this process; `close` closes them sooner.

    A host whose connection has ended is told of in the folder of orders, so that nobody waits for its helper.
    """

    def __init__(self, hosts: Sequence[str], orders: Path, options: Sequence[str], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        orders.mkdir(parents=True, exist_ok=True)
        self._orders, self._over = orders, threading.Event()
        self._logs = {host: logs / f"ssh-{host}.log" for host in hosts}
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        for host, path in self._logs.items():
            with path.open("wb") as log:
                line = tied(command(host, orders, options))
                self._started[host] = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self._watch = threading.Thread(target=self._tell, name="ssh", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Close the connections."""
        self._over.set()
        self._watch.join()
        for each in self._started.values():
            if each.stdin is not None:
                each.stdin.close()
        for each in self._started.values():
            try:
                each.wait(10.0)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()

    def _tell(self) -> None:
        while not self._over.wait(POLL_S):
            for host, each in self._started.items():
                if each.poll() is not None and not (self._orders / f"{host}.gone").exists():
                    said = self._logs[host].read_text(errors="replace").strip().splitlines()
                    last = said[-1] if said else "it said nothing"
                    appear(self._orders / f"{host}.gone", f"ssh ended with {each.returncode}: {last}")
