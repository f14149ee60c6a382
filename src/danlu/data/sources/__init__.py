"""What text comes in: one file of this folder for each form, each giving the items of one source file in turn.

An archive is opened by the end of its name. All that is unpacked is bounded, and whatever cannot be used is given as
`Refused`, with its name and why, so that it is counted.
"""

from __future__ import annotations

import gzip
import importlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, Protocol

from danlu.data import zst

MAX_EXPANSION = 64  # an archive may unpack to so many times its size; text reaches about 10, a bomb 1000
SPARE = 64 << 10  # bytes that even the smallest archive may unpack to
FORMS = {".tar": "tar", ".warc": "warc", ".wet": "warc", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # packed or not
ALONE = {".tgz": "tar", ".tbz2": "tar", ".txz": "tar", ".tzst": "tar", ".zip": "zip", ".parquet": "parquet",
         ".urls": "urls"}  # fmt: skip  # packed in their own way, or never
PACKED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be read; `key` is its name relative to the folder it was found in, `size` is in bytes."""

    key: str
    path: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a source; its stream is read before the next is asked for."""

    key: str
    stream: BinaryIO
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file, or a piece of one, that cannot be used; the rule that says so, and why."""

    key: str
    rule: str
    why: str


class Form(Protocol):
    """One file of this folder."""

    def items(self, source: Source) -> Iterator[Item | Refused]:
        """The items of one file, in their order. Raises OSError, Bomb, and what DAMAGED lists."""


class Bomb(Exception):
    """More comes out of an archive than text can have gone in."""


class Torn(Exception):
    """A packed stream ends early or holds other bytes than were written. No EOFError: warcio takes that for the end."""


# What an archive raises that ends early or holds other bytes than were written.
DAMAGED = (Torn, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)
BROKEN = (Bomb, *DAMAGED, ModuleNotFoundError, OSError)


class Bounded(RawIOBase):
    """A stream of which at most `most` bytes are read; then it raises Bomb."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._most, self.done = stream, most, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, into: Any) -> int:
        """See RawIOBase."""
        try:
            data = self._stream.read(len(into))
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's; an unpacker's own, as bz2 raises it, has no number
            raise Torn(str(error)) from error
        self.done += len(data)
        if self.done > self._most:
            raise Bomb(f"it unpacks to over {self._most} bytes")
        into[: len(data)] = data
        return len(data)


def form_of(path: str) -> str:
    """The form of a file by its name: one of FORMS or ALONE, or "plain"."""
    name = path.lower()
    inner = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    return ALONE.get(os.path.splitext(name)[1]) or FORMS.get(os.path.splitext(inner)[1], "plain")


def items(source: Source) -> Iterator[Item | Refused]:
    """What is in one file. A damaged or dangerous archive ends in a Refused; no error leaves this function."""
    form: Form = importlib.import_module(f"danlu.data.sources.{form_of(source.path)}")
    try:
        yield from form.items(source)
    except BROKEN as error:
        yield refused(source, source.key, error)


def refused(source: Source, key: str, error: BaseException) -> Refused:
    """The entry for an error of BROKEN that reading a source, or the stream of its item `key`, has raised."""
    if isinstance(error, Bomb):
        return Refused(key, "cut", f"{source.size} bytes in the archive: {error}; the rest is left out")
    if isinstance(error, DAMAGED):
        return Refused(key, "archive", f"the archive is damaged: {error}")
    if isinstance(error, ModuleNotFoundError):
        return Refused(key, "needs_package", f"reading it needs a package: pip install {error.name}")
    return Refused(key, "unreadable", getattr(error, "strerror", None) or str(error))


@contextmanager
def unpacked(source: Source) -> Iterator[BufferedReader]:
    """The bytes of a file, unpacked by the end of its name (PACKED, .tgz and so on) and then bounded."""
    with open(source.path, "rb") as file:
        end = source.path.lower().rsplit(".", 1)[-1].removeprefix("t")
        stream: Any = file
        if end == "gz":
            stream = gzip.GzipFile(fileobj=file)
        elif end == "bz2":
            stream = importlib.import_module("bz2").BZ2File(file)
        elif end == "xz":
            stream = lzma.LZMAFile(file)
        elif end == "zst":
            stream = _zstd(file)
        if stream is not file:
            stream = BufferedReader(Bounded(stream, source.size * MAX_EXPANSION + SPARE), 1 << 18)
        yield stream


def _zstd(file: BinaryIO) -> Any:
    package = importlib.import_module("zstandard")

    class Frames(RawIOBase):
        """zstandard's own error is no OSError; here it is one of DAMAGED."""

        def __init__(self) -> None:
            self._reader = package.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                file, read_across_frames=True
            )

        def read(self, size: int = -1) -> bytes:
            try:
                data: bytes = self._reader.read(size)
            except package.ZstdError as error:
                raise EOFError(str(error)) from error
            if not data and size and zst.ends_early(file, os.fstat(file.fileno()).st_size):
                raise EOFError("it ends within a frame")
            return data

    return Frames()
