"""Safetensors files: named tensors as a JSON header and raw bytes. Mapped or read, written whole or not at all.

Nothing is copied when a file is opened: an Entry's buffer is a read-only view of the map. A file that is cut under its
map ends the process by a signal (SIGBUS); `taken` reads instead, for those who copy anyway, and raises an error.
The format is safetensors' own (docs/formats.md, "model folder"). The reader is strict, for the header is a stranger's
word: every length, offset, shape and name is checked before a byte is handed out. No torch here.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import atomic
from danlu.errors import BadTensorFile

WIDTH = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
ALIGN = 64  # bytes; a cache line: a tensor of ours that fills some begins with one, so that no vector load splits one


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: dtype as safetensors names it ("F32", "BF16", ...), shape, bytes row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    buffer: Any  # anything with the buffer protocol
    source: Source | None = None  # the file it is in, where it is in one
    at: int = 0  # its first byte there


class Source:
    """Owns an open file of tensors: whoever removes or replaces it by name, these bytes stay to be read."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._closed = weakref.finalize(self, os.close, self.fd)
        self._seen = os.fstat(self.fd)

    @property
    def size(self) -> int:
        """Bytes when it was opened."""
        return self._seen.st_size

    def read(self, at: int, size: int) -> memoryview:
        """Bytes [at, at + size). Raises BadTensorFile where they are gone, or the file has changed since it was opened.

        Also asked after the last byte: whatever was written into the file before then is seen.
        """
        found = memoryview(bytearray(size))
        got = 0
        try:
            while got < size and (count := os.preadv(self.fd, [found[got:]], at + got)):
                got += count
            now = os.fstat(self.fd)
        except OSError as error:
            raise self._bad(error.strerror or str(error)) from error
        if now.st_size != self.size:
            raise self._bad(f"it had {self.size:,} bytes when it was opened, and has {now.st_size:,} now")
        if got < size or now.st_mtime_ns != self._seen.st_mtime_ns:
            raise self._bad("somebody has written to it since it was opened")
        return found.toreadonly()

    def _bad(self, why: str) -> BadTensorFile:
        return BadTensorFile(f"{self.path.name} changed while it was read", where=str(self.path), why=why,
                             fix=f"wait until nothing writes there, then start again: ls -l {self.path}")  # fmt: skip


def read(path: Path) -> dict[str, Entry]:
    """All tensors of one file, in the file's order, without reading them. Raises BadTensorFile."""
    try:
        source = Source(path)
        start, layout = _header(
            path, os.pread(source.fd, 8, 0), source.size, lambda count: os.pread(source.fd, count, 8)
        )
        view = memoryview(mmap.mmap(source.fd, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise BadTensorFile(
            f"cannot read {path.name}", where=str(path), why=error.strerror or str(error), fix=f"ls -l {path.parent}"
        ) from error
    return {
        name: Entry(dtype, shape, view[start + at : start + end], source, start + at)
        for name, (dtype, shape, at, end) in layout.items()
    }


def taken(entry: Entry, rows: tuple[int, int] | None = None) -> Entry:
    """The tensor, or its rows [start, stop) of the first axis, in memory of its own. Raises BadTensorFile."""
    start, stop = rows or (0, entry.shape[0] if entry.shape else 1)
    shape = (stop - start, *entry.shape[1:]) if entry.shape else ()
    each = WIDTH[entry.dtype] * math.prod(entry.shape[1:])
    if entry.source is None:
        return Entry(entry.dtype, shape, bytes(memoryview(entry.buffer).cast("B")[start * each : stop * each]))
    return Entry(entry.dtype, shape, entry.source.read(entry.at + start * each, (stop - start) * each))


def let_go(entries: Iterable[Entry]) -> None:
    """Take the files' pages out of this process's memory; they are read again where somebody looks."""
    owners = (entry.buffer.obj for entry in entries if isinstance(entry.buffer, memoryview))
    for owner in {id(each): each for each in owners}.values():
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)


def read_folder(folder: Path) -> dict[str, Entry]:
    """All tensors of a model folder: one model.safetensors, or the files that its index names. Raises BadTensorFile."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read(folder / "model.safetensors")
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        files = sorted({name for name in weight_map.values() if Path(name).name == name})
        outside = set(weight_map.values()) - set(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadTensorFile(
            "the index of the weights is unreadable",
            where=str(index),
            why=f"{type(error).__name__}: {error}",
            fix=f"fetch {index.name} again",
        ) from error
    missing = sorted(outside) + [name for name in files if not (folder / name).exists()]
    if missing:
        tensor = next(name for name, file in weight_map.items() if file == missing[0])
        raise BadTensorFile(
            f"{len(missing)} of {len(files) + len(outside)} weight files are missing",
            where=str(index),
            why=f"{missing[0]} is not in the folder; it should hold {tensor}",
            fix=f"fetch {', '.join(missing[:4])} again",
        )
    opened = {name: read(folder / name) for name in files}
    for name, file in weight_map.items():
        if name not in opened[file]:
            raise BadTensorFile(
                f"{file} does not hold {name}",
                where=str(index),
                why=f"it holds {len(opened[file])} others",
                fix="fetch the file and its index again, from one revision",
            )
    return {name: opened[file][name] for name, file in weight_map.items()}


def write(path: Path, tensors: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file at once; what stood at `path` is replaced only when all bytes are safe. Raises DiskFull."""
    with Writer(path, {name: (entry.dtype, entry.shape) for name, entry in tensors.items()}, metadata) as out:
        for name, entry in tensors.items():
            out.put(name, entry.buffer)


class Writer:
    """Owns a file being written tensor by tensor, in any order; a model larger than memory passes through.

    The file takes its name when the `with` block ends well and every tensor was put; otherwise nothing is left.
    """

    def __init__(
        self, path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
    ) -> None:
        """layout  dtype and shape of every tensor to come. Raises DiskFull now if the whole file has no room."""
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._spans: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (dtype, shape) in sorted(layout.items(), key=_place):
            begin, end = end, end + WIDTH[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
            self._spans[name] = (begin, end)
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % ALIGN)
        self._path, self._part = path, atomic.draft(path)
        self._start, self._left = 8 + len(text), set(self._spans)
        self._size = self._start + end
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _reserve(self._fd, self._size)
            self._write(len(text).to_bytes(8, "little") + text, 0)
        except OSError as error:
            self._abandon()
            raise atomic.full(self._path, error, self._size) from error

    def put(self, name: str, buffer: Any) -> None:
        """Write the bytes of one tensor. Raises DiskFull."""
        begin, end = self._spans[name]
        data = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
        assert data.nbytes == end - begin, f"{name}: {data.nbytes} bytes given, {end - begin} promised"
        try:
            self._write(data, self._start + begin)
        except OSError as error:
            raise atomic.full(self._path, error, self._size) from error
        self._left.discard(name)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._abandon()
            return
        assert not self._left, f"never put: {sorted(self._left)[:3]}"
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._abandon()
            raise atomic.full(self._path, error, self._size) from error
        os.close(self._fd)
        os.replace(self._part, self._path)
        atomic.sync(self._path.parent)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, at)
            view, at = view[done:], at + done

    def _abandon(self) -> None:
        os.close(self._fd)
        self._part.unlink(missing_ok=True)


def _place(described: tuple[str, tuple[str, tuple[int, ...]]]) -> tuple[bool, int]:
    """What the order in a file goes by: tensors that fill whole cache lines, then the widest, keep all aligned."""
    dtype, shape = described[1]
    return WIDTH[dtype] * math.prod(shape) % ALIGN != 0, -WIDTH[dtype]


def _reserve(fd: int, size: int) -> None:
    """Take the disk space now, so that hours of work do not end in a full disk; some file systems cannot."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


Layout = dict[str, tuple[str, tuple[int, ...], int, int]]  # name -> dtype, shape, begin, end


def _header(path: Path, length: bytes, size: int, more: Any) -> tuple[int, Layout]:
    """Where the data begins, and what the header promises about it, checked against the file's size."""

    def bad(what: str, why: str) -> BadTensorFile:
        return BadTensorFile(what, where=str(path), why=why, fix=f"fetch {path.name} again: ls -l {path}")

    if len(length) < 8:
        raise bad(f"{path.name} is too short for a header", f"it has {size} bytes, the header's length alone takes 8")
    count = int.from_bytes(length, "little")
    if count > min(LONGEST_HEADER, size - 8):
        raise bad(
            f"{path.name} is truncated or no safetensors file",
            f"its header should take {count:,} bytes, the file has {size - 8:,} after the header's length",
        )
    try:
        header = json.loads(more(count).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"the header of {path.name} is unreadable", f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise bad(f"the header of {path.name} is no mapping", f"it is {type(header).__name__}")
    header.pop("__metadata__", None)
    layout: Layout = {}
    for name, said in header.items():
        try:
            layout[name] = _entry(said)
        except (KeyError, TypeError, ValueError) as error:
            raise bad(f"{name} in {path.name} has an impossible description", f"{error}: {str(said)[:120]}") from error
    at, room = 0, size - 8 - count
    for name, (_, _, begin, end) in sorted(layout.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise bad(
                f"{name} in {path.name} {'overlaps another tensor' if begin < at else 'leaves a gap before it'}",
                f"it begins at byte {begin:,}, the one before ends at {at:,}",
            )
        if end > room:
            raise bad(f"{path.name} is truncated", f"{name} ends at byte {end:,} of the data, the file has {room:,}")
        at = end
    if at != room:
        raise bad(f"{path.name} is longer than its tensors", f"they end at byte {at:,} of the data, it has {room:,}")
    return 8 + count, layout


def _entry(said: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("dtype, shape and data_offsets are expected")
    dtype, shape, (begin, end) = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTH:
        raise ValueError("unknown dtype")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("sizes must be whole numbers from 0 on")
    if end - begin != WIDTH[dtype] * math.prod(shape):
        raise ValueError(f"shape and dtype take {WIDTH[dtype] * math.prod(shape):,} bytes, offsets say {end - begin:,}")
    return dtype, tuple(shape), begin, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found
