"""The home of packs that is a local folder."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import time
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path

from danlu import atomic
from danlu.errors import StoreInUse
from danlu.store.home import MOMENT_S, PAGE, TRY_S, Fill, copied
from danlu.store.stream import Stream


class Folder:
    """A home on a local disk."""

    def __init__(self, path: Path, *, lasting: bool = True) -> None:
        """lasting  False: what is put survives a loss of power only after `atomic.keep`."""
        self.path, self.where, self._lasting = path, str(path), lasting

    def read(self, name: str) -> bytes | None:
        """See Home."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, name: str) -> LocalReader:
        """See Home."""
        return LocalReader(self.path / name)

    def put(self, name: str, fill: Fill) -> None:
        """See Home."""
        with atomic.replacing(self.path / name, lasting=self._lasting) as file, Stream(file) as stream:
            fill(stream)

    def take(self, name: str, file: Path) -> None:
        """See Home. A second name of the same bytes where the disk can give one."""
        try:
            os.link(file, self.path / name)
        except OSError:
            self.put(name, partial(copied, file))

    def remove(self, name: str) -> None:
        """See Home."""
        (self.path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See Home."""
        return [each.name for each in self.path.iterdir()] if self.path.is_dir() else []

    def lock(self, name: str, *, wait: bool = False) -> FileLock:
        """See Home."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / name, wait)


class LocalReader:
    """A file on a local disk. Reads fetch what they ask for: the kernel's read-ahead is for files read in order."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.fd, self.direct = _opened(path, os.O_RDONLY), -1
        if (
            self.fd < resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 4
        ):  # a large store needs what may be open for packs
            with suppress(OSError):  # a disk that knows no direct reads: all go by the page cache
                self.direct = _opened(path, os.O_RDONLY | os.O_DIRECT)
        self._closed = weakref.finalize(self, _close, self.fd, self.direct)
        self.size = os.fstat(self.fd).st_size
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, start: int, stop: int) -> bytes:
        """See Reader."""
        try:
            return os.pread(self.fd, stop - start, start)
        except OSError as error:  # the disk's own error has no name in it
            raise OSError(error.errno, error.strerror, self.where) from error

    def take(self, start: int, stop: int, room: memoryview) -> int:
        """See Reader."""
        if self.direct >= 0:
            with suppress(OSError):  # a disk that takes none after all, or the end of the file within the room
                return min(_filled(self.direct, start - start % PAGE, room) - start % PAGE, stop - start)
        count = _filled(self.fd, start, room[start % PAGE :][: stop - start])
        os.posix_fadvise(self.fd, start, count, os.POSIX_FADV_DONTNEED)
        return count

    def want(self, start: int, stop: int) -> None:
        """See Reader."""
        os.posix_fadvise(self.fd, start, stop - start, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """See Reader."""
        self._closed()
        self.fd = self.direct = -1


def _opened(path: Path, flags: int) -> int:
    """A descriptor. A process that has as many as it may open raises that limit to the host's."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return os.open(path, flags | os.O_CLOEXEC)


def _filled(file: int, start: int, room: memoryview) -> int:
    """Read until the room is full or the file ends."""
    done = 0
    while done < len(room) and (count := os.preadv(file, [room[done:]], start + done)):
        done += count
    return done


def _close(*files: int) -> None:
    for each in files:
        if each >= 0:
            os.close(each)


class FileLock:
    """A lock that dies with its process (flock), with the holder's process id in the file."""

    def __init__(self, path: Path, wait: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(self._fd, MOMENT_S if wait else 0.0)
        except BlockingIOError as error:
            holder = os.read(self._fd, 32).decode(errors="replace") or "unknown"
            os.close(self._fd)
            raise StoreInUse(
                f"another process {'merges' if path.name == 'merge.lock' else 'writes'} {path.parent.name}",
                where=str(path.parent),
                why=f"process {holder} on {socket.gethostname()} holds {path.name}",
                fix=f"wait for it (ps -p {holder}), or give this run another `out`",
            ) from error
        except BaseException:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """See Lock."""
        os.close(self._fd)


def _lock(file: int, patience_s: float) -> None:
    """Take a lock, or raise BlockingIOError: a holder that was stopped by a signal holds it for as long as it lives."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(TRY_S)
