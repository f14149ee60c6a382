"""A file written in order by a thread of its own, past the page cache.

A pack is written once and read at random: bytes of it left in memory push out what is used, and fresh pages are the
dearest part of a write (1 GiB on a virtual machine: 0.5 s past the cache, 1 to 3.5 s through it). What is shorter than
a block, the last part of every file, and files on disks that know no direct writes go through the cache.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Self

BLOCK = 1 << 20  # bytes of a direct write
BLOCKS = 4  # of which one is filled while the others are written


class Stream:
    """Writes a new file, which it borrows; `flush`, or the end of a `with` without an error, writes everything.

    An error of the disk (OSError) is raised by the next `write` or by `flush`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._path, self._fd, self._direct = file.name, file.fileno(), -1
        self._thread: ThreadPoolExecutor | None = None
        self._block, self._under_way = _block(), deque[tuple[Future[None], memoryview]]()
        self._filled = self._at = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes; they are copied. Returns their number."""
        given, done = memoryview(data), 0
        while done < len(given):
            count = min(BLOCK - self._filled, len(given) - done)
            self._block[self._filled : self._filled + count] = given[done : done + count]
            self._filled, done = self._filled + count, done + count
            if self._filled == BLOCK:
                self._send()
        return done

    def flush(self) -> None:
        """Wait until the file has everything that was written so far, on the disk or in the page cache."""
        while self._under_way:
            self._under_way.popleft()[0].result()
        _write(self._fd, self._block[: self._filled], self._at)

    def close(self) -> None:
        """End; what is under way ends first."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._direct not in (-1, self._fd):
            os.close(self._direct)
        self._direct = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def _send(self) -> None:
        """Give the full block to the thread, and fill a new one or that which was given longest ago."""
        if self._thread is None:
            self._thread, self._direct = ThreadPoolExecutor(1, "stream"), _direct(self._path, self._fd)
        self._under_way.append((self._thread.submit(_write, self._direct, self._block, self._at), self._block))
        self._filled, self._at = 0, self._at + BLOCK
        if len(self._under_way) < BLOCKS:
            self._block = _block()
        else:
            written, self._block = self._under_way.popleft()
            written.result()


def _block() -> memoryview:
    """It begins a page, as direct writes ask."""
    return memoryview(mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _direct(path: str, fd: int) -> int:
    """Another descriptor of the file for direct writes; `fd` itself where the disk knows none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return fd


def _write(fd: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(fd, data, at)
        data, at = data[count:], at + count
