"""What every home of packs can do, whether a local folder (store/folder.py) or far (store/remote.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PAGE = 4096  # bytes that a direct read is whole ones of, on every disk we know
MOMENT_S = (
    60.0  # a lock that is held for moments and longer than this is held by a process that is gone or stands still
)
TRY_S = 0.05  # between two looks at a lock
COPIED = 1 << 20  # bytes at a time


class Sink(Protocol):
    """What is written in order."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take bytes; returns their number."""


Fill = Callable[[Sink], None]


class Reader(Protocol):
    """One immutable file, read by ranges.

    fd      its file descriptor, -1 where there is none
    direct  another one, for reads past the page cache, -1 where there is none
    """

    where: str
    size: int
    fd: int
    direct: int

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop - 1; fewer at the end of the file."""

    def take(self, start: int, stop: int, room: memoryview) -> int:
        """Put bytes start .. stop - 1, which nobody will ask for again, at room[start % PAGE]; how many there are.

        room  begins a page and is whole pages
        """

    def want(self, start: int, stop: int) -> None:
        """Say that this range is read next."""

    def close(self) -> None:
        """Let go of the file."""


class Lock(Protocol):
    """A lock that is held until closed, or until its process is gone."""

    def close(self) -> None:
        """Give it back."""


class Home(Protocol):
    """A folder of packs. Names are those of files directly in it."""

    where: str

    def read(self, name: str) -> bytes | None:
        """A small file whole; None where there is none."""

    def open(self, name: str) -> Reader:
        """Raises FileNotFoundError."""

    def put(self, name: str, fill: Fill) -> None:
        """Create or replace a file with what `fill` writes: whole or not at all. Raises DiskFull."""

    def take(self, name: str, file: Path) -> None:
        """Create a file with what a local file holds, whole or not at all; neither changes later. Raises DiskFull."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    def names(self) -> list[str]:
        """Names of all files."""

    def lock(self, name: str, *, wait: bool = False) -> Lock:
        """Take a lock; `wait` for one that is held for moments only. Raises StoreInUse, naming the holder."""


def copied(file: Path, into: Sink) -> None:
    """Write what a file holds."""
    with file.open("rb") as source:
        while part := source.read(COPIED):
            into.write(part)
