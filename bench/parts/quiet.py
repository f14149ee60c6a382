"""How quiet the machine is: how much more two processes that share nothing do than one of them; 2 on two idle cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from danlu.fleet.probe import ENVIRONMENT

TIMES = 150  # of the reference, about a millisecond each
WORK = """
import sys
from danlu.fleet.reference import Reference
work = Reference()
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        work.seconds()
    print("done", flush=True)
"""


@contextmanager
def pair() -> Iterator[Callable[[], float]]:
    """A function that looks: what two processes at once did over what one did, in the same time. Cost: 0.3 s a look."""
    argv = [sys.executable, "-c", WORK]
    around = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [subprocess.Popen(argv, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "12"]
    try:
        for each in both:
            assert each.stdout is not None and each.stdout.readline() == "ready\n"
        yield lambda: 2 * _seconds(both[:1]) / _seconds(both)
    finally:
        for each in both:
            each.kill()
            each.communicate()


def _seconds(some: list[subprocess.Popen[str]]) -> float:
    began = time.perf_counter()
    for each in some:
        assert each.stdin is not None
        each.stdin.write(f"{TIMES}\n")
        each.stdin.flush()
    for each in some:
        assert each.stdout is not None and each.stdout.readline() == "done\n"
    return time.perf_counter() - began
