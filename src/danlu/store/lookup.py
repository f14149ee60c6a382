"""A key's newest value among packs: in one native call where they are local files, else bucket by bucket."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np

from danlu.store import clib
from danlu.store.batch import REMOVED
from danlu.store.hashing import hash_many, hash_of
from danlu.store.pack import Pack, damaged

ROOM = 64 << 10  # bytes a bucket may have before the buffer of a thread grows


class _Buffer(threading.local):
    """What one thread reads buckets into; readers of one store may be many threads."""

    def __init__(self) -> None:
        self.where = np.zeros(3, np.int64)
        self.where_at = clib.at(self.where)
        self.grow(ROOM)

    def grow(self, room: int) -> None:
        self.room, self.data = room, np.empty(room, np.uint8)
        self.data_at, self.view = clib.at(self.data), self.data.data


class Lookup:
    """Look-ups in packs, given newest first; it borrows them."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._packs, self._library = packs, clib.library()
        if any(each.reader.fd < 0 for each in packs):
            self._library = None
        self._table = (clib.CPack * len(packs))(*(_c(each) for each in packs))
        self._buffer = _Buffer()

    def get(self, key: bytes) -> bytes | None:
        """The newest value, None if there is none or it was removed. Raises DamagedPack."""
        if self._library is None:
            return self._get_plain(key)
        mine = self._buffer
        found = self._library.danlu_store_get(self._table, len(self._packs), key, len(key), mine.data_at, mine.room,
                                              mine.where_at)  # fmt: skip
        if found == 1:
            start, count, _ = mine.where.tolist()
            return bytes(mine.view[start : start + count])
        return None if found in (0, 2) else self._unusual(found, key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The newest value of each key; all reads are under way at once. Raises DamagedPack."""
        hashes = hash_many(keys)
        if self._library is not None:
            self._library.danlu_store_want(self._table, len(self._packs), clib.at(hashes), len(hashes))
        else:
            for key_hash in hashes.tolist():
                for each in self._packs:
                    if each.covers(key_hash):
                        each.reader.want(*each.span(key_hash))
        return [self.get(key) for key in keys]

    def _unusual(self, found: int, key: bytes) -> bytes | None:
        mine = self._buffer
        if found == -1:
            mine.grow(2 * int(mine.where[0]))
            return self.get(key)
        pack = self._packs[int(mine.where[2])]
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


def _c(pack: Pack) -> clib.CPack:
    index = ctypes.c_void_p(pack.offsets.ctypes.data)
    return clib.CPack(index, pack.buckets, pack.prefix, pack.bits, int(pack.wide), pack.reader.fd, 0)
