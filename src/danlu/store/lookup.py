"""A key's newest value among packs: in one native call where they are local files, else bucket by bucket."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from danlu.store import clib
from danlu.store.batch import REMOVED
from danlu.store.hashing import Hashes, hash_many, hash_of
from danlu.store.home import PAGE
from danlu.store.pack import Pack, damaged
from danlu.store.unread import Unread

ROOM = 64 << 10  # bytes a bucket may have before the buffer of a thread grows


class _Buffer(threading.local):
    """What one thread reads buckets into; readers of one store may be many threads."""

    def __init__(self) -> None:
        self.where = np.zeros(3, np.int64)
        self.where_at = clib.at(self.where)
        self.grow(ROOM)

    def grow(self, room: int) -> None:
        whole = np.empty(room + PAGE, np.uint8)
        self.room, self.data = room, whole[-clib.at(whole) % PAGE :][:room]  # begins a page, as direct reads ask
        self.data_at, self.view = clib.at(self.data), self.data.data


class Lookup:
    """Look-ups in packs, given oldest first: those of the last merge, one for each range, then the young ones.

    It borrows the packs.
    """

    def __init__(self, packs: Sequence[Pack | Unread]) -> None:
        merged = [each for each in packs if each.merged]
        self._packs = [each for each in packs[::-1] if not each.merged]
        self._young, self._bits = len(self._packs), merged[0].bits if merged else 0
        slots: list[Pack | Unread | None] = [None] * (1 << self._bits if merged else 0)
        for each in merged:
            slots[each.prefix] = each
        every = [*self._packs, *slots]
        self._seen = [_unseen(each) for each in every]
        self._table = (clib.CPack * len(every))(*map(_c, every, self._seen))
        self._packs += [each or merged[0] for each in slots]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._given = clib.CTable(ctypes.addressof(self._table), self._young, len(every), memory, memory, self._bits,
                                  int(bool(merged)))  # fmt: skip
        self._at, self._buffer = ctypes.addressof(self._given), _Buffer()
        self._library = None if any(each.reader.fd < 0 for each in packs) else clib.library()

    @property
    def seen_bytes(self) -> int:
        """Memory that says which buckets were read already: a bit for each."""
        return sum(each.nbytes for each in self._seen if each is not None)

    def get(self, key: bytes) -> bytes | None:
        """The newest value, None if there is none or it was removed. Raises DamagedPack.

        A bucket that is asked for once is read past the page cache, one that is asked for again stays in it.
        """
        if self._library is None:
            return self._get_plain(key)
        mine = self._buffer
        found = self._library.danlu_store_get(self._at, key, len(key), mine.data_at, mine.room, mine.where_at)
        if found == 1:
            start, count, _ = mine.where.tolist()
            return bytes(mine.view[start : start + count])
        return None if found in (0, 2) else self._unusual(found, key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The newest value of each key; all reads are under way at once. Raises DamagedPack."""
        hashes = hash_many(keys)
        if self._library is not None:
            self._library.danlu_store_want(self._at, clib.at(hashes), len(hashes))
        return [self.get(key) for key in keys]

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.int32], Hashes, Hashes]:
        """By hash: number of the merged pack that covers it, and where its bucket starts and stops there.

        What a look-up asks the index, without a read. The store must be merged, and the native library there.
        """
        assert self._given.merged and self._library is not None
        packs = np.empty(len(hashes), np.int32)
        starts, stops = np.empty(len(hashes), np.uint64), np.empty(len(hashes), np.uint64)
        self._library.danlu_store_find(self._at, clib.at(hashes), len(hashes), clib.at(packs), clib.at(starts),
                                       clib.at(stops))  # fmt: skip
        return packs, starts, stops

    def _unusual(self, found: int, key: bytes) -> bytes | None:
        mine = self._buffer
        if found == -1:
            mine.grow(2 * int(mine.where[0]))
            return self.get(key)
        pack = self._packs[int(mine.where[2])]
        assert isinstance(pack, Pack), "native code is given packs that are open"
        start, _ = pack.span(hash_of(key))
        what = "has another checksum than when it was written" if found == -2 else "cannot be read from the disk"
        raise damaged(pack.where, f"the bucket at byte {start} {what}")

    def _get_plain(self, key: bytes) -> bytes | None:
        key_hash = hash_of(key)
        for each in self._packs:
            found = each.look(key, key_hash) if each.covers(key_hash) else None
            if found is not None:
                record = next(found.records())
                return None if found.value_count[0] == REMOVED else record.value
        return None


def _unseen(pack: Pack | Unread | None) -> Hashes | None:
    return None if pack is None or pack.reader.direct < 0 else np.zeros(-(-pack.buckets // 64), np.uint64)


def _c(pack: Pack | Unread | None, seen: Hashes | None) -> clib.CPack:
    if pack is None:
        return clib.CPack(clib.COffsets(None, None, None, 0, 0), 0, None, 0, -1, -1, 0)
    marks = None if seen is None else clib.at(seen)
    return clib.CPack(clib.offsets_at(pack.offsets), pack.buckets, marks, pack.bits, pack.reader.fd,
                      pack.reader.direct, pack.prefix)  # fmt: skip
