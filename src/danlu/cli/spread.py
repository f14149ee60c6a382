"""Parts of a job by processes of this machine; all end when this one does, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from danlu.data import parts
from danlu.data.ingest import Tell
from danlu.errors import PartFailed

POLL_S = 0.02
TOLD_S = 0.5  # between two looks at which parts are done


def local(workers: int) -> parts.Run:
    """An executor of `workers` processes. It raises PartFailed with the last line of a process that failed."""

    def execute(folder: Path, numbers: Sequence[int], tell: Tell) -> None:
        shares = [share for first in range(workers) if (share := numbers[first::workers])]
        running = [_started(folder, share) for share in shares]
        began = told = time.monotonic()
        try:
            while any(process.poll() is None for process, _ in running):
                for process, said in running:
                    if process.poll():
                        raise _failed(folder, process.returncode, said)
                if time.monotonic() - told > TOLD_S:
                    told = time.monotonic()
                    done = len(numbers) - len(parts.left(folder))
                    rest = f", {(told - began) / done * (len(numbers) - done):.0f} s to go" if done else ""
                    tell(f"part {done} of {len(numbers)}{rest}", done / len(numbers))
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


def _started(folder: Path, numbers: Sequence[int]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    said = tempfile.TemporaryFile()
    tied = [sys.executable, "-m", "danlu.launch.child", str(os.getpid())]
    argv = [*tied, sys.executable, "-m", "danlu.data.parts", str(folder), *map(str, numbers)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said), said


def _failed(folder: Path, code: int, said: IO[bytes]) -> PartFailed:
    said.seek(0)
    words = said.read().decode(errors="replace").strip().splitlines()
    return PartFailed(
        "a part of the text was not cleaned", where=str(folder),
        why=f"its process ended with {code}: {words[-1] if words else 'it said nothing'}",
        fix=f"see all it says: {sys.executable} -m danlu.data.parts {folder} {parts.left(folder)[0]}",
    )  # fmt: skip
