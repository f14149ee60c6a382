"""The first moments of a started process: tie it to its parent's life, then become the job's command.

    python -m danlu.launch.child PARENT_PID COMMAND...

The tie is Linux's parent-death signal, which survives exec: however the parent ends, kill -9 included, the kernel ends
the child. It is set here and not between fork and exec, where a parent with threads must not run Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tie(parent: int) -> None:
    """Tie this process to the life of its parent; ends at once when that was gone before the tie was made."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def tied(argv: Sequence[str]) -> tuple[str, ...]:
    """A command that ends when this process does, however that ends. Start it from a thread that lives as long."""
    return (sys.executable, "-m", "danlu.launch.child", str(os.getpid()), *argv)


def main(argv: list[str]) -> None:
    """Never returns."""
    tie(int(argv[0]))
    os.execvp(argv[1], argv[1:])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
