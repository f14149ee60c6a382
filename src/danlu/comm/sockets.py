"""The collectives of comm/group.py over the sockets of a Wire: every message has a header, a checksum and a limit.

Everyone sends to everyone what they need, in one hop; large sums are cut by owner first, so that no rank carries more
than twice the array. A ring would carry no less and wait for every hop in turn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from danlu.comm.header import Tag
from danlu.comm.numbers import Array, add_up, flat, name_of
from danlu.comm.shm import bad_counts
from danlu.comm.wire import Wire

_WHOLE_BYTES = 1 << 16  # below this one hop with the whole array is sooner there than two with parts


class SocketGroup:
    """Collectives of `members` (ranks of the wire, in order) by messages. Used by the thread that uses the wire."""

    def __init__(self, wire: Wire, members: Sequence[int] | None = None, name: str = "coll") -> None:
        """name  kind of the messages, to tell two groups over one wire apart; at most 8 ASCII letters."""
        self.members = tuple(members) if members is not None else tuple(sorted((*wire.peers, wire.rank)))
        self.rank, self.size = self.members.index(wire.rank), len(self.members)
        self._wire, self._name, self._calls = wire, name, 0

    def all_reduce(self, array: Array) -> None:
        """Array becomes the sum over ranks."""
        data = flat(array)
        if self.size > 2 and data.nbytes > _WHOLE_BYTES:
            counts = even(data.size, self.size)
            data[...] = self.all_gather(self.reduce_scatter(data, counts), counts)
            return
        mine = data.copy()  # the sockets may still read it when the caller's array has its sum
        came = self._swap(dict.fromkeys(self._others(), mine), dict.fromkeys(self._others(), data.size), data)
        add_up([came.get(rank, mine) for rank in range(self.size)], data)

    def reduce_scatter(self, array: Array, counts: Sequence[int]) -> Array:
        """This rank's part of the sum, cut by `counts`."""
        data, ends = flat(array), list(accumulate(counts, initial=0))
        if len(counts) != self.size or min(counts) < 0 or ends[-1] != data.size:
            raise bad_counts("reduce_scatter", counts, data.size, self.size)
        parts = [data[start:stop] for start, stop in zip(ends, ends[1:], strict=False)]
        mine, count = parts[self.rank], counts[self.rank]
        sent = {rank: parts[rank].copy() for rank in self._others()}
        came = self._swap(sent, dict.fromkeys(self._others(), count), data)
        out = np.empty(count, data.dtype)
        add_up([came.get(rank, mine) for rank in range(self.size)], out)
        return out

    def all_gather(self, part: Array, counts: Sequence[int]) -> Array:
        """The parts of all ranks, one after the other."""
        data = flat(part)
        if len(counts) != self.size or min(counts) < 0 or counts[self.rank] != data.size:
            raise bad_counts("all_gather", counts, data.size, self.size)
        mine = data.copy()
        came = self._swap(dict.fromkeys(self._others(), mine), {r: counts[r] for r in self._others()}, data)
        return np.concatenate([came.get(rank, mine) for rank in range(self.size)])

    def broadcast(self, array: Array, root: int) -> None:
        """Array becomes the one of `root`."""
        if not 0 <= root < self.size:
            raise bad_counts("broadcast", (root,), array.size, self.size)
        data = flat(array)
        if self.rank == root:
            self._swap(dict.fromkeys(self._others(), data.copy()), {}, data)
        else:
            data[...] = self._swap({}, {root: data.size}, data)[root]

    def all_to_all(self, array: Array, sends: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """What came, by sender, and how many of each; the counts travel first."""
        data, ends = flat(array), list(accumulate(sends, initial=0))
        if len(sends) != self.size or min(sends) < 0 or ends[-1] != data.size:
            raise bad_counts("all_to_all", sends, data.size, self.size)
        told = self._swap(
            {r: np.array([sends[r]]) for r in self._others()}, dict.fromkeys(self._others(), 1), np.zeros(1, np.int64)
        )
        counts = tuple(int(told[r][0]) if r in told else sends[r] for r in range(self.size))
        sent = {r: data[ends[r] : ends[r + 1]].copy() for r in self._others()}
        came = self._swap(sent, {r: counts[r] for r in self._others()}, data)
        mine = data[ends[self.rank] : ends[self.rank + 1]]
        return np.concatenate([came.get(r, mine) for r in range(self.size)]), counts

    def abort(self) -> None:
        """Wake a collective that waits; the wire is gone with it."""
        self._wire.abort()

    def close(self) -> None:
        """Nothing of its own: the wire is its maker's."""

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _swap(self, sent: Mapping[int, Array], due: Mapping[int, int], like: Array) -> dict[int, Array]:
        """Send arrays by receiver, take `due` elements by sender, all of the kind of `like`."""
        return self.take(self.post(sent, like), due, like)

    def post(self, sent: Mapping[int, Array], like: Array) -> Tag:
        """Put arrays (unchanged until they are received) on their way; the tag under which `take` finds the others'."""
        self._calls += 1
        tag = Tag(self._name, self._calls)
        for rank, each in sent.items():
            self._wire.post(self.members[rank], tag, each, name_of(like), (each.size,), time.monotonic())
        return tag

    def take(self, tag: Tag, due: Mapping[int, int], like: Array) -> dict[int, Array]:
        """Arrays of `due` elements by sender, waited for."""
        found = {}
        for rank, count in due.items():
            message = self._wire.take(self.members[rank], tag, name_of(like), (count,))
            time.sleep(max(0.0, message.header.ready - time.monotonic()))  # only a paced link says when
            found[rank] = np.frombuffer(message.body, like.dtype)
        return found


def even(count: int, ranks: int) -> tuple[int, ...]:
    """Cut `count` elements into parts that differ by one at most, the larger ones first."""
    return tuple(count // ranks + (rank < count % ranks) for rank in range(ranks))
