"""Model folders that appear whole or not at all, and never in the place of a model that danlu did not write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu import atomic
from danlu.errors import BadValue

MARK = ".danlu"  # an empty file in every model folder that danlu writes


@contextmanager
def replacing(out: Path, source: Path | None = None) -> Iterator[Path]:
    """A folder to fill; it becomes `out` when the block ends well. A model that danlu wrote there before is replaced.

    source  the folder it is made of, which it never replaces
    Raises BadValue if `out` is anything else, DiskFull.
    """
    if source is not None and out.resolve() == source.resolve():
        raise BadValue(
            f"{out} would be made of itself", why="it would replace those weights", fix="name another folder"
        )
    if (out / "config.json").exists() and not (out / MARK).exists():
        raise BadValue(
            f"{out} is a model that danlu did not write",
            why=f"it has no file {MARK}, and it may be the only copy",
            fix=f"name another output folder, or move it away first: mv {out} {out}.old",
        )
    with atomic.replacing_folder(out, _replaceable) as part:
        (part / MARK).touch()
        yield part


def _replaceable(out: Path) -> bool:
    """True for an empty folder and for a model's; anything else may be somebody's work."""
    return out.is_dir() and (not any(out.iterdir()) or (out / MARK).exists())
