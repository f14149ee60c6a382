"""Parts of a job by processes: of this machine, of a Slurm array, of a Ray cluster. Each makes the same bytes.

Those of this machine end when this process does, however it ends. Slurm and Ray need OUT in a folder that all nodes
share; what is done when they are stopped is not done again, wherever the next call runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from danlu import atomic
from danlu.data import parts
from danlu.data.ingest import Tell
from danlu.errors import PartFailed

POLL_S = 0.02
TOLD_S = 0.5  # between two looks at which parts are done


def local(workers: int) -> parts.Run:
    """An executor of `workers` processes. It raises PartFailed with the last line of a process that failed."""

    def execute(folder: Path, numbers: Sequence[int], tell: Tell) -> None:
        running = [_started(folder, share) for share in _shares(numbers, workers)]
        began = told = time.monotonic()
        try:
            while any(process.poll() is None for process, _ in running):
                for process, said in running:
                    if process.poll():
                        raise _failed(folder, process.returncode, said)
                if time.monotonic() - told > TOLD_S:
                    told = time.monotonic()
                    _told(folder, numbers, began, "", tell)
                time.sleep(POLL_S)
            for process, said in running:
                if process.returncode:
                    raise _failed(folder, process.returncode, said)
        finally:
            for process, said in running:
                process.kill()
                process.wait()
                said.close()

    return execute


def slurm(workers: int) -> parts.Run:
    """An executor of `workers` tasks of one Slurm job array. It raises PartFailed, and LaunchFailed without Slurm."""
    from danlu.launch import slurm

    def execute(folder: Path, numbers: Sequence[int], tell: Tell) -> None:
        began = time.monotonic()
        commands = [[sys.executable, *_words(folder, share)] for share in _shares(numbers, workers)]
        atomic.write(folder / "parts.sbatch", slurm.array("danlu-prep", commands, folder).encode())
        job = slurm.submit(folder / "parts.sbatch")
        state = slurm.follow(job, lambda state: _told(folder, numbers, began, f"Slurm job {job} {state}, ", tell))
        if state != "COMPLETED":
            logs = [log for log in sorted(folder.glob(f"slurm-{job}-*.log")) if log.stat().st_size]
            words = logs[0].read_text(errors="replace").strip().splitlines()[-1] if logs else "it wrote no log"
            raise _undone(folder, f"Slurm job {job} ended as {state}: {words}")

    return execute


def ray(workers: int, address: str | None) -> parts.Run:
    """An executor of `workers` tasks of a Ray cluster. Raises PartFailed, MissingPackage, LaunchFailed without one."""
    from danlu.launch import ray

    def execute(folder: Path, numbers: Sequence[int], tell: Tell) -> None:
        began = time.monotonic()
        commands = [_words(folder, share) for share in _shares(numbers, workers)]
        ended = ray.each(commands, address, lambda over: _told(folder, numbers, began, f"{over} tasks over, ", tell))
        for code, words in ended:
            if code:
                raise _undone(folder, f"its Ray task ended with {code}: {words}")

    return execute


def executor(on: str, workers: int, address: str | None) -> parts.Run | None:
    """What runs the parts; None where one process of this machine does everything."""
    if on == "slurm":
        return slurm(workers)
    if on == "ray":
        return ray(workers, address)
    return local(workers) if workers > 1 else None


def _shares(numbers: Sequence[int], workers: int) -> list[Sequence[int]]:
    return [share for first in range(workers) if (share := numbers[first::workers])]


def _words(folder: Path, numbers: Sequence[int]) -> list[str]:
    return ["-m", "danlu.data.parts", str(folder.resolve()), *map(str, numbers)]


def _told(folder: Path, numbers: Sequence[int], began: float, before: str, tell: Tell) -> None:
    done = len(numbers) - len(parts.left(folder))
    rest = f", {(time.monotonic() - began) / done * (len(numbers) - done):.0f} s to go" if done else ""
    tell(f"{before}part {done} of {len(numbers)}{rest}", done / len(numbers))


def _started(folder: Path, numbers: Sequence[int]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    said = tempfile.TemporaryFile()
    tied = [sys.executable, "-m", "danlu.launch.child", str(os.getpid())]
    argv = [*tied, sys.executable, *_words(folder, numbers)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said), said


def _failed(folder: Path, code: int, said: IO[bytes]) -> PartFailed:
    said.seek(0)
    words = said.read().decode(errors="replace").strip().splitlines()
    return _undone(folder, f"its process ended with {code}: {words[-1] if words else 'it said nothing'}")


def _undone(folder: Path, why: str) -> PartFailed:
    left = parts.left(folder) or [0]
    return PartFailed("a part of the text was not cleaned", where=str(folder), why=why,
                      fix=f"see all it says: {sys.executable} -m danlu.data.parts {folder} {left[0]}")  # fmt: skip
