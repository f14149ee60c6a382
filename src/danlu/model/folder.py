"""Model folders, and files of a whole model, that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.errors import BadValue, DiskFull


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `out` when the block ends well, and is gone when it does not.

    An older model folder of that name is replaced at the end. The draft's name is fixed, so
    the next try clears what a killed one left. Raises BadValue if `out` is something else, DiskFull.
    """
    if out.exists() and not _replaceable(out):
        raise BadValue(f"{out} is in the way", why="it exists and is no model folder", fix="name another output folder")
    draft, older = (out.with_name(f".{out.name}.{mark}") for mark in ("part", "old"))
    _settle(out, draft, older)
    try:
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.iterdir(), draft):
            _sync(path)
        if out.exists():
            out.rename(older)
        draft.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise _full(out, error) from error
    finally:
        _settle(out, draft, older)


@contextmanager
def replacing_file(out: Path) -> Iterator[Path]:
    """A file to write; it takes the name `out` when the block ends well, and is gone when it does not.

    Raises BadValue if `out` is a folder, DiskFull.
    """
    if out.is_dir():
        raise BadValue(f"{out} is in the way", why="it is a folder", fix="name another output file")
    draft = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        _sync(draft)
        draft.replace(out)
        _sync(out.parent)
    except OSError as error:
        raise _full(out, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _full(out: Path, error: OSError) -> Exception:
    """DiskFull if that is what stopped the writing, else the error itself."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    free = shutil.disk_usage(out.parent).free
    return DiskFull(
        f"no room for {out.name}",
        where=str(out.parent),
        why=f"{free:,} bytes are free ({error.strerror})",
        fix="free some space or write to another disk; what was there before is untouched",
    )


def _replaceable(out: Path) -> bool:
    """True for an empty folder and for a model's; anything else may be somebody's work."""
    if not out.is_dir():
        return False
    return not any(out.iterdir()) or ((out / "config.json").exists() and any(out.glob("*.safetensors")))


def _settle(out: Path, draft: Path, older: Path) -> None:
    """Whatever moment the writing stopped at, leave one whole `out` or none."""
    if older.exists() and not out.exists():
        older.rename(out)
    for left in (draft, older):
        shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
