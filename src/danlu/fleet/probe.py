"""Measures the cards of this machine and the links between them.

Every vendor's file whose cards are here is asked for them; the CPU gives one card per core, measured by
danlu.fleet.measure on all cores at once, because a core alone is faster than one whose neighbours work.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from danlu import plugins
from danlu.errors import MissingPackage, ProbeFailed
from danlu.fleet.driver import Driver
from danlu.nouns import Card, Fleet, Host, Link, Rate

Progress = Callable[[str], None]


def _silent(text: str) -> None:
    """Progress for callers that want none."""


MOST_CHILDREN = 16  # cores measured at once; more say nothing new
# What a rank runs under: one thread, and memory kept for the next micro-batch instead of given back to the kernel.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip


def probe(*, progress: Progress | None = None, grid: Literal["quick", "full"] = "quick") -> Fleet:
    """This machine as a fleet: about 15 s with the quick grid, a minute with the full one.

    progress  called with a line of text now and then
    Raises MissingPackage without torch, ProbeFailed when a measurement dies.
    """
    say = progress or _silent
    cards = cpu_cards(say, grid)
    for name in plugins.names("danlu.fleet.vendors"):
        driver: Driver = plugins.load("danlu.fleet.vendors", name)
        if name != "cpu" and not driver.present():
            cards += driver.cards()
    say("the link between processes")
    link = loopback()
    names = [card.name for card in cards]
    links = tuple(Link(a, b, link.latency_s, link.bandwidth) for i, a in enumerate(names) for b in names[i + 1 :])
    host = Host("local", memory_bytes(), processor())
    return Fleet(platform.node() or "local", cards, links, (host,))


def cpu_cards(say: Progress = _silent, grid: str = "quick") -> tuple[Card, ...]:
    """One card per core that this process may use, an even share of the memory each; all have the same rates."""
    cores = len(os.sched_getaffinity(0))
    rates = measured(min(cores, MOST_CHILDREN), grid, say)
    products = [rate for rate in rates if rate.op == "matmul"]
    flops = {dtype: max(rate.per_s for rate in products if rate.dtype == dtype) for dtype in ("fp32", "bf16")}
    read = max(rate.per_s for rate in rates if rate.op == "read")
    kept = tuple(rate for rate in rates if rate.op != "read")
    share = memory_bytes() // cores
    return tuple(Card(f"cpu:{i}", "cpu", processor(), flops, share, read, cores=1.0, rates=kept) for i in range(cores))


def measured(children: int, grid: str, say: Progress) -> tuple[Rate, ...]:
    """Median rates over all passes of so many processes measuring at once."""
    argv = [sys.executable, "-m", "danlu.fleet.measure", grid]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    say(f"measuring {children} cores at once; the first result comes when torch has started")
    running = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(children)
    ]
    texts: list[str] = [""] * children
    readers = [threading.Thread(target=_drain, args=(texts, i, child)) for i, child in enumerate(running[1:], 1)]
    for reader in readers:
        reader.start()
    try:
        texts[0] = "\n".join(_watched(running[0], say))
        for child in running:
            if child.wait() != 0:
                raise _died(child)
    finally:
        for child in running:
            child.kill()
        for reader in readers:
            reader.join()
        for child in running:
            child.communicate()
    return settled(json.loads(line) for text in texts for line in text.splitlines())


def settled(lines: Iterable[tuple[str, str, list[int], float, float]]) -> tuple[Rate, ...]:
    """Median rates at one speed of the machine: that of the median reference, which is noted as the rate "usual".

    lines  (operator, dtype, shape, work per second, seconds of the reference work beside it)
    """
    measured = list(lines)
    usual_s = statistics.median(reference_s for _, dtype, *_, reference_s in measured if dtype == "fp32")
    found: dict[tuple[str, str, tuple[int, ...]], list[float]] = {("usual", "fp32", ()): [1 / usual_s]}
    for op, dtype, shape, per_s, reference_s in measured:
        found.setdefault((op, dtype, tuple(shape)), []).append(per_s * reference_s / usual_s)
    return tuple(Rate(*point, float(f"{statistics.median(each):.4g}")) for point, each in found.items())


def _drain(texts: list[str], index: int, child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    texts[index] = child.stdout.read()


def _watched(child: subprocess.Popen[str], say: Progress) -> Iterator[str]:
    assert child.stdout is not None
    for count, line in enumerate(child.stdout):
        if count % 50 == 0:
            say(f"{count} points measured; now {json.loads(line)[0]}")
        yield line.strip()


def _died(child: subprocess.Popen[str]) -> MissingPackage | ProbeFailed:
    assert child.stderr is not None
    last = (child.stderr.read().strip().splitlines() or ["no message"])[-1]
    if "No module named" in last:
        return MissingPackage("probe needs torch", why=last, fix="pip install 'danlu[torch]'")
    return ProbeFailed(f"a measurement ended with code {child.returncode}", why=last, fix="danlu doctor",
                       where="python -m danlu.fleet.measure")  # fmt: skip


def loopback(repeats: int = 200, size: int = 8 * 2**20) -> Link:
    """Latency and bandwidth of a socket between two processes of this host (half a round trip, one way)."""
    here, there = socket.socketpair()
    child = subprocess.Popen([sys.executable, "-c", _ECHO, str(there.fileno()), str(size)], pass_fds=[there.fileno()])
    there.close()
    with here:
        try:
            answer, block = bytearray(1), bytes(size)
            trips, bulk = [], []
            for _ in range(repeats):
                start = time.perf_counter()
                here.sendall(b"p")
                here.recv_into(answer)
                trips.append(time.perf_counter() - start)
            for _ in range(8):
                start = time.perf_counter()
                here.sendall(block)
                here.recv_into(answer)
                bulk.append(time.perf_counter() - start)
        finally:
            here.close()
            child.wait()
    latency = statistics.median(trips) / 2
    return Link("", "", latency, size / max(statistics.median(bulk) - 2 * latency, 1e-9))


_ECHO = """
import socket, sys
line, size = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
block = bytearray(size)
while line.recv_into(block, 1) and block[0] == ord("p"):
    line.sendall(b"p")
left = size - 1
while True:
    got = line.recv_into(block, left or size)
    if not got:
        break
    left = (left or size) - got
    if not left:
        line.sendall(b"d")
"""


def memory_bytes() -> int:
    """Memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor() -> str:
    """The CPU's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
