"""Records on their way into a pack: keys and values one after the other in one buffer that is used again and again.

A dictionary of a writer's records would hold every value as an object and join them all once more; fresh memory for
both costs more than everything else that a pack needs.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

from danlu.store.batch import REMOVED, Batch, settled
from danlu.store.hashing import hash_at


class Arena:
    """Owns the buffer. Records are in the order they were given; of one key the last counts.

    room  bytes to begin with; the buffer grows where one record needs more
    """

    def __init__(self, room: int) -> None:
        self._room, self._data, self._used = room, _fresh(room), 0
        self._keys, self._values = list[int](), list[int]()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, value: bytes | None) -> int:
        """Take a record, None for a removal; returns the bytes that are held."""
        start, middle = self._used, self._used + len(key)
        end = middle + len(value) if value is not None else middle
        if end > len(self._data):
            grown = _fresh(max(end, len(self._data) + self._room))
            grown[:start] = self._data[:start]
            self._data = grown
        self._data[start:middle] = key
        if value is not None:
            self._data[middle:end] = value
        self._used = end
        self._keys.append(middle - start)
        self._values.append(end - middle if value is not None else -1)
        return end

    def batch(self) -> Batch:
        """The records as a pack has them: by hash, each key once. It is good until the next `clear`.

        Raises ValueError for a record of 4 GiB or more.
        """
        key_count, value_count = np.array(self._keys, np.int64), np.array(self._values, np.int64)
        if len(self) and (most := int(max(key_count.max(), value_count.max()))) >= REMOVED:
            raise ValueError(f"a record of {most} bytes; a pack takes fewer than 2**32")
        ends = np.cumsum(key_count + np.maximum(value_count, 0))
        value_at = ends - np.maximum(value_count, 0)
        key_at = value_at - key_count
        hashes = hash_at(self._data, key_at, key_count)
        value_count[value_count < 0] = REMOVED
        batch = Batch(self._data, hashes, key_at, key_count.astype(np.uint32), value_at, value_count.astype(np.uint32))
        newest_first = batch.take(slice(None, None, -1))
        return newest_first.take(settled(newest_first))

    def clear(self) -> None:
        """Forget all records; the buffer stays, at the size it began with."""
        if len(self._data) > 2 * self._room:
            self._data = _fresh(self._room)
        self._used = 0
        self._keys.clear()
        self._values.clear()


def _fresh(room: int) -> memoryview:
    """Memory that costs nothing until it is written to: a bytearray is zeroed where the process had such memory before.

    A part's writer fills a fifth of its two buffers; zeroing them took 8 ms, a tenth of a part that is read. Its pages
    are large where the system has such: to meet 16 MiB page by page takes 20 ms on a virtual machine.
    """
    made = mmap.mmap(-1, max(room, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            made.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(made)
