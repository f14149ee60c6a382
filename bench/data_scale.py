"""Two workers beside one: every stage of prep from files to tokens, and what two cores of this machine can give at all.

The limit is measured in the same run: two processes that share nothing do the same work at once, and one does it alone.
Memory, caches, clocks and whatever else runs take their part of a second core before any program does.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

from danlu.cli import spread
from danlu.cli.output import table
from danlu.data import clean
from danlu.data.prep import prep

BIG = 320_000_000  # bytes that one and two workers prepare, most of what this machine has: 20 s of work for one process
STAGES = ("read", "clean", "vocab", "encode")
TEXT = ("read", "clean")
WORKERS = (0, 1, 2)  # 0: the process that asks does all, which is what data.workers: 1 runs
# What an alone process does when a line comes: the passes that cleaning spends its time in, over the same texts.
ALONE = """
import sys
from pathlib import Path
from danlu.data.measure import measure
from danlu.data.read import default_text
from danlu.data.sign import sign
texts = [each.read_bytes() for each in sorted(default_text()[0].parent.rglob("*.py"))[:400]]
print("ready", flush=True)
for line in sys.stdin:
    for first in range(0, len(texts), 50):
        measure(texts[first : first + 50])
        sign(texts[first : first + 50])
    print("done", flush=True)
"""

Row = list[Any]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys of two_processes; quick: half of the text."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as home:
        values, rows = two_processes(Path(home), min(rounds, 3), BIG // (2 if quick else 1))
        print(table(["two processes", "median", "least", "most"], rows) + "\n", flush=True)
    return values


def two_processes(home: Path, rounds: int, size: int) -> tuple[dict[str, Any], list[Row]]:
    """Wall time of `data.workers: 1` over that of `data.workers: 2`, the rounds in turn, on this machine's own files.

    scale_2_workers  of files to tokens: one process that does all without parts, over two that make parts
    scale_2_parts    the same, over one worker that makes parts; scale_2_clean  of files to clean text, both in parts
    scale_limit      of two processes that share nothing; scale_others  cores that other processes used meanwhile
    scale_by_cpu     the most that prep could reach by CPU time, of what its workers do and what is left to one process
    scale_s.STAGE.N  seconds of each stage with N workers; 0: without parts. Parts are cleaned as they are read: `read`
                     has both, and `clean` compares documents
    """
    seconds: dict[tuple[str, int], list[float]] = {(stage, n): [] for stage in (*STAGES, "prep") for n in WORKERS}
    limits: list[float] = []
    shares: list[float] = []
    before = _used()
    with _pair() as pair:
        for _ in range(rounds):
            limits.append(_limit(pair))
            for workers in WORKERS:
                own, theirs = os.times()[:2], os.times()[2:4]
                for stage, took in _stages(home / "out", workers, size).items():
                    seconds[stage, workers].append(took)
                if workers == 1:
                    alone, parted = sum(os.times()[:2]) - sum(own), sum(os.times()[2:4]) - sum(theirs)
                    shares.append((alone + parted) / (alone + parted / 2))
    (wall, busy, own), (wall_0, busy_0, own_0) = _used(), before
    medians = {each: statistics.median(found) for each, found in seconds.items()}
    values = {
        "scale_2_workers": medians["prep", 0] / medians["prep", 2],
        "scale_2_parts": medians["prep", 1] / medians["prep", 2],
        "scale_2_clean": sum(medians[each, 1] for each in TEXT) / sum(medians[each, 2] for each in TEXT),
        "scale_limit": statistics.median(limits),
        "scale_by_cpu": statistics.median(shares),
        "scale_others": (busy - busy_0 - own + own_0) / (wall - wall_0),
    }
    rows: list[Row] = [[f"{stage}, {n} worker{'s' * (n > 1)}, s", *_spread(found)]
                       for (stage, n), found in seconds.items()]  # fmt: skip
    rows += [["two that share nothing, beside one", *_spread(limits)]]
    rows += [[name, f"{value:.2f}", "", ""] for name, value in values.items()]
    return values | {f"scale_s.{stage}.{n}": value for (stage, n), value in medians.items()}, rows


def _stages(out: Path, workers: int, size: int) -> dict[str, float]:
    """Seconds of each stage of one prep, and of all."""
    begins: list[tuple[str, float]] = []
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    with spread.local(workers) if workers else nullcontext() as execute:
        prep([], out, vocab=4096, limit_bytes=size, steps=clean.STEPS, execute=execute, reads=execute is not None,
             tell=partial(_noted, begins))  # fmt: skip
    ends = [*(at for _, at in begins[1:]), time.perf_counter()]
    found = {stage: end - at for (stage, at), end in zip(begins, ends, strict=True)}
    return {**found, "prep": ends[-1] - began}


def _noted(begins: list[tuple[str, float]], stage: str) -> Callable[[str, float], None]:
    begins.append((stage, time.perf_counter()))
    return lambda words, share: None


@contextmanager
def _pair() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that do the same work, each when a line is sent to it."""
    argv = [sys.executable, "-c", ALONE]
    started = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for each in started:
            _out(each).readline()
        _took(started)  # the first time pages come in and code is met
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def _limit(pair: list[subprocess.Popen[str]]) -> float:
    """Twice the time of one process over that of both at once; each of them is the one in turn."""
    alone = [_took([each]) for each in pair]
    return 2 * statistics.mean(alone) / _took(pair)


def _took(some: list[subprocess.Popen[str]]) -> float:
    began = time.perf_counter()
    for each in some:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in some:
        _out(each).readline()
    return time.perf_counter() - began


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _used() -> tuple[float, float, float]:
    """Seconds since some moment: by the clock, of all cores' work, of this process's and its ended children's."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]
    return time.perf_counter(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def _spread(values: list[float]) -> list[str]:
    return [f"{each:.2f}" for each in (statistics.median(values), min(values), max(values))]


PARTS = {"two_processes": two_processes}
