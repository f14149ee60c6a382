"""Model folders that appear whole or not at all."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from danlu import atomic


def replacing(out: Path) -> AbstractContextManager[Path]:
    """A folder to fill; it becomes `out` when the block ends well. An older model folder of that name is replaced.

    Raises BadValue if `out` is anything else, DiskFull.
    """
    return atomic.replacing_folder(out, _replaceable)


def _replaceable(out: Path) -> bool:
    """True for an empty folder and for a model's; anything else may be somebody's work."""
    if not out.is_dir():
        return False
    return not any(out.iterdir()) or ((out / "config.json").exists() and any(out.glob("*.safetensors")))
