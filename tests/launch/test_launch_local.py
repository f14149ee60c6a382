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
from danlu.launch.nursery import Nursery
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


def test_a_nursery_forks_children_that_have_the_modules_and_die_with_it(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import os, sys, signal\n"
                      "print('wave' in sys.modules, sys.argv[1:], os.environ['MARK'], flush=True)\n"
                      "sys.exit(5) if sys.argv[1] == 'end' else signal.pause()\n")  # fmt: skip
    nursery = Nursery(["wave"])
    jobs = [
        Job(word, (sys.executable, str(script), word), env={"MARK": "m"}) for word in ("end", "stay", "stay", "stay")
    ]
    logs = [tmp_path / f"{i}.log" for i in range(4)]
    children = [nursery.spawn(each, log) for each, log in zip(jobs, logs, strict=True)]
    assert children[0].wait(20) == children[0].poll() == 5
    until(lambda: all(log.exists() and log.read_text().endswith("m\n") for log in logs))
    assert logs[1].read_text() == "True ['stay'] m\n"
    assert [child.poll() for child in children[1:]] == [None] * 3
    children[1].signal(signal.SIGKILL)
    assert children[1].wait(20) == -signal.SIGKILL
    children[2].signal(signal.SIGSTOP)
    stop(children[1:3])
    assert children[2].poll() == -signal.SIGTERM
    nursery.close()
    assert children[3].poll() == -signal.SIGKILL
    until(lambda: not alive(children[3].pid))
    with pytest.raises(ChildProcessError):
        nursery.spawn(jobs[0])


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
