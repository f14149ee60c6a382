"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from danlu.errors import DiskFull


def draft(path: Path) -> Path:
    """The name a file has while it is written. It is fixed, so that the next try overwrites what a killed one left."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, or changes, only when the block ends without an error.

    Raises DiskFull when the disk (or the quota) is full; what was there before is untouched and no draft is left.
    """
    part = draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all. Raises DiskFull."""
    with replacing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the bytes of its files."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _full(path: Path) -> DiskFull:
    folder = path.parent if path.parent.exists() else Path("/")
    room = shutil.disk_usage(folder)
    return DiskFull(
        f"no room to write {path.name}",
        where=str(path),
        why=f"it needs more than the {room.free >> 20} of {room.total >> 20} MiB that are free there",
        fix=f"df -h {folder}; free some space or set `out` to another disk, then run it again",
    )
