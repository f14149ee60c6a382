"""Processes die with whoever started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.launch.local import spawn, stop
from danlu.nouns import Job

pytestmark = pytest.mark.procs
FOREVER = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def job(code: str) -> Job:
    return Job("test", (sys.executable, "-c", code))


def until(condition, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        os.sched_yield()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_output_exit_code_and_one_thread(tmp_path):
    log = tmp_path / "logs" / "a.log"
    process = spawn(
        job("import os, sys; print(os.environ['OMP_NUM_THREADS'], os.getpgid(0) == os.getpid()); sys.exit(7)"), log
    )
    assert process.wait(20) == 7
    assert log.read_text() == "1 True\n"


def test_stop_ends_a_deaf_and_a_frozen_process(tmp_path):
    logs = [tmp_path / "deaf", tmp_path / "frozen"]
    processes = [spawn(job(code), log) for code, log in zip((DEAF, FOREVER), logs, strict=True)]
    until(lambda: all(log.read_text() == "up\n" for log in logs))
    processes[1].signal(signal.SIGSTOP)
    stop(processes, grace_s=0.3)
    stop(processes)
    assert [p.poll() for p in processes] == [-signal.SIGKILL, -signal.SIGTERM]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_when_the_owner_is_killed(how):
    owner = (
        "import signal\nfrom danlu.launch.local import spawn\nfrom danlu.nouns import Job\nimport sys\n"
        f"p = spawn(Job('x', (sys.executable, '-c', {FOREVER!r})))\nprint(p.pid, flush=True)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "up\n"
        process.send_signal(how)
    until(lambda: not alive(pid))
