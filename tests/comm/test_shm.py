"""The all-reduce over shared memory: real processes, one of them killed."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from danlu import native

LATE, GONE = 3, 4
F32, BF16 = 1, 2


class Shm(ctypes.Structure):
    """struct danlu_shm of csrc/shm/shm.h."""

    _fields_ = (("segment", ctypes.c_void_p), ("slot_bytes", ctypes.c_int64), ("rank", ctypes.c_int32),
                ("ranks", ctypes.c_int32), ("calls", ctypes.c_uint64), ("done", ctypes.c_int64),
                ("waiting", ctypes.c_int64), ("watched", ctypes.c_int32 * 64))  # fmt: skip


class End:
    """One rank's end of a segment that was mapped before the processes split."""

    def __init__(self, segment: mmap.mmap, slot: int, rank: int, ranks: int) -> None:
        library = native.library()
        assert library is not None
        self._library, self._shm = library, Shm()
        self._bytes = (ctypes.c_char * len(segment)).from_buffer(segment)
        status = library.danlu_shm_open(
            ctypes.byref(self._shm),
            ctypes.c_void_p(ctypes.addressof(self._bytes)),
            ctypes.c_int64(len(segment)),
            ctypes.c_int64(slot),
            rank,
            ranks,
        )
        assert status == 0, status

    def reduce(self, array: np.ndarray, number: int = F32, seconds: float = 20.0) -> tuple[int, int]:
        """Status and late rank; the array becomes the sum."""
        late = ctypes.c_int(-1)
        status = self._library.danlu_shm_allreduce(
            ctypes.byref(self._shm),
            number,
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_int64(array.size),
            ctypes.c_int64(int(seconds * 1e9)),
            ctypes.byref(late),
        )
        return int(status), late.value

    def close(self) -> None:
        self._library.danlu_shm_close(ctypes.byref(self._shm))


def together(ranks: int, slot: int, body: Callable[[End, int], bool]) -> list[int]:
    """Run body(end, rank) in a process per rank; 0 where it was true, minus the signal that ended it."""
    library = native.library()
    if library is None:
        pytest.skip("no native library")
    library.danlu_shm_bytes.restype = ctypes.c_int64
    segment = mmap.mmap(-1, library.danlu_shm_bytes(ranks, ctypes.c_int64(slot)))
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if body(End(segment, slot, rank, ranks), rank) else 1)
            finally:
                os._exit(2)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def numbers(rank: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, rank]).standard_normal(count, dtype=np.float32)


@pytest.mark.procs
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_gets_the_sum_in_the_order_of_ranks(ranks):
    """Counts around a slot of 256 bytes: nothing, a part, a whole one, several pieces."""

    def body(end: End, rank: int) -> bool:
        for seed, count in enumerate([0, 1, 63, 64, 65, 300, 3] * 3):
            mine = numbers(rank, count, seed)
            wanted = numbers(0, count, seed)
            for other in range(1, ranks):
                wanted = wanted + numbers(other, count, seed)
            if end.reduce(mine) != (0, -1) or not np.array_equal(mine, wanted):
                return False
        end.close()
        return True

    assert together(ranks, 256, body) == [0] * ranks


@pytest.mark.procs
def test_bf16_is_summed_in_fp32_and_rounded_once():
    import torch

    def body(end: End, rank: int) -> bool:
        each = [torch.from_numpy(numbers(r, 700, 0)).bfloat16() for r in range(3)]
        each[1][5] = float("nan")
        mine = each[rank].clone().view(torch.int16).numpy()
        fine = end.reduce(mine, BF16) == (0, -1)
        wanted = (each[0].float() + each[1].float() + each[2].float()).bfloat16()
        return fine and torch.equal(torch.from_numpy(mine).view(torch.bfloat16).nan_to_num(7), wanted.nan_to_num(7))

    assert together(3, 512, body) == [0, 0, 0]


@pytest.mark.procs
def test_a_killed_peer_is_named_at_once():
    """Rank 1 kills itself between two calls; the others need not wait for the time limit."""

    def body(end: End, rank: int) -> bool:
        fine = end.reduce(numbers(rank, 10, 0)) == (0, -1)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        return fine and end.reduce(numbers(rank, 10, 1), seconds=60) == (GONE, 1) and time.monotonic() - began < 1

    assert together(3, 64, body) == [0, -signal.SIGKILL, 0]


@pytest.mark.procs
def test_a_peer_that_never_comes_is_late_by_the_limit():
    library = native.library()
    if library is None:
        pytest.skip("no native library")
    library.danlu_shm_bytes.restype = ctypes.c_int64
    end = End(mmap.mmap(-1, library.danlu_shm_bytes(2, ctypes.c_int64(64))), 64, 0, 2)
    began = time.monotonic()
    assert end.reduce(np.ones(4, np.float32), seconds=0.05) == (LATE, 1)
    assert 0.05 <= time.monotonic() - began < 5
    end.close()


def test_sizes_that_cannot_be_meant_are_refused():
    library = native.library()
    if library is None:
        pytest.skip("no native library")
    library.danlu_shm_bytes.restype = ctypes.c_int64
    for ranks, slot in ((0, 64), (65, 64), (2, 0), (2, 100), (2, 2**40)):
        assert library.danlu_shm_bytes(ranks, ctypes.c_int64(slot)) == 0
    with pytest.raises(AssertionError):
        End(mmap.mmap(-1, 4096), 64, 2, 2)
    with pytest.raises(AssertionError):
        End(mmap.mmap(-1, 64), 64, 0, 2)
