"""Processes on hosts of a cluster, through a folder that all of them see: orders in, exit codes out.

One helper per host (`python -m danlu.launch.come FOLDER HOST`) claims the orders of its host and runs them; ssh, srun,
a Ray task, a pod or torchrun only has to start that helper. The job's results already need a shared folder, so nothing
else has to be reachable for it. Formats: docs/formats.md, "orders".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from danlu.errors import HostMissing
from danlu.nouns import Job

VERSION = 1
POLL_S = 0.05
COME_S = 120.0  # longest wait for the helper of a host: a queue has granted the nodes by then
BEAT_S, SILENT_S = 1.0, 10.0  # a helper shows itself that often; after so long without it is taken for dead
GONE_S = 30.0  # so long without a sign of the owner, and a helper goes home: the run is over, whoever was killed


class Orders:
    """Owns the folder of one run's orders. `close` sends every helper home."""

    def __init__(self, folder: Path, come_s: float = COME_S) -> None:
        """folder  made anew; helpers may wait for it already. come_s  longest wait for a host's helper."""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.*"):
            left.unlink()
        self.folder, self._come_s = folder, come_s
        self._seen: dict[str, tuple[float, float]] = {}  # host -> time stamp of its file, when that last changed
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="orders", daemon=True).start()

    def alive(self, host: str) -> bool:
        """True when the helper of a host has shown itself lately. Clocks of hosts are not compared, only change is."""
        try:
            stamp = (self.folder / f"{host}.here").stat().st_mtime
        except OSError:
            return False
        known = self._seen.get(host)
        if known is None or known[0] != stamp:
            known = self._seen[host] = (stamp, time.monotonic())
        return time.monotonic() - known[1] < SILENT_S

    def spawn(self, job: Job, log: Path | None = None) -> Ordered:
        """Have a job started on job.host, its output appended to `log` there. Raises HostMissing."""
        limit_s = SILENT_S if job.host in self._seen else self._come_s
        deadline = time.monotonic() + limit_s
        while not self.alive(job.host):
            if (why := self._gone(job.host)) is not None:
                raise HostMissing(f"no helper on host {job.host}", where=str(self.folder), why=why,
                                  fix=f"ssh {job.host} true; a fleet's hosts are names that ssh knows")  # fmt: skip
            if time.monotonic() > deadline:
                here = [each for each in sorted(path.stem for path in self.folder.glob("*.here")) if self.alive(each)]
                raise HostMissing(
                    f"no helper on host {job.host}",
                    where=str(self.folder),
                    why=f"after {limit_s:g} s there are helpers on {', '.join(here) or 'no host'}",
                    fix=f"on {job.host}: python -m danlu.launch.come {self.folder} {job.host}",
                )
            time.sleep(POLL_S)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        order = {
            "orders": VERSION,
            "host": job.host,
            "argv": list(job.argv),
            "env": dict(job.env),
            "log": None if log is None else str(log.resolve()),
            "cwd": os.getcwd(),
        }
        for old in (f"{job.name}.order", f"{job.name}.ended"):  # of an earlier crew of this run, the order first
            (self.folder / old).unlink(missing_ok=True)
        appear(self.folder / f"{job.name}.order", json.dumps(order))
        return Ordered(job, self)

    def _gone(self, host: str) -> str | None:
        """Why there will be no helper on a host, where it is known."""
        try:
            return (self.folder / f"{host}.gone").read_text(encoding="utf-8")
        except OSError:
            return None

    def close(self) -> None:
        """Every helper ends what it runs, and itself."""
        self._over.set()
        appear(self.folder / "all.over", "")

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                (self.folder / "all.owned").touch()
            except OSError:
                continue  # a disk that comes back within GONE_S is as if nothing had been


class Ordered:
    """One ordered process; answers what launch.local.Process answers. Its pid is that of its host."""

    def __init__(self, job: Job, orders: Orders) -> None:
        self.job, self.pid, self._orders = job, 0, orders
        self._stem = orders.folder / job.name
        self._signals = 0
        self._killed = False

    def poll(self) -> int | None:
        """Exit code, negative signal number, or None while it runs or waits to be started."""
        try:
            return int(self._stem.with_suffix(".ended").read_text())
        except (OSError, ValueError):
            gone = self._killed and not self._orders.alive(self.job.host)  # its host went with it
            return -signal.SIGKILL if gone else None

    def wait(self, limit_s: float) -> int | None:
        """Exit code, or None when it still runs after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return code

    def signal(self, number: int) -> None:
        """Have a signal sent; nothing happens when it has ended."""
        if self.poll() is None:
            self._signals += 1
            self._killed = self._killed or number == signal.SIGKILL
            appear(self._stem.with_suffix(f".signal{self._signals}"), str(int(number)))

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL when it is still there after `grace_s`; waits for the end."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if self.wait(grace_s) is None:
            self.signal(signal.SIGKILL)
            self.wait(grace_s)


def helper(folder: Path, host: str) -> tuple[str, ...]:
    """The command that starts a host's helper."""
    return (sys.executable, "-m", "danlu.launch.come", str(folder), host)


def appear(path: Path, text: str) -> None:
    """A file that is there with all its bytes, or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
