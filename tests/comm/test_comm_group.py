"""Collectives over shared memory, sockets and islands: the sums of numpy, whatever carries them; real deaths."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from comm_world import grouped
from provoke import provoke

from danlu.comm.mesh import PeerLost
from danlu.comm.numbers import add_up
from danlu.comm.shm import ShmGroup, usable
from danlu.comm.sockets import SocketGroup

HERE, THERE, BEYOND = b"a" * 32, b"b" * 32, b"c" * 32
WAYS = {
    "shm": [HERE] * 3, "sockets": [HERE, THERE, BEYOND], "islands": [HERE, THERE, HERE, THERE, BEYOND],
    "two islands": [HERE, HERE, THERE],
}  # fmt: skip
KINDS = (np.float32, np.uint16, np.float16, np.float64, np.int32, np.int64, np.uint8)

pytestmark = [pytest.mark.procs, pytest.mark.skipif(not usable(), reason="no native library")]


def values(kind: type, count: int, *seed: int) -> np.ndarray:
    """Numbers whose sums are exact in any order and any kind, so that islands equal the flat order too."""
    whole = np.random.default_rng(list(seed)).integers(0, 20, count)
    if kind == np.uint16:  # bf16
        return (whole.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return whole.astype(kind)


def summed(kind: type, count: int, ranks: int, seed: int) -> np.ndarray:
    out = np.empty(count, kind)
    add_up([values(kind, count, seed, rank) for rank in range(ranks)], out)
    return out


def one_round(group, rank: int, ranks: int, kind: type, seed: int) -> bool:
    """Every collective once, with ragged counts around a slot of 64 KiB, some of them nothing."""
    rng = np.random.default_rng([seed, 999])
    counts = [int(rng.choice([0, 1, 7, 1000, 40_000])) for _ in range(ranks)]
    total, starts = sum(counts), np.cumsum([0, *counts])
    own = values(kind, total, seed, rank)
    wanted = summed(kind, total, ranks, seed)
    here = slice(starts[rank], starts[rank + 1])
    fine = np.array_equal(group.reduce_scatter(own, counts), wanted[here])
    group.all_reduce(own)
    fine &= np.array_equal(own, wanted)
    fine &= np.array_equal(group.all_gather(wanted[here].copy(), counts), wanted)
    root = seed % ranks
    news = values(kind, total, seed, 77) if rank == root else np.zeros(total, kind)
    group.broadcast(news, root)
    fine &= np.array_equal(news, values(kind, total, seed, 77))
    table = rng.integers(0, 3000, (ranks, ranks)) * rng.integers(0, 2, (ranks, ranks))
    sent = [np.split(values(kind, int(row.sum()), seed, 5, r), np.cumsum(row)[:-1]) for r, row in enumerate(table)]
    came, by = group.all_to_all(np.concatenate(sent[rank]), [int(n) for n in table[rank]])
    return bool(fine and by == tuple(table[:, rank]) and np.array_equal(came, np.concatenate([s[rank] for s in sent])))


@pytest.mark.parametrize("way", WAYS)
def test_every_collective_gives_what_numpy_gives(way):
    places = WAYS[way]

    def body(group, rank: int) -> bool:
        return all(one_round(group, rank, len(places), kind, seed) for seed, kind in enumerate(KINDS * 2))

    assert grouped(places, body) == [0] * len(places)


def test_shared_memory_and_sockets_give_the_same_bits():
    """Any fp32, bf16 and fp16 numbers, subnormal, infinite and NaN among them, not only those with exact sums."""
    bits = np.random.default_rng(3).integers(0, 2**32, (3, 5000), dtype=np.uint64).astype(np.uint32)
    cases = [bits.view(np.float32), bits.view(np.uint16), bits.view(np.float16)]

    def body(group, rank: int) -> bool:
        fine = True
        for case in cases:
            wanted, mine = np.empty_like(case[0]), case[rank].copy()
            with np.errstate(all="ignore"):
                add_up(list(case), wanted)
            group.all_reduce(mine)
            if case.dtype == np.uint16:
                mine, wanted = ((x.astype(np.uint32) << 16).view(np.float32) for x in (mine, wanted))
            fine &= np.array_equal(mine, wanted, equal_nan=True)
        return bool(fine and isinstance(group, ShmGroup))

    assert grouped([HERE] * 3, body) == [0] * 3


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_rank_ends_everyones_wait_within_a_second(way):
    places = WAYS[way]

    def body(group, rank: int) -> bool:
        began = time.monotonic()
        try:
            group.all_reduce(np.ones(5000, np.float32))
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            began = time.monotonic()
            while True:  # a rank of another island may get one more sum
                group.all_reduce(np.ones(5000, np.float32))
        except PeerLost:
            return time.monotonic() - began < 1

    ends = grouped(places, body)
    assert ends == [-signal.SIGKILL if rank == 1 else 0 for rank in range(len(places))]


@pytest.mark.parametrize("way", ["shm", "sockets"])
def test_a_rank_that_does_not_come_is_named(way):
    """Rank 2 waits on a pipe until both others have seen that it is late."""
    told, tell = os.pipe()

    def body(group, rank: int) -> bool:
        if rank == 2:
            return os.read(told, 1) + os.read(told, 1) == b"xx"
        with provoke("DL-RUN-011") as caught:
            group.all_reduce(np.ones(10, np.float32))
        os.write(tell, b"x")
        return "rank 2" in caught.error.what

    assert grouped(WAYS[way], body, limit_s=0.4) == [0, 0, 0]
    os.close(told)
    os.close(tell)


def test_ranks_at_different_collectives_are_told_apart():
    def body(group, rank: int) -> bool:
        with provoke("DL-RUN-010") as caught:
            if rank:
                group.all_reduce(np.ones(11, np.float32))
            else:
                group.all_reduce(np.ones(11, np.int32))
        return "a sum of 11 fp32" in caught.error.why and "a sum of 11 int32" in caught.error.why

    assert grouped([HERE] * 2, body) == [0, 0]


@pytest.mark.parametrize("way", ["shm", "sockets"])
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(way):
    def body(group, rank: int) -> bool:
        assert isinstance(group, ShmGroup if way == "shm" else SocketGroup)
        array = np.ones((4, 4), np.float32)
        for bad in (
            lambda: group.all_reduce(array.astype(np.complex64)),
            lambda: group.all_reduce(array.T[1:]),
            lambda: group.reduce_scatter(array, [16]),
            lambda: group.reduce_scatter(array, [4, 4, 4]),
            lambda: group.all_gather(array, [1, 2, 3]),
            lambda: group.all_gather(array, [-1, 2, 3]),
            lambda: group.broadcast(array, 3),
            lambda: group.all_to_all(array, [16, 1, -1]),
        ):
            with provoke("DL-RUN-010"):
                bad()
        group.all_reduce(array)
        return bool((array == 3).all())

    assert grouped(WAYS[way], body) == [0] * 3


def test_nothing_is_left_in_dev_shm():
    """A rank that is killed leaves what it has there by name: so it may have nothing."""

    def body(group, rank: int) -> bool:
        group.all_reduce(np.ones(10, np.float32))
        mapped = Path("/proc/self/maps").read_text().split()
        assert any("memfd" in each for each in mapped) and not any(each.startswith("/dev/shm/") for each in mapped)
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    assert grouped([HERE] * 2, body) == [-signal.SIGKILL] * 2
