"""Which home of packs a path or an address names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from danlu.store.folder import Folder

if TYPE_CHECKING:
    from danlu.store.cache import Cache
    from danlu.store.home import Home


def home_of(where: Path | str, cache: Cache | None = None) -> Home:
    """The home that a path or an address such as s3://bucket/prefix names. Raises MissingPackage, Unreachable."""
    if isinstance(where, str) and "://" in where:
        from danlu.store.remote import remote_home

        return remote_home(where, cache)
    return Folder(Path(where))
