"""Files and folders that appear whole or not at all: a draft's name, fsync, rename, fsync of the folder above."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from danlu.errors import BadValue, DiskFull

AT_ONCE = 8  # requests to a disk, which it answers together


def draft(path: Path) -> Path:
    """The name a file has while it is written. It is fixed, so that the next try overwrites what a killed one left."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, or changes, only when the block ends without an error.

    lasting  False: it survives any kill, but a loss of power only after `keep`
    Raises BadValue if `path` is a folder, DiskFull when the disk (or the quota) is full; what was there before is
    untouched and no draft is left.
    """
    if path.is_dir():
        raise BadValue(f"{path} is in the way", why="it is a folder", fix="name another output file")
    part = draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        part.replace(path)
        if lasting:
            sync(path.parent)
    except OSError as error:
        raise full(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a small file whole or not at all. Raises what `replacing` raises."""
    with replacing(path, lasting=lasting) as file:
        file.write(data)


@contextmanager
def replacing_folder(out: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to fill; it becomes `out` when the block ends well, and is gone when it does not.

    ours  whether what is there may be replaced; an older folder is, at the end
    Raises BadValue if `out` is something else, DiskFull.
    """
    if out.exists() and not ours(out):
        raise BadValue(
            f"{out} is in the way", why="it exists and is nothing that this replaces", fix="name another output folder"
        )
    part, older = draft(out), out.with_name(f".{out.name}.old")
    _settle(out, part, older)
    try:
        part.mkdir(parents=True)
        yield part
        for path in (*part.iterdir(), part):
            sync(path)
        if out.exists():
            out.rename(older)
        part.rename(out)
        sync(out.parent)
    except OSError as error:
        raise full(out, error) from error
    finally:
        _settle(out, part, older)


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def keep(paths: Sequence[Path]) -> None:
    """Make files, and the names in folders, survive a loss of power; at once, since the disk takes its time for each.

    Raises DiskFull.
    """
    try:
        with ThreadPoolExecutor(AT_ONCE, "keep") as threads:
            list(threads.map(sync, paths))
    except OSError as error:
        raise full(paths[0], error) from error


def full(path: Path, error: OSError, takes: int = 0) -> Exception:
    """DiskFull if that is what stopped the writing of `path`, else the error itself; `takes`: bytes, where known."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    folder = path.parent if path.parent.exists() else Path("/")
    room = shutil.disk_usage(folder)
    return DiskFull(
        f"no room to write {path.name}",
        where=str(path),
        why=f"it takes {f'{takes:,} bytes' if takes else 'more'}, {room.free:,} of {room.total:,} are free there "
        f"({error.strerror})",
        fix=f"df -h {folder}; free some space or write to another disk, then run it again; "
        "what was there before is untouched",
    )


def _settle(out: Path, part: Path, older: Path) -> None:
    """Whatever moment the writing stopped at, leave one whole `out` or none."""
    if older.exists() and not out.exists():
        older.rename(out)
    for left in (part, older):
        shutil.rmtree(left, ignore_errors=True)
