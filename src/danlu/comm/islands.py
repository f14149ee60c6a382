"""Collectives over islands: inside one the fast way, between islands only their leaders, one crossing for each sum.

Sums are added in rank order inside an island, then in the order of islands: the same bits on every rank and in every
run; against the flat order they differ by fp32 rounding only (relative 1e-6 for a few terms).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from danlu.comm.crossing import sums
from danlu.comm.group import Group
from danlu.comm.numbers import Array, flat
from danlu.comm.shm import bad_counts
from danlu.comm.sockets import SocketGroup

CHUNKS = 16  # of a sum; one is summed inside the island while those before it cross
CHUNK_BYTES = (1 << 16, 1 << 18)  # least and most of one: a message costs 0.2 ms, whatever it carries


class IslandGroup:
    """The face of comm/group.py over islands: of `islands` (group ranks by island, ascending) this one is in one.

    inner    group of the own island, None when this rank is alone in it
    leaders  group of the first ranks of all islands, in their order; None on any other rank
    """

    def __init__(
        self, rank: int, islands: Sequence[Sequence[int]], inner: Group | None, leaders: SocketGroup | None
    ) -> None:
        self.rank, self.size = rank, sum(len(each) for each in islands)
        self.islands = tuple(tuple(each) for each in islands)
        self._inner, self._leaders = inner, leaders
        self._home = next(i for i, each in enumerate(self.islands) if rank in each)

    def all_reduce(self, array: Array) -> None:
        """Array becomes the sum over ranks. Chunks cross while others are summed inside, or spread."""
        data = flat(array)
        least, most = CHUNK_BYTES
        step = min(max(data.nbytes // CHUNKS, least), most) // data.itemsize
        chunks = [data[at : at + step] for at in range(0, data.size, step)] or [data]
        mine = (self._gather_sum(chunk) for chunk in chunks)
        if self._leaders is not None:
            for chunk in sums(self._leaders, chunks, mine):
                self._spread(chunk)
            return
        for _ in mine:
            pass
        for chunk in chunks:
            self._spread(chunk)

    def reduce_scatter(self, array: Array, counts: Sequence[int]) -> Array:
        """This rank's part of the sum, cut by `counts`."""
        ends = list(accumulate(counts, initial=0))
        if len(counts) != self.size or min(counts) < 0 or ends[-1] != array.size:
            raise bad_counts("reduce_scatter", counts, array.size, self.size)
        whole = flat(array).copy()
        self.all_reduce(whole)
        return whole[ends[self.rank] : ends[self.rank + 1]].copy()

    def all_gather(self, part: Array, counts: Sequence[int]) -> Array:
        """The parts of all ranks, one after the other; each crosses once."""
        if len(counts) != self.size or min(counts) < 0 or counts[self.rank] != part.size:
            raise bad_counts("all_gather", counts, part.size, self.size)
        sizes = [[counts[rank] for rank in island] for island in self.islands]
        here = flat(part)
        if self._inner is not None:
            here = self._inner.all_gather(here, sizes[self._home])
        whole = np.empty(sum(counts), part.dtype)
        if self._leaders is not None:
            whole[...] = self._leaders.all_gather(here, [sum(each) for each in sizes])
        self._spread(whole)
        return self._by_rank(whole, counts)

    def broadcast(self, array: Array, root: int) -> None:
        """Array becomes the one of `root`: to its island, over the leaders, into the other islands."""
        if not 0 <= root < self.size:
            raise bad_counts("broadcast", (root,), array.size, self.size)
        source = next(i for i, each in enumerate(self.islands) if root in each)
        if self._home == source and self._inner is not None:
            self._inner.broadcast(array, self.islands[source].index(root))
        if self._leaders is not None:
            self._leaders.broadcast(array, source)
        if self._home != source:
            self._spread(array)

    def all_to_all(self, array: Array, sends: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """What came, by sender, and how many of each: by all-gather, since few bytes cross between unlike cards."""
        if len(sends) != self.size or min(sends) < 0 or sum(sends) != array.size:
            raise bad_counts("all_to_all", sends, array.size, self.size)
        table = self.all_gather(np.asarray(sends, np.int64), [self.size] * self.size).reshape(self.size, self.size)
        totals = [int(row.sum()) for row in table]
        whole, begins = self.all_gather(array, totals), list(accumulate(totals, initial=0))
        starts = [begins[r] + int(table[r, : self.rank].sum()) for r in range(self.size)]
        counts = tuple(int(count) for count in table[:, self.rank])
        return np.concatenate([whole[at : at + n] for at, n in zip(starts, counts, strict=True)]), counts

    def abort(self) -> None:
        """Wake a collective that waits."""
        for each in (self._inner, self._leaders):
            if each is not None:
                each.abort()

    def close(self) -> None:
        """Give back what the own island holds."""
        if self._inner is not None:
            self._inner.close()

    def _gather_sum(self, chunk: Array) -> Array:
        """The island's sum of a chunk on its leader, an array of its own; nothing elsewhere."""
        if self._inner is None:
            return chunk.copy()
        return self._inner.reduce_scatter(chunk, [chunk.size] + [0] * (self._inner.size - 1))

    def _spread(self, array: Array) -> None:
        if self._inner is not None:
            self._inner.broadcast(array, 0)

    def _by_rank(self, whole: Array, counts: Sequence[int]) -> Array:
        """Parts that lie island by island, put into the order of ranks."""
        order = [rank for island in self.islands for rank in island]
        ends = list(accumulate((counts[rank] for rank in order), initial=0))
        parts = {rank: whole[at : at + counts[rank]] for rank, at in zip(order, ends, strict=False)}
        return np.concatenate([parts[rank] for rank in range(self.size)])
