"""Sums between two processes of this host through shared memory; and how long until a killed one is named."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import statistics
import time
from collections.abc import Sequence
from typing import Any

from danlu import native
from danlu.cli.output import table

SIZES = (1, 8, 64)  # KiB
SLOT = 1 << 16
TIMES = 2_000  # sums in a row: one clock reading for all of them
LIMIT_NS = 10_000_000_000


def end(library: ctypes.CDLL, segment: mmap.mmap, rank: int) -> ctypes.Array[ctypes.c_char]:
    """One rank's end of the segment: a struct danlu_shm."""
    shm = (ctypes.c_char * 512)()
    place = ctypes.addressof((ctypes.c_char * len(segment)).from_buffer(segment))
    status = library.danlu_shm_open(
        shm, ctypes.c_void_p(place), ctypes.c_int64(len(segment)), ctypes.c_int64(SLOT), rank, 2
    )
    assert status == 0
    return shm


def reduce(library: ctypes.CDLL, shm: Any, numbers: Any, times: int) -> tuple[int, int]:
    """Status and late rank of so many sums in a row."""
    late = ctypes.c_int(-1)
    status = library.danlu_shm_repeat(
        shm,
        1,
        numbers,
        ctypes.c_int64(len(numbers)),
        ctypes.c_int64(times),
        ctypes.c_int64(LIMIT_NS),
        ctypes.byref(late),
    )
    return int(status), late.value


def measure(rounds: int) -> dict[str, Any]:
    """Keys: allreduce_8k_us (median over rounds), allreduce_64k_us, dead_peer_s."""
    if not possible():
        print("sums between processes need the native library and two cores")
        return {}
    took, dead = between(SIZES, rounds)
    rows = [
        [f"{size} KiB", *(f"{1e6 * f(each):.2f}" for f in (statistics.median, min, max))]
        for size, each in zip(SIZES, took, strict=True)
    ]
    print(table(["fp32 sum, 2 processes", "us", "least", "most"], rows))
    print(f"\na killed peer is named after {1e3 * dead:.1f} ms")
    middle = {size: 1e6 * statistics.median(each) for size, each in zip(SIZES, took, strict=True)}
    return {"allreduce_8k_us": middle[8], "allreduce_64k_us": middle[64], "dead_peer_s": dead}


def possible() -> bool:
    """Whether two processes can share memory here, each on a core of its own."""
    return native.library() is not None and len(os.sched_getaffinity(0)) > 1


def between(sizes: Sequence[int], rounds: int) -> tuple[list[list[float]], float]:
    """Seconds of one sum of so many KiB, by size and round; and how long until the killed one is named."""
    library = native.library()
    assert library is not None
    library.danlu_shm_bytes.restype = ctypes.c_int64
    cores = sorted(os.sched_getaffinity(0))[:2]
    segment = mmap.mmap(-1, library.danlu_shm_bytes(2, ctypes.c_int64(SLOT)))
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {cores[-1]})
            _run(library, end(library, segment, 1), sizes, rounds)
            signal.pause()
        finally:
            os._exit(1)
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[0]})
    try:
        shm = end(library, segment, 0)
        took = _run(library, shm, sizes, rounds)
        os.kill(child, signal.SIGKILL)
        began = time.perf_counter()
        found = reduce(library, shm, (ctypes.c_float * 256)(), 1)
        dead = time.perf_counter() - began
    finally:
        os.sched_setaffinity(0, own)
        os.waitpid(child, 0)
    assert found == (4, 1), found
    return took, dead


def _run(library: ctypes.CDLL, shm: Any, sizes: Sequence[int], rounds: int) -> list[list[float]]:
    """Seconds of one sum, by size and round; both ranks do the same."""
    took = []
    for size in sizes:
        numbers, each = (ctypes.c_float * (size * 256))(), []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            assert reduce(library, shm, numbers, TIMES) == (0, -1)
            each.append((time.perf_counter() - began) / TIMES)
        took.append(each[1:])
    return took
