"""Buckets to records and back: in native code, or in Python where there is no library (the reference for it).

A bucket is the CRC-32 of the rest (u32), the number of records (u32), their heads (hash u64, key bytes u32, value bytes
u32), then every key and value. See `pack` in docs/formats.md.
"""

from __future__ import annotations

import ctypes
import zlib
from struct import Struct

import numpy as np
import numpy.typing as npt

from danlu.store import clib
from danlu.store.batch import REMOVED, Batch, Bytes

HEAD = Struct("<QII")
BUCKET_HEAD = 8
Edges = npt.NDArray[np.int64]


class DamagedBucket(Exception):
    """The bytes of a bucket are not those that were written; its number is args[0]. Packs turn it into DamagedPack."""


def parse(data: Bytes, starts: Edges, stops: Edges) -> Batch:
    """Records of the buckets data[starts[0] : stops[0]], ... in the order they stand. Raises DamagedBucket."""
    library = clib.library()
    if library is None:
        return parse_plain(data, starts, stops)
    where = clib.at(starts), clib.at(stops), len(starts)
    # As many as there are: arrays for as many as could be are memory that is given back and asked for again each time.
    room = library.danlu_store_count(clib.start(data), len(data), *where)
    batch = Batch(data, np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.uint32),
                  np.empty(room, np.int64), np.empty(room, np.uint32))  # fmt: skip
    count = library.danlu_store_parse(ctypes.byref(_c(batch)), *where)
    if count < 0:
        raise DamagedBucket(-1 - count)
    return batch.take(slice(0, count))


def parse_plain(data: Bytes, starts: Edges, stops: Edges) -> Batch:
    """The same in Python."""
    rows: list[tuple[int, int, int, int, int]] = []
    for number, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        if start == stop:
            continue
        bucket = data[start:stop]
        at = BUCKET_HEAD + int.from_bytes(bucket[4:8], "little") * HEAD.size
        if zlib.crc32(bucket[4:]) != int.from_bytes(bucket[:4], "little") or at > len(bucket):
            raise DamagedBucket(number)
        for key_hash, keys, values in HEAD.iter_unpack(bucket[BUCKET_HEAD:at]):
            rows.append((key_hash, start + at, keys, start + at + keys, values))
            at += keys + (0 if values == REMOVED else values)
        if at > len(bucket):
            raise DamagedBucket(number)
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (np.uint64, np.int64, np.uint32, np.int64, np.uint32)
    return Batch(data, *(np.array(each, kind) for each, kind in zip(columns, kinds, strict=True)))


def lay(batch: Batch, first: int, last: int, of: int, bits: int, room: bytearray) -> tuple[Bytes, Edges]:
    """Bytes of the buckets first .. last - 1 of a pack of `of` buckets, and where each starts in them.

    batch  settled records, all of them of those buckets
    bits   of the hash that all records of the pack share
    room   where the bytes are put; it grows where it must, and is used again by the next call
    """
    library = clib.library()
    if library is None:
        return lay_plain(batch, first, last, of, bits)
    most = batch.size + len(batch) * HEAD.size + min(len(batch), last - first) * BUCKET_HEAD
    if most > len(room):
        room.extend(bytes(most - len(room)))
    edges = np.empty(last - first + 1, np.int64)
    size = library.danlu_store_lay(
        ctypes.byref(_c(batch)), first, last - first, of, bits, clib.start(room), most, clib.at(edges)
    )  # fmt: skip
    assert size >= 0, f"records outside the buckets {first} to {last} of {of}"
    return memoryview(room)[:size], edges


def lay_plain(batch: Batch, first: int, last: int, of: int, bits: int) -> tuple[bytearray, Edges]:
    """The same in Python."""
    out, edges = bytearray(), np.zeros(last - first + 1, np.int64)
    numbers = bucket_of(batch.hash, of, bits)
    assert not len(batch) or (first <= numbers[0] and numbers[-1] < last), f"records outside {first} to {last} of {of}"
    marks = np.searchsorted(numbers, np.arange(first, last + 1, dtype=np.uint64)).tolist()
    for number, (start, stop) in enumerate(zip(marks[:-1], marks[1:], strict=True)):
        if start < stop:
            heads, parts = b"", b""
            for n in range(start, stop):
                heads += HEAD.pack(int(batch.hash[n]), int(batch.key_count[n]), int(batch.value_count[n]))
                size = 0 if batch.value_count[n] == REMOVED else batch.value_count[n]
                parts += batch.key(n) + bytes(batch.data[batch.value_at[n] : batch.value_at[n] + size])
            body = (stop - start).to_bytes(4, "little") + heads + parts
            out += zlib.crc32(body).to_bytes(4, "little") + body
        edges[number + 1] = len(out)
    return out, edges


def bucket_of(hashes: npt.NDArray[np.uint64], of: int, bits: int) -> npt.NDArray[np.uint64]:
    """floor((hash << bits mod 2**64) * of / 2**64) for fewer than 2**32 buckets, without 128-bit numbers."""
    moved = hashes << np.uint64(bits)
    low = ((moved & np.uint64(0xFFFFFFFF)) * np.uint64(of)) >> np.uint64(32)
    return ((moved >> np.uint64(32)) * np.uint64(of) + low) >> np.uint64(32)


def _c(batch: Batch) -> clib.CBatch:
    return clib.CBatch(clib.start(batch.data), len(batch.data), clib.at(batch.hash), clib.at(batch.key_at),
                       clib.at(batch.key_count), clib.at(batch.value_at), clib.at(batch.value_count),
                       len(batch))  # fmt: skip
