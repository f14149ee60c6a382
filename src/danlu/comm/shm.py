"""Collectives between processes of one host through a segment of shared memory (csrc/shm).

The segment is memory without a name (memfd): the founder hands its descriptor on by process number, so nothing lies
in /dev/shm, and it is gone with the last process that holds it, however that one ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from danlu import native
from danlu.comm.mesh import Aborted, PeerLost
from danlu.comm.numbers import Array, flat, name_of
from danlu.errors import BadMessage, LateRank

SLOT_BYTES = 1 << 16  # two of each rank's fit the second-level cache
MAX_RANKS = 64  # kShmRanks
_NUMBERS = {"fp32": 1, "bf16": 2, "fp16": 3, "fp64": 4, "int32": 5, "int64": 6, "uint8": 7}  # danlu_number
_OK, _LATE, _GONE, _OTHER = 0, 3, 4, 5  # danlu_status
_SLICE_NS = 50_000_000  # how long a call may wait before Python sees signals and aborts


class _End(ctypes.Structure):
    """struct danlu_shm of csrc/shm/shm.h."""

    _fields_ = (("segment", ctypes.c_void_p), ("slot_bytes", ctypes.c_int64), ("rank", ctypes.c_int32),
                ("ranks", ctypes.c_int32), ("calls", ctypes.c_uint64), ("done", ctypes.c_int64),
                ("waiting", ctypes.c_int64), ("watched", ctypes.c_int32 * MAX_RANKS))  # fmt: skip


class _Flow(ctypes.Structure):
    """struct danlu_flow."""

    _fields_ = (("bytes", ctypes.c_int64), ("start", ctypes.c_int64), ("stop", ctypes.c_int64), ("out", ctypes.c_int64))


GiveUp = Callable[[int, float], str | None]  # of a late rank, and the seconds it was waited for: why not any longer


def usable() -> bool:
    """True when this process can share memory with others: Linux and the native library."""
    return hasattr(os, "memfd_create") and native.library() is not None


class Segment:
    """Owns a mapped piece of memory that other processes of this host may map as well."""

    def __init__(self, ranks: int, address: str | None = None) -> None:
        """address  of a segment that another process founded; None founds one. Raises OSError."""
        library = native.library()
        assert library is not None
        library.danlu_shm_bytes.restype = ctypes.c_int64
        size = library.danlu_shm_bytes(ranks, ctypes.c_int64(SLOT_BYTES))
        assert size
        if address is None:
            file = os.memfd_create("danlu", os.MFD_CLOEXEC)
            os.ftruncate(file, size)
        else:
            file = os.open(address, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_size != size:
                raise OSError(f"{address} has {os.fstat(file).st_size} bytes, not {size}")
            self.memory = mmap.mmap(file, size)
        except BaseException:
            os.close(file)
            raise
        self._settled = weakref.finalize(self, os.close, file)
        found = os.fstat(file)
        self.identity = (found.st_dev, found.st_ino)
        self.address = f"/proc/{os.getpid()}/fd/{file}"

    def settle(self) -> None:
        """Everyone has it: nobody can open it by its address any more."""
        self._settled()


class ShmGroup:
    """One rank's end of a segment, with the face of comm/group.py. Native code may use its handle."""

    def __init__(
        self, segment: Segment, members: Sequence[int], rank: int, *, limit_s: float = 60.0,
        give_up: GiveUp | None = None,
    ) -> None:  # fmt: skip
        """members  ranks of the job in this group, in order; rank  this one's

        limit_s  longest wait for a rank, where `give_up` does not decide in its place
        """
        library = native.library()
        assert library is not None
        self.members, self._give_up = tuple(members), give_up or _after(limit_s)
        self.rank, self.size = self.members.index(rank), len(self.members)
        self._library, self._segment, self._aborted = library, segment, False
        self._end, self._late = _End(), ctypes.c_int(-1)
        self._at, self._late_at = ctypes.byref(self._end), ctypes.byref(self._late)
        self._view = (ctypes.c_char * len(segment.memory)).from_buffer(segment.memory)
        long, pointer = ctypes.c_int64, ctypes.c_void_p
        opens = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, long, long, ctypes.c_int, ctypes.c_int)
        reduces = ctypes.CFUNCTYPE(
            ctypes.c_int, pointer, ctypes.c_int, pointer, pointer, long, long, long, ctypes.c_uint32, long, pointer
        )
        moves = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, pointer, ctypes.c_uint32, long, pointer)
        self._reduce = reduces(("danlu_shm_reduce", library))
        self._move = moves(("danlu_shm_move", library))
        status = opens(("danlu_shm_open", library))(
            self._at, ctypes.addressof(self._view), len(segment.memory), SLOT_BYTES, self.rank, self.size
        )
        assert status == _OK, status
        self._closed = weakref.finalize(self, library.danlu_shm_close, self._at)
        self._closed.atexit = False  # a forked child that ends says nothing in its parent's name

    @property
    def handle(self) -> int:
        """Address of the native end (struct danlu_shm), for an engine that reduces between its operators."""
        return ctypes.addressof(self._end)

    def all_reduce(self, array: Array) -> None:
        """Array becomes the sum over ranks. Cost: 2 us and a copy in, `size` copies out."""
        count, place, number = array.size, array.ctypes.data, _NUMBERS[name_of(array)]
        flat(array)
        self._run(self._reduce, number, place, place, count, 0, count, 1)

    def reduce_scatter(self, array: Array, counts: Sequence[int]) -> Array:
        """This rank's part of the sum, cut by `counts`."""
        ends = list(accumulate(counts, initial=0))
        if len(counts) != self.size or min(counts) < 0 or ends[-1] != array.size:
            raise bad_counts("reduce_scatter", counts, array.size, self.size)
        out = np.empty(counts[self.rank], array.dtype)
        number, place = _NUMBERS[name_of(array)], flat(array).ctypes.data
        start, stop = ends[self.rank], ends[self.rank + 1]
        self._run(self._reduce, number, place, out.ctypes.data, array.size, start, stop, _hash("scatter", counts))
        return out

    def all_gather(self, part: Array, counts: Sequence[int]) -> Array:
        """The parts of all ranks, one after the other."""
        if len(counts) != self.size or min(counts) < 0 or counts[self.rank] != part.size:
            raise bad_counts("all_gather", counts, part.size, self.size)
        out, width = np.empty(sum(counts), part.dtype), part.itemsize
        sizes = [count * width for count in counts]
        ends = list(accumulate(sizes, initial=0))
        flows = [(size, 0, size, at) for size, at in zip(sizes, ends, strict=False)]
        self._flow(part, out, flows, _hash(f"gather {name_of(part)}", counts))
        return out

    def broadcast(self, array: Array, root: int) -> None:
        """Array becomes the one of `root`."""
        if not 0 <= root < self.size:
            raise bad_counts("broadcast", (root,), array.size, self.size)
        flows = [(array.nbytes, 0, array.nbytes, 0) if r == root else (0, 0, 0, 0) for r in range(self.size)]
        self._flow(array, array, flows, _hash(f"broadcast {name_of(array)}", (root,)))

    def all_to_all(self, array: Array, sends: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """What came, by sender, and how many of each; the counts of all ranks travel first."""
        if len(sends) != self.size or min(sends) < 0 or sum(sends) != array.size:
            raise bad_counts("all_to_all", sends, array.size, self.size)
        table = self.all_gather(np.asarray(sends, np.int64), [self.size] * self.size).reshape(self.size, self.size)
        came, width = tuple(int(count) for count in table[:, self.rank]), array.itemsize
        out = np.empty(sum(came), array.dtype)
        starts = table[:, : self.rank].sum(axis=1) * width
        places = list(accumulate((count * width for count in came), initial=0))
        flows = [
            (int(table[r].sum()) * width, int(starts[r]), int(starts[r]) + came[r] * width, places[r])
            for r in range(self.size)
        ]
        self._flow(array, out, flows, _hash(f"exchange {name_of(array)}", ()))
        return out, came

    def abort(self) -> None:
        """Wake a collective that waits; it raises Aborted within 50 ms."""
        self._aborted = True

    def close(self) -> None:
        """Let go of the segment."""
        self._closed()
        self._segment.settle()

    def _flow(self, array: Array, out: Array, flows: Sequence[tuple[int, int, int, int]], detail: int) -> None:
        table = (_Flow * self.size)(*(_Flow(*flow) for flow in flows))
        self._run(self._move, flat(array).ctypes.data, out.ctypes.data, ctypes.addressof(table), detail)

    def missed(self, status: int, rank: int, waited_s: float) -> None:
        """A call of the native end came back with a status about member `rank`, `waited_s` after it began.

        Returns when the same call may be made again, for nobody came late enough; else raises as all collectives do.
        """
        if self._aborted:
            raise Aborted
        why = self._give_up(self.members[rank], waited_s) if status == _LATE else None
        if status != _LATE or why is not None:
            self._fail(status, rank, why or "")

    def _run(self, call: Any, *arguments: Any) -> None:
        if (status := call(self._at, *arguments, _SLICE_NS, self._late_at)) == _OK:
            return
        began = time.monotonic() - _SLICE_NS / 1e9
        while status != _OK:
            self.missed(status, self._late.value, time.monotonic() - began)
            status = call(self._at, *arguments, _SLICE_NS, self._late_at)

    def _fail(self, status: int, index: int, why: str) -> None:
        rank, where = self.members[index], f"rank {self.members[self.rank]}, process {os.getpid()}"
        if status == _GONE:
            raise PeerLost(rank, "its process is dead")
        if status == _OTHER:
            mine, theirs = self._said(self.rank), self._said(index)
            raise BadMessage(
                f"rank {rank} is at another collective",
                where=where,
                why=f"it brings {theirs}, this rank {mine}",
                fix="make every rank call the same collectives in the same order, with the same counts and kinds",
            )
        assert status == _LATE, status
        raise LateRank(
            f"rank {rank} did not come to a collective",
            where=where,
            why=f"{why}; its process {'lives' if self._end.watched[index] >= 0 else 'is unknown'}",
            fix="look at that rank's log; a slow machine may need a longer limit",
        )

    def _said(self, rank: int) -> str:
        what, detail, count = ctypes.c_int64(), ctypes.c_int64(), ctypes.c_int64()
        self._library.danlu_shm_said(self._at, rank, *(ctypes.byref(each) for each in (what, detail, count)))
        kinds = {number: name for name, number in _NUMBERS.items()}
        if what.value >> 16 == 1:
            return f"a sum of {count.value} {kinds.get(what.value & 0xFFFF, '?')}, shape {detail.value:x}"
        return f"{count.value} bytes to move, shape {detail.value:x}"


def _after(limit_s: float) -> GiveUp:
    return lambda rank, waited_s: f"waited {limit_s:g} s" if waited_s >= limit_s else None


def bad_counts(what: str, counts: Sequence[int], size: int, ranks: int) -> BadMessage:
    """The error of counts that are not one per rank, or not those of the array."""
    return BadMessage(
        f"{what} cannot be cut by {tuple(counts)}",
        why=f"the array has {size} elements, the group {ranks} ranks",
        fix="give one count per rank, the same everywhere, that match the array",
    )


def _hash(word: str, counts: Sequence[int]) -> int:
    return zlib.crc32(f"{word} {tuple(counts)}".encode())
