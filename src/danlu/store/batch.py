"""Many records as arrays over one buffer: what packs are read into and written from, without an object per record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.store.hashing import Hashes

Bytes = bytes | bytearray | memoryview
REMOVED = 0xFFFFFFFF  # value bytes of a record that says "this key is gone"


class Record(NamedTuple):
    """One record; `hash` is its place in the order."""

    hash: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records n = 0, 1, ...: hash[n], where key and value stand in `data`; a value of REMOVED bytes is a removal."""

    data: Bytes
    hash: Hashes
    key_at: npt.NDArray[np.int64]
    key_count: npt.NDArray[np.uint32]
    value_at: npt.NDArray[np.int64]
    value_count: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.hash)

    def take(self, which: npt.NDArray[np.int64] | slice) -> Batch:
        """The chosen records, in the order chosen."""
        return Batch(self.data, self.hash[which], self.key_at[which], self.key_count[which], self.value_at[which],
                     self.value_count[which])  # fmt: skip

    def between(self, low: int, high: int) -> Batch:
        """Of records in hash order, those with low <= hash < high; high may be 2**64."""
        start = int(np.searchsorted(self.hash, np.uint64(low))) if low else 0
        stop = int(np.searchsorted(self.hash, np.uint64(high))) if high < 1 << 64 else len(self)
        return self if stop - start == len(self) else self.take(slice(start, stop))

    def within(self, low: int, high: int) -> Batch:
        """Of records in any order, those with low <= hash < high; high may be 2**64."""
        inside = self.hash >= np.uint64(low)
        if high < 1 << 64:
            inside &= self.hash < np.uint64(high)
        return self if inside.all() else self.take(np.flatnonzero(inside))

    def present(self) -> Batch:
        """Without removals."""
        gone = self.value_count == REMOVED
        return self.take(np.flatnonzero(~gone)) if gone.any() else self

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        return int(self.key_count.sum(dtype=np.int64) + self._values().sum())

    def _values(self) -> npt.NDArray[np.int64]:
        gone = self.value_count == REMOVED
        return np.where(gone, 0, self.value_count).astype(np.int64) if gone.any() else self.value_count.astype(np.int64)

    def key(self, n: int) -> bytes:
        """Key of record n."""
        return bytes(self.data[self.key_at[n] : self.key_at[n] + self.key_count[n]])

    def records(self) -> Iterator[Record]:
        """Each as an object; removals have an empty value. The buffer must be bytes."""
        assert isinstance(self.data, bytes)
        data, keys, middles = (
            self.data,
            self.key_at.tolist(),
            self.value_at.tolist(),
        )  # a value begins where its key ends
        ends = (self.value_at + self._values()).tolist()
        found = [data[i:j] for i, j in zip(keys, middles, strict=True)]
        # Not Record(...): its __new__ is Python and costs a third of a scan.
        made = partial(tuple.__new__, Record)
        every = [data[i:j] for i, j in zip(middles, ends, strict=True)]
        return map(made, zip(self.hash.tolist(), found, every, strict=True))


def joined(batches: Sequence[Batch]) -> Batch:
    """All records of several batches, in the order given."""
    if len(batches) == 1:
        return batches[0]
    moves = np.cumsum([0, *(len(each.data) for each in batches)])
    return Batch(
        b"".join(each.data for each in batches),
        np.concatenate([np.empty(0, np.uint64), *(each.hash for each in batches)]),
        np.concatenate([np.empty(0, np.int64), *(b.key_at + m for b, m in zip(batches, moves, strict=False))]),
        np.concatenate([np.empty(0, np.uint32), *(each.key_count for each in batches)]),
        np.concatenate([np.empty(0, np.int64), *(b.value_at + m for b, m in zip(batches, moves, strict=False))]),
        np.concatenate([np.empty(0, np.uint32), *(each.value_count for each in batches)]),
    )


def settled(batch: Batch) -> npt.NDArray[np.int64]:
    """Which records count, in the order of a pack (hash, then key): of one key the first of the batch."""
    order = np.argsort(batch.hash, kind="stable")
    hashes = batch.hash[order]
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    if not len(again):
        return order
    keep = np.ones(len(order), np.bool_)
    run_starts = again[np.concatenate([[True], np.diff(again) > 1])] - 1
    run_stops = again[np.concatenate([np.diff(again) > 1, [True]])] + 1
    for start, stop in zip(run_starts.tolist(), run_stops.tolist(), strict=True):
        first: dict[bytes, int] = {}
        for number in order[start:stop].tolist():
            first.setdefault(batch.key(number), number)
        numbers = [first[key] for key in sorted(first)]
        order[start : start + len(numbers)] = numbers
        keep[start + len(numbers) : stop] = False
    return order[keep]
