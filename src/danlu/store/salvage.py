"""What is whole in a damaged pack: its buckets name their own sizes and carry checksums, so no index is needed.

A bucket with a single wrong bit is set right by its CRC-32, which differs for every place of the bit. (Up to 91,607
bits two wrong ones are told from one: Koopman, "32-Bit Cyclic Redundancy Codes for Internet Applications", DSN 2002,
table 1.) Of other damage one in 2**32 / bits would pass for a single bit, one in 8,000 at ONE_BIT bytes, less those
whose keys then have another hash than their heads say; whoever calls is told how many buckets were set right.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from danlu.store import bucket
from danlu.store.batch import REMOVED, Batch
from danlu.store.bucket import BUCKET_HEAD, HEAD
from danlu.store.hashing import hash_of

START = 8  # the first bucket begins after a pack's magic
ONE_BIT = 64 << 10
_LINE = np.dtype([("hash", "<u8"), ("keys", "<u4"), ("values", "<u4")])

Gap = tuple[int, int]  # first byte, and the one after the last


@dataclass(frozen=True, slots=True)
class Found:
    """Records of the whole buckets in order; keys that can still be read in the others; buckets of one wrong bit."""

    batch: Batch
    lost: tuple[bytes, ...]
    gaps: int
    corrected: int


def salvage(data: memoryview, edges: bucket.Edges | None = None, *, end: int = 0) -> Found:
    """The records of a pack's buckets; what is no whole bucket is left out.

    data   the pack; bits that were wrong are set right in it
    edges  where each bucket begins and the last one ends, if the index is whole; if not, buckets are looked for
    end    where they end at the latest
    Cost: one checksum of every byte; in what is damaged some microseconds a byte.
    """
    whole, gaps = _known(data, edges) if edges is not None else _walked(data, START, end)
    lost, corrected = list[bytes](), 0
    for first, after in gaps:
        if after - first <= ONE_BIT and _set_right(data[first:after]):
            whole.append((first, after))
            corrected += 1
        else:
            lost += _names(data[first:after])
    whole.sort()
    at = np.array(whole, np.int64).reshape(-1, 2)
    return Found(bucket.parse(data, at[:, 0].copy(), at[:, 1].copy()), tuple(lost), len(gaps) - corrected, corrected)


def _known(data: memoryview, edges: bucket.Edges) -> tuple[list[Gap], list[Gap]]:
    spans = [(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) if a < b]
    whole = [_stop(data, first, after) == after for first, after in spans]
    return [s for s, good in zip(spans, whole, strict=True) if good], [
        s for s, good in zip(spans, whole, strict=True) if not good
    ]


def _walked(data: memoryview, at: int, end: int) -> tuple[list[Gap], list[Gap]]:
    """Whole buckets from byte `at` on, and what lies between them."""
    whole, gaps, least = list[Gap](), list[Gap](), 0
    while at < end:
        stop = _stop(data, at, end, least)
        if stop is None:
            following = next((n for n in _likely(data, at + 1, end) if _stop(data, n, end, least)), end)
            gaps.append((at, following))
            at = following
            continue
        whole.append((at, stop))
        count = int.from_bytes(data[at + 4 : at + 8], "little")
        least, at = HEAD.unpack_from(data, at + BUCKET_HEAD + (count - 1) * HEAD.size)[0], stop
    return whole, gaps


def _likely(data: memoryview, at: int, end: int) -> Iterator[int]:
    """Places where a bucket of 1 to 65,535 records may begin."""
    step = 1 << 20
    for low in range(at, end - BUCKET_HEAD - HEAD.size + 1, step):
        part = np.frombuffer(data[low : min(low + step, end - BUCKET_HEAD) + BUCKET_HEAD], np.uint8)
        some = (part[4:-3] != 0) | (part[5:-2] != 0)
        yield from (low + np.flatnonzero(some & (part[6:-1] == 0) & (part[7:] == 0))).tolist()


def _stop(data: memoryview, at: int, end: int, least: int = 0) -> int | None:
    """Where the bucket at `at` ends, if one begins there whose hashes are at least `least`."""
    heads = _heads(data, at, end)
    if heads is None or heads["hash"][0] < least:
        return None
    sizes = heads["values"].astype(np.int64)
    sizes[heads["values"] == REMOVED] = 0
    stop = at + BUCKET_HEAD + len(heads) * HEAD.size + int(sizes.sum() + heads["keys"].sum(dtype=np.int64))
    whole = stop <= end and zlib.crc32(data[at + 4 : stop]) == int.from_bytes(data[at : at + 4], "little")
    return stop if whole else None


def _heads(data: memoryview, at: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.void]] | None:
    count = int.from_bytes(data[at + 4 : at + BUCKET_HEAD], "little")
    if not count or at + BUCKET_HEAD + count * HEAD.size > end:
        return None
    return np.frombuffer(data, _LINE, count, at + BUCKET_HEAD)


def _names(part: memoryview) -> Iterator[bytes]:
    """Keys in a damaged bucket that have the hash which its head says."""
    heads = _heads(part, 0, len(part))
    at = BUCKET_HEAD + (0 if heads is None else len(heads) * HEAD.size)
    for key_hash, keys, values in () if heads is None else heads.tolist():
        key = bytes(part[at : at + keys]) if at + keys <= len(part) else b""
        if len(key) == keys and hash_of(key) == key_hash:
            yield key
        at += keys + (0 if values == REMOVED else values)


def _set_right(part: memoryview) -> bool:
    """Whether the bytes are a bucket but for one bit, which is then set right."""
    if len(part) < BUCKET_HEAD + HEAD.size:
        return False
    wrong = zlib.crc32(part[4:]) ^ int.from_bytes(part[:4], "little")
    places = [(n // 8, n % 8) for n in range(32) if wrong == 1 << n] or _place(wrong, len(part) - 4)
    for byte, bit in places:
        part[byte] ^= 1 << bit
        heads = _heads(part, 0, len(part))
        if _stop(part, 0, len(part)) == len(part) and heads is not None and len(list(_names(part))) == len(heads):
            return True
        part[byte] ^= 1 << bit
    return False


def _place(wrong: int, count: int) -> list[tuple[int, int]]:
    """Byte (of the bucket) and bit that change the CRC-32 of `count` bytes by `wrong`: one at most for ONE_BIT."""
    for byte in range(count - 1, -1, -1):
        if wrong in _ONE:
            return [(4 + byte, _ONE[wrong])]
        number = _BY_TOP[wrong >> 24]  # what the change was one byte of zeros earlier
        wrong = ((wrong ^ _TABLE[number]) << 8 | number) & 0xFFFFFFFF
    return []


def _change(byte: int) -> int:
    return zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0")


_TABLE = [_change(byte) for byte in range(256)]
_BY_TOP = {value >> 24: byte for byte, value in enumerate(_TABLE)}
_ONE = {_TABLE[1 << bit]: bit for bit in range(8)}
