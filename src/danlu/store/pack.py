"""One immutable pack: records in the order of their key's hash, found by key with one read.

Records of nearby hashes lie in one bucket (about four of them); the index is one offset per bucket. Since hashes are
uniform, reading a pack from front to back is reading its records in random order: a scan is a shuffle.
The layout is `pack` in docs/formats.md.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.errors import DamagedPack, NewerFormat
from danlu.store import atomic

MAGIC = b"danlupk1"
PER_BUCKET = 4  # 1 byte of index per record, and a bucket of small files is still one read of a few KiB
HEAD = Struct("<QII")  # hash, bytes of the key, bytes of the value
FOOTER = np.dtype([("records", "<u8"), ("buckets", "<u8"), ("index", "<u8"), ("index_crc", "<u4"), ("crc", "<u4"),
                   ("magic", "S8")])  # fmt: skip
BUCKET_HEAD = 8  # CRC-32 of the rest of the bucket, then the number of records


class Record(NamedTuple):
    """One record; `hash` is its place in the order."""

    hash: int
    key: bytes
    value: bytes


def hash_of(key: bytes) -> int:
    """64-bit hash of a key: BLAKE2b with an 8-byte digest, big-endian."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def write(path: Path, records: Mapping[bytes, bytes]) -> int:
    """Write records as one pack, whole or not at all; returns its size in bytes. Raises DiskFull.

    Cost: one sort of the hashes and one pass over the bytes.
    """
    ordered = sorted(Record(hash_of(key), key, value) for key, value in records.items())
    buckets = -(-len(ordered) // PER_BUCKET)
    edges = np.searchsorted([r.hash * buckets >> 64 for r in ordered], np.arange(buckets)).tolist()
    offsets = np.zeros(buckets + 1, "<u8")
    offsets[0] = at = len(MAGIC)
    with atomic.replacing(path) as file:
        file.write(MAGIC)
        for number, (start, stop) in enumerate(zip(edges, [*edges[1:], len(ordered)], strict=True)):
            at += file.write(_bucket(ordered[start:stop]))
            offsets[number + 1] = at
        index = _narrow(offsets).tobytes()
        footer = np.zeros(1, FOOTER)
        footer[0] = (len(ordered), buckets, at, zlib.crc32(index), 0, MAGIC)
        footer["crc"] = zlib.crc32(footer.tobytes())
        file.write(index)
        file.write(footer.tobytes())
    return at + len(index) + FOOTER.itemsize


class Pack:
    """Owns one open pack file, mapped into memory. Raises DamagedPack, NewerFormat on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < len(MAGIC) + FOOTER.itemsize:
                    raise damaged(path, f"it has {size} bytes, fewer than its own footer")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise damaged(path, str(error)) from error
        footer = np.frombuffer(self._map[size - FOOTER.itemsize :], FOOTER).copy()
        found, footer["crc"] = int(footer["crc"][0]), 0
        magic = bytes(footer["magic"][0])
        if magic[:7] == MAGIC[:7] and magic[7:] > MAGIC[7:]:
            raise NewerFormat(
                f"{path.name} is a pack of version {magic[7:].decode()}",
                where=str(path),
                why=f"this danlu reads version {MAGIC[7:].decode()}",
                fix="update danlu: git pull",
            )
        if magic != MAGIC or self._map[: len(MAGIC)] != MAGIC or zlib.crc32(footer.tobytes()) != found:
            raise damaged(path, f"the last {FOOTER.itemsize} bytes are not a footer: the file was cut or changed")
        self.records, self._buckets, at = (int(footer[name][0]) for name in ("records", "buckets", "index"))
        index = self._map[at : size - FOOTER.itemsize]
        if zlib.crc32(index) != footer["index_crc"][0]:
            raise damaged(path, "the index has another checksum than when it was written")
        self._offsets = np.frombuffer(index, "<u4" if len(index) == 4 * (self._buckets + 1) else "<u8")
        self.index_bytes = len(index)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if the pack has none. One read of one bucket. Raises DamagedPack."""
        wanted = hash_of(key)
        number = wanted * self._buckets >> 64
        self._fetch(number)
        for record in self._read(number):
            if record.hash == wanted and record.key == key:
                return record.value
        return None

    def scan(self, start: int = 0) -> Iterator[Record]:
        """Records with a hash of `start` or more, in hash order. Raises DamagedPack at a damaged bucket."""
        for number in range(start * self._buckets >> 64, self._buckets):
            for record in self._read(number):
                if record.hash >= start:
                    yield record

    def verify(self) -> Iterator[str]:
        """What is wrong with each damaged bucket; nothing for a whole pack. Reads everything."""
        whole = 0
        for number in range(self._buckets):
            try:
                whole += len(self._read(number))
            except DamagedPack as error:
                yield error.why
        if whole < self.records:
            yield f"{self.records - whole} of {self.records} records cannot be read"

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _fetch(self, number: int) -> None:
        """Ask for a bucket's pages at once: page faults alone would read 128 KiB around it."""
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        first = start & -mmap.PAGESIZE
        if stop > start:
            self._map.madvise(mmap.MADV_WILLNEED, first, stop - first)

    def _read(self, number: int) -> list[Record]:
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        if start == stop:
            return []
        bucket = self._map[start:stop]
        if zlib.crc32(bucket[4:]) != int.from_bytes(bucket[:4], "little"):
            raise damaged(self.path, f"bucket {number} at byte {start} has another checksum than when it was written")
        count = int.from_bytes(bucket[4:8], "little")
        at = BUCKET_HEAD + count * HEAD.size
        found = []
        for key_hash, key, value in HEAD.iter_unpack(bucket[BUCKET_HEAD:at]):
            found.append(Record(key_hash, bucket[at : at + key], bucket[at + key : at + key + value]))
            at += key + value
        return found


def damaged(path: Path, why: str) -> DamagedPack:
    """The error for a pack whose bytes are not those that were written."""
    return DamagedPack(
        f"{path.name} is damaged",
        where=str(path),
        why=why,
        fix="prepare the data again: remove that store folder and run danlu prep",
    )


def _bucket(records: list[Record]) -> bytes:
    if not records:
        return b""
    heads = (HEAD.pack(r.hash, len(r.key), len(r.value)) for r in records)
    body = b"".join([len(records).to_bytes(4, "little"), *heads, *(part for r in records for part in (r.key, r.value))])
    return zlib.crc32(body).to_bytes(4, "little") + body


def _narrow(offsets: npt.NDArray[np.uint64]) -> npt.NDArray[np.unsignedinteger]:
    return offsets.astype("<u4") if offsets[-1] < 2**32 else offsets
