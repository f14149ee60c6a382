"""Processes on this machine that cannot outlive the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from danlu.launch.child import tied
from danlu.nouns import Job

ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}
# Activations come and go with every micro-batch: giving them back to the kernel cost 1,000 page faults each, this 20.
# Huge pages where the kernel gives them on request: forward + backward of a small decoder took 6.5% less.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
}


class Stoppable(Protocol):
    """What `stop` needs of a process."""

    def wait(self, limit_s: float) -> int | None:
        """Exit code, or None when it still runs after `limit_s`."""

    def signal(self, number: int) -> None:
        """Send a signal."""


class Process:
    """Owns one started job and everything it starts (its process group)."""

    def __init__(self, job: Job, popen: subprocess.Popen[bytes]) -> None:
        self.job, self.pid = job, popen.pid
        self._popen = popen

    def poll(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""
        return self._popen.poll()

    def wait(self, limit_s: float) -> int | None:
        """Exit code, or None when it still runs after `limit_s`."""
        try:
            return self._popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens when it has ended."""
        if self._popen.poll() is None:
            os.killpg(self.pid, number)

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL for what is left after `grace_s`; waits for the end."""
        stop([self], grace_s)


def spawn(job: Job, log: Path | None = None) -> Process:
    """Start a job as a process group of its own, with one thread per process, its output appended to `log`.

    It dies with the *thread* that called this (Linux counts the parent-death signal by thread): call from one that
    lives as long as the job should. Raises OSError when the log cannot be opened.
    """
    environment = {**os.environ, **ONE_THREAD, **KEEP_MEMORY, **job.env}
    argv = tied(job.argv)
    if log is None:
        return Process(job, _start(argv, environment, None))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return Process(job, _start(argv, environment, out.fileno()))


def stop(processes: Sequence[Stoppable], grace_s: float = 5.0) -> None:
    """Stop several jobs together: SIGTERM to all, then SIGKILL to those left after `grace_s`; may be repeated."""
    for process in processes:
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)  # a frozen one cannot hear SIGTERM
    deadline = time.monotonic() + grace_s
    for process in processes:
        if process.wait(max(0.0, deadline - time.monotonic())) is None:
            process.signal(signal.SIGKILL)
            process.wait(grace_s)


def _start(argv: Sequence[str], environment: dict[str, str], out: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=out,
        stderr=None if out is None else subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
