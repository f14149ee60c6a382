"""One immutable pack: records in the order of their key's hash, found by key with one read.

Records of nearby hashes lie in one bucket (about four of them); the index is one offset per bucket. Since hashes are
uniform, reading a pack from front to back is reading its records in random order: a scan is a shuffle.
The layout is `pack` in docs/formats.md.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from danlu.errors import DamagedPack, NewerFormat
from danlu.store import bucket, clib
from danlu.store.batch import REMOVED, Batch, Record
from danlu.store.hashing import hash_of
from danlu.store.home import Home, Reader, Sink
from danlu.store.offsets import Offsets, from_bytes, offsets_of

__all__ = ["Pack", "PackFile", "Record", "damaged", "hash_of", "write"]
MAGIC, OLDER = b"danlupk3", b"danlupk2"  # the older one has its offsets plain
PER_BUCKET = 4  # half a byte of index per record, and a bucket of small files is still one read of a few KiB
FOOTER = np.dtype([("bits", "<u4"), ("removed", "<u4"), ("prefix", "<u8"), ("records", "<u8"), ("buckets", "<u8"),
                   ("index", "<u8"), ("index_crc", "<u4"), ("crc", "<u4"), ("magic", "S8")])  # fmt: skip
END = 1 << 64
PART = 8 << 20  # bytes read or written at a time


class PackFile:
    """Writes one pack into an open file, a run of whole buckets at a time, and then its index.

    buckets       their number; a quarter of the records is right
    bits, prefix  the pack holds the hashes whose first `bits` bits are `prefix`
    """

    def __init__(self, file: Sink, buckets: int, bits: int = 0, prefix: int = 0) -> None:
        self._file, self._buckets, self._bits, self._prefix = file, buckets, bits, prefix
        self._offsets = np.zeros(buckets + 1, np.int64)
        self._offsets[0] = self._at = len(MAGIC)
        self._next, self._room = 0, bytearray()
        self.records = self._removed = 0
        file.write(MAGIC)

    def put(self, batch: Batch, last: int) -> None:
        """Write the buckets up to `last` - 1. batch: settled records of exactly those buckets."""
        data, edges = bucket.lay(batch, self._next, last, self._buckets, self._bits, self._room)
        self._offsets[self._next : last + 1] = edges + self._at
        self._file.write(data)
        self._at += len(data)
        self._next, self.records = last, self.records + len(batch)
        self._removed += int((batch.value_count == REMOVED).sum())

    def end(self) -> int:
        """Write index and footer; returns the size of the pack in bytes."""
        assert self._next == self._buckets, f"{self._next} of {self._buckets} buckets were written"
        index = offsets_of(self._offsets).tobytes()
        footer = np.zeros(1, FOOTER)
        footer[0] = (self._bits, min(self._removed, REMOVED), self._prefix, self.records, self._buckets, self._at,
                     zlib.crc32(index), 0, MAGIC)  # fmt: skip
        footer["crc"] = zlib.crc32(footer.tobytes())
        self._file.write(index)
        self._file.write(footer.tobytes())
        return self._at + len(index) + FOOTER.itemsize


def write(home: Home, name: str, batch: Batch, bits: int = 0) -> None:
    """Write settled records as one pack, whole or not at all. Raises DiskFull. Cost: one pass over the bytes.

    bits  first bits that the hashes are expected to share; where they do, the pack covers their range alone
    """
    buckets = -(-len(batch) // PER_BUCKET)
    shared = {int(each) >> 64 - bits for each in batch.hash[[0, -1]]} if len(batch) else {0}
    bits, prefix = (bits, shared.pop()) if len(shared) == 1 else (0, 0)

    def fill(file: Sink) -> None:
        made = PackFile(file, buckets, bits, prefix)
        for low, high, last in _runs(buckets, batch.size, bits, prefix):
            made.put(batch.between(low, high), last)
        made.end()

    home.put(name, fill)


def _runs(buckets: int, size: int, bits: int, prefix: int) -> Iterator[tuple[int, int, int]]:
    """Runs of buckets of about PART bytes: least hash, hash after the last, bucket after the last."""
    step = max(1, buckets * PART // max(size, 1))
    for first in range(0, buckets, step):
        last = min(first + step, buckets)
        yield lowest(first, buckets, bits, prefix), lowest(last, buckets, bits, prefix), last


def lowest(number: int, buckets: int, bits: int = 0, prefix: int = 0) -> int:
    """The least hash that bucket `number` of a pack takes; for number = buckets, the first after the pack."""
    inside = -(-(number << 64) // buckets) if buckets else 0
    return -(-inside >> bits) + (prefix << 64 >> bits) if bits else inside


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring buckets of a pack, from number `first` on; `edges` are where each begins and the last ends."""

    pack: Pack
    first: int
    edges: bucket.Edges

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self.edges[-1] - self.edges[0])


class Pack:
    """Reads one pack; owns its reader. Raises DamagedPack, NewerFormat on opening."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.where = reader, reader.where
        size = reader.size
        if size < len(MAGIC) + FOOTER.itemsize:
            raise damaged(self.where, f"it has {size} bytes, fewer than its own footer")
        self.bits, self.prefix, self.removed, self.records, self.buckets, end, index_crc, magic = _footer(reader)
        index = reader.read(end, size - FOOTER.itemsize)
        if zlib.crc32(index) != index_crc:
            raise damaged(self.where, "the index has another checksum than when it was written")
        found_offsets = _plain(index, self.buckets + 1) if magic == OLDER else from_bytes(index, self.buckets + 1,
                                                                                         len(MAGIC), end)  # fmt: skip
        if found_offsets is None:
            raise damaged(self.where, f"the index is not that of {self.buckets} buckets")
        self.offsets, self.index_bytes, self.data_bytes = found_offsets, found_offsets.nbytes, end - len(MAGIC)
        self._offsets = clib.offsets_at(found_offsets)
        self.merged = ".m" in self.where.rsplit("/", 1)[-1]
        self.low, self.high = lowest(0, self.buckets, self.bits, self.prefix), self.prefix + 1 << 64 - self.bits

    def covers(self, key_hash: int) -> bool:
        """True when a key of this hash would be here."""
        return self.low <= key_hash < self.high and self.buckets > 0

    def covers_any(self, low: int, high: int) -> bool:
        """True when keys with low <= hash < high would be here."""
        return self.low < high and low < self.high and self.buckets > 0

    def span(self, key_hash: int) -> tuple[int, int]:
        """Where the bucket of a hash starts and stops in the file."""
        number = self._bucket(key_hash)
        start, stop = self._edges(number, number + 1).tolist()
        return start, stop

    def look(self, key: bytes, key_hash: int) -> Batch | None:
        """The one record of a key, None if the pack has none. One read of one bucket. Raises DamagedPack."""
        number = self._bucket(key_hash)
        found = self._parsed(number, number + 1)
        wanted = [n for n in np.flatnonzero(found.hash == np.uint64(key_hash)).tolist() if found.key(n) == key]
        return found.take(slice(wanted[0], wanted[0] + 1)) if wanted else None

    def batch(self, low: int, high: int) -> Batch:
        """Records with low <= hash < high, in hash order. Reads whole buckets. Raises DamagedPack."""
        low, high = max(low, self.low), min(high, self.high)
        if low >= high or not self.buckets:
            return bucket.parse(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
        found = self._parsed(self._bucket(low), self._bucket(high - 1) + 1)
        inside = len(found) and low <= found.hash[0].item() and found.hash[-1].item() < high
        return found if inside else found.between(low, high)

    def piece(self, low: int, high: int) -> Piece:
        """The buckets that hold low <= hash < high, a range of which the pack covers something."""
        first, last = self._bucket(max(low, self.low)), self._bucket(min(high, self.high) - 1) + 1
        return Piece(self, first, self._edges(first, last))

    def weight(self, low: int, high: int) -> float:
        """About how many bytes the records with low <= hash < high have: of a bucket that reaches beyond, its share."""
        low, high = max(low, self.low), min(high, self.high)
        return self._before(high) - self._before(low) if low < high and self.buckets else 0.0

    def _before(self, key_hash: int) -> float:
        inside = (key_hash - self.low) * self.buckets
        number, rest = divmod(inside, self.high - self.low)
        if number == self.buckets:
            return float(self._edges(number, number)[0])
        start, stop = self._edges(number, number + 1).tolist()
        return float(start + (stop - start) * rest / (self.high - self.low))

    def take(self, piece: Piece, room: memoryview) -> None:
        """Put a piece where the room begins, after as many bytes as it begins after a whole page of the file.

        room  begins a page and is whole pages; the bytes do not stay in the page cache. Raises DamagedPack.
        """
        start, stop = int(piece.edges[0]), int(piece.edges[-1])
        count = self.reader.take(start, stop, room)
        if count < stop - start:
            raise damaged(self.where, f"it ends at byte {start + count}, before its last bucket")

    def want(self, low: int, high: int) -> None:
        """Say that `batch` of this range comes next."""
        if self.covers_any(low, high) and low < high:
            edges = self.piece(low, high).edges
            self.reader.want(int(edges[0]), int(edges[-1]))

    def damaged(self, number: int) -> DamagedPack:
        """The error for a bucket."""
        at = int(self._edges(number, number)[0])
        return damaged(self.where, f"bucket {number} at byte {at} has another checksum than when it was written")

    def edges(self) -> bucket.Edges:
        """Where each bucket begins in the file, and the last one ends."""
        return self._edges(0, self.buckets)

    def verify(self) -> Iterator[str]:
        """What is wrong with each damaged bucket; nothing for a whole pack. Reads everything."""
        whole, step = 0, max(1, self.buckets * PART // max(self.data_bytes, 1))
        todo = [(first, min(first + step, self.buckets)) for first in range(0, self.buckets, step)]
        while todo:
            first, last = todo.pop()
            try:
                whole += len(self._parsed(first, last))
            except DamagedPack as error:
                todo += [(number, number + 1) for number in range(first, last) if last > first + 1]
                if last == first + 1:
                    yield error.why
        if whole != self.records:
            yield f"{self.records - whole} of {self.records} records cannot be read"

    def close(self) -> None:
        """Let go of the file."""
        self.reader.close()

    def _bucket(self, key_hash: int) -> int:
        return (key_hash << self.bits & END - 1) * self.buckets >> 64

    def _edges(self, first: int, last: int) -> bucket.Edges:
        library = clib.library()
        if library is None:
            return self.offsets.between(first, last)
        found = np.empty(last + 1 - first, np.int64)
        library.danlu_store_between(ctypes.byref(self._offsets), first, last, clib.at(found))
        return found

    def _parsed(self, first: int, last: int) -> Batch:
        edges = self._edges(first, last)
        start = int(edges[0])
        data = self.reader.read(start, int(edges[-1]))
        if len(data) < edges[-1] - start:
            raise damaged(self.where, f"it ends at byte {start + len(data)}, before bucket {last - 1}")
        try:
            return bucket.parse(data, edges[:-1] - start, edges[1:] - start)
        except bucket.DamagedBucket as error:
            raise self.damaged(first + error.args[0]) from error


def _footer(reader: Reader) -> tuple[int, int, int, int, int, int, int, bytes]:
    """Its fields but its checksum. Raises DamagedPack, NewerFormat."""
    size, where = reader.size, reader.where
    footer = np.frombuffer(reader.read(size - FOOTER.itemsize, size), FOOTER).copy()
    found, footer["crc"] = int(footer["crc"][0]), 0
    magic, first = bytes(footer["magic"][0]), reader.read(0, len(MAGIC))
    if magic[:7] == MAGIC[:7] and magic > MAGIC and first == magic:  # both ends: a flipped bit is in one
        raise NewerFormat(
            f"{where} is a pack of version {magic[7:].decode()}",
            where=where,
            why=f"this danlu reads version {MAGIC[7:].decode()}",
            fix="update danlu (git pull), or make the store again: danlu prep",
        )
    if magic not in (MAGIC, OLDER) or first != magic or zlib.crc32(footer.tobytes()) != found:
        raise damaged(where, f"the last {FOOTER.itemsize} bytes are no footer: the file was cut or changed")
    bits, removed, prefix, records, buckets, index, index_crc, _, _ = footer[0].item()
    return bits, prefix, removed, records, buckets, index, index_crc, magic


def _plain(index: bytes, count: int) -> Offsets | None:
    """Offsets of an older pack, u32 or u64, in the form that look-ups know."""
    if len(index) not in (4 * count, 8 * count):
        return None
    numbers = np.frombuffer(index, "<u4" if len(index) == 4 * count else "<u8").astype(np.int64)
    return offsets_of(numbers) if (np.diff(numbers) >= 0).all() else None


def damaged(where: object, why: str) -> DamagedPack:
    """The error for a pack whose bytes are not those that were written."""
    return DamagedPack(
        f"{str(where).rsplit('/', 1)[-1]} is damaged",
        where=str(where),
        why=why,
        fix=f"danlu store mend {str(where).rpartition('/')[0]} keeps all that is whole and names the rest; "
        "or remove that store and make it again: danlu store add, danlu prep",
    )
