"""Starts many alike processes fast: one process loads what they need, and forks a child for each.

Loading torch costs 2.3 s of CPU and a job starts four such processes, more when cards die; a fork takes 0.05 s and
shares the memory. The nursery runs no thread and no torch operator, so a fork of it is safe. It dies with its
owner, and its children die with it.

    python -m danlu.launch.nursery PARENT_PID MODULE...      one JSON line in for each child, its pid and exit code out
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.launch.child import tie
from danlu.launch.local import KEEP_MEMORY, ONE_THREAD
from danlu.nouns import Job
from danlu.ready import ready


class Forked:
    """One child of a nursery; answers what launch.local.Process answers."""

    def __init__(self, job: Job, pid: int, nursery: Nursery) -> None:
        self.job, self.pid, self._nursery = job, pid, nursery

    def poll(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""
        return self._nursery.exit_code(self.pid, 0.0)

    def wait(self, limit_s: float) -> int | None:
        """Exit code, or None when it still runs after `limit_s`."""
        return self._nursery.exit_code(self.pid, limit_s)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # it ended since

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL when it is still there after `grace_s`; waits for the end."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if self.wait(grace_s) is None:
            self.signal(signal.SIGKILL)
            self.wait(grace_s)


class Nursery:
    """Owns the process that forks. Use it from the thread that made it; `close` ends it and all its children."""

    def __init__(self, modules: Sequence[str]) -> None:
        """modules  names to import before the first child is forked."""
        environment = {**os.environ, **ONE_THREAD, **KEEP_MEMORY}
        argv = [sys.executable, "-m", "danlu.launch.nursery", str(os.getpid()), *modules]
        self._process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._ask, self._told = self._process.stdin, self._process.stdout
        self._rest = b""
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        self._gone = False

    def spawn(self, job: Job, log: Path | None = None) -> Forked:
        """Start a job whose command is `python -m MODULE ...` or `python FILE ...`, its output appended to `log`.

        Raises ChildProcessError when the nursery itself has died.
        """
        assert job.argv[0] == sys.executable
        if self._gone:
            raise ChildProcessError("the nursery is gone")
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        order = {"argv": list(job.argv[1:]), "env": dict(job.env), "log": None if log is None else str(log.resolve())}
        try:
            self._ask.write(json.dumps(order).encode() + b"\n")
            self._ask.flush()
        except OSError as error:
            raise ChildProcessError(f"the nursery is gone: {error}") from error
        while not self._started:
            if self._gone:
                raise ChildProcessError(f"the nursery ended with code {self._process.wait()}")
            self._read(None)
        return Forked(job, self._started.pop(0), self)

    def exit_code(self, pid: int, limit_s: float) -> int | None:
        """Exit code of a child, waited for at most `limit_s`; None while it runs. With the nursery its children die."""
        deadline = time.monotonic() + limit_s
        while pid not in self._ended and not self._gone:
            left = max(0.0, deadline - time.monotonic())
            if not self._read(left):
                break
        return self._ended.get(pid, -signal.SIGKILL if self._gone else None)

    def close(self) -> None:
        """End the nursery, and with it every child."""
        self._process.kill()
        self._process.wait()
        self._ask.close()
        self._told.close()
        self._gone = True

    def _read(self, limit_s: float | None) -> bool:
        """Take in what the nursery said; False when it said nothing within the limit."""
        if self._gone or not ready([self._told], limit_s):
            return False
        data = os.read(self._told.fileno(), 1 << 16)
        self._gone = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "code" in told:
                self._ended[told["pid"]] = told["code"]
            else:
                self._started.append(told["pid"])
        return True


def main(argv: list[str]) -> None:
    """The nursery itself: load, then fork on every line until the input ends."""
    tie(int(argv[0]))
    for name in argv[1:]:
        importlib.import_module(name)
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    rest = b""
    while True:
        told = ready([0, heard])
        if heard in told:
            os.read(heard, 1 << 12)
            _bury()
        if 0 not in told:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                _become(json.loads(line), int(os.getppid()))
            _tell({"pid": pid})


def _become(order: dict[str, Any], parent: int) -> None:
    """What a forked child does; never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        tie(parent)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if order["log"] else null
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.environ.update(order["env"])
        command = order["argv"]
        sys.argv = command[1:] if command[0] == "-m" else command
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bury() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
