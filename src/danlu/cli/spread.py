"""Parts of a job by processes: of this machine, of a Slurm array, of a Ray cluster. Each makes the same bytes.

Those of this machine end when this process does, however it ends. Slurm and Ray need OUT in a folder that all nodes
share; what is done when they are stopped is not done again, wherever the next call runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from itertools import islice
from operator import length_hint
from pathlib import Path

from danlu import atomic
from danlu.data import parts
from danlu.data.ingest import Tell
from danlu.errors import PartFailed
from danlu.launch.child import tied
from danlu.launch.local import KEEP_MEMORY, ONE_THREAD
from danlu.ready import ready


@contextmanager
def local(workers: int) -> Iterator[parts.Run]:
    """An executor of `workers` processes, each given another part when one is done.

    They start with the block, so that they are ready when the files are listed, and stay until it ends: a start takes
    as long as a part or two. It raises PartFailed with the last words of a process that failed.
    """
    with ExitStack() as running:
        crew = [running.enter_context(_Worker()) for _ in range(workers)]

        def execute(folder: Path, numbers: Iterable[int], tell: Tell) -> Iterator[int]:
            count, todo, over = length_hint(numbers), iter(numbers), 0
            for worker in (*crew, *crew):  # the second one lies ready when the first is done
                worker.go(folder, todo)
            while busy := {worker.answers: worker for worker in crew if worker.asked}:
                for answers in ready(list(busy)):
                    number = busy[answers].done()
                    if number is None:
                        raise _undone(folder, busy[answers].failed())
                    over += 1
                    _told(over, max(count, over), "", tell)
                    yield number  # first: what is asked for next may depend on it
                    busy[answers].go(folder, todo)

        yield execute


def slurm(workers: int) -> parts.Run:
    """An executor of `workers` tasks of one Slurm job array. It raises PartFailed, and LaunchFailed without Slurm."""
    from danlu.launch import slurm

    def execute(folder: Path, asked: Iterable[int], tell: Tell) -> Sequence[int]:
        numbers = list(asked)
        commands = [[sys.executable, *_words(folder, *share)] for share in _shares(numbers, workers)]
        atomic.write(folder / "parts.sbatch", slurm.array("danlu-prep", commands, folder).encode())
        job = slurm.submit(folder / "parts.sbatch")
        state = slurm.follow(
            job, lambda state: _told(_done(folder, numbers), len(numbers), f"Slurm job {job} {state}, ", tell)
        )
        if state != "COMPLETED":
            logs = [log for log in sorted(folder.glob(f"slurm-{job}-*.log")) if log.stat().st_size]
            words = logs[0].read_text(errors="replace").strip().splitlines()[-1] if logs else "it wrote no log"
            raise _undone(folder, f"Slurm job {job} ended as {state}: {words}")
        return numbers

    return execute


def ray(workers: int, address: str | None) -> parts.Run:
    """An executor of `workers` tasks of a Ray cluster. Raises PartFailed, MissingPackage, LaunchFailed without one."""
    from danlu.launch import ray

    def execute(folder: Path, asked: Iterable[int], tell: Tell) -> Sequence[int]:
        numbers = list(asked)
        commands = [_words(folder, *share) for share in _shares(numbers, workers)]
        ended = ray.each(
            commands,
            address,
            lambda over: _told(_done(folder, numbers), len(numbers), f"{over} tasks over, ", tell),
        )
        for code, words in ended:
            if code:
                raise _undone(folder, f"its Ray task ended with {code}: {words}")
        return numbers

    return execute


def executor(on: str, workers: int, address: str | None) -> AbstractContextManager[parts.Run | None]:
    """What runs the parts while the block lasts; None where one process of this machine does everything."""
    if on == "slurm":
        return nullcontext(slurm(workers))
    if on == "ray":
        return nullcontext(ray(workers, address))
    return local(workers) if workers > 1 else nullcontext()


def _shares(numbers: Sequence[int], workers: int) -> list[Sequence[int]]:
    return [share for first in range(workers) if (share := numbers[first::workers])]


def _words(folder: Path, *numbers: int) -> list[str]:
    return ["-m", "danlu.data.parts", str(folder.resolve()), *map(str, numbers)]


def _done(folder: Path, numbers: Sequence[int]) -> int:
    return len(numbers) - len(parts.left(folder))


def _told(done: int, count: int, before: str, tell: Tell) -> None:
    tell(f"{before}part {done} of {count}", done / count)


class _Worker:
    """Owns a process that makes one part after the other; it ends when this one does, however that ends.

    asked  parts that it has been told to make and has not answered for
    """

    def __init__(self) -> None:
        self.asked = 0
        self._said = tempfile.TemporaryFile()
        work = [sys.executable, "-m", "danlu.data.parts", "-"]
        argv = tied(work)
        own = {**os.environ, **ONE_THREAD, **KEEP_MEMORY}
        self._process = subprocess.Popen(
            argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=own
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self.answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for each in (self._orders, self.answers, self._said):
            each.close()

    def go(self, folder: Path, todo: Iterator[int]) -> None:
        """Have it make the next part, if there is one, when it has made those before."""
        for number in islice(todo, 1):
            self.asked += 1
            with suppress(BrokenPipeError):  # it died, which the end of its answers says too
                self._orders.write(f"{number} {json.dumps(str(folder.resolve()))}\n".encode())

    def done(self) -> int | None:
        """The part that it has made; None when it has ended. Waits."""
        line = self.answers.readline()
        self.asked -= 1
        return int(line) if line else None

    def failed(self) -> str:
        """How the process ended, when its answers have."""
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        last = max((at for at, line in enumerate(lines) if not line[:1].isspace()), default=0)  # why and try follow it
        return f"its process ended with {code}: {' '.join(map(str.strip, lines[last:])) or 'it said nothing'}"


def _undone(folder: Path, why: str) -> PartFailed:
    left = parts.left(folder) or [0]
    return PartFailed("a part of the text was not made", where=str(folder), why=why,
                      fix=f"see all it says: {sys.executable} -m danlu.data.parts {folder} {left[0]}")  # fmt: skip
