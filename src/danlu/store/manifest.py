"""The one file that says which packs are part of a store, how far its source was read, and what is being merged."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from danlu.errors import NewerFormat
from danlu.store.home import Home
from danlu.store.pack import damaged

VERSION, OLDER = 3, 2  # the older one has no checksum
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Merging:
    """A merge under way: `inputs` become 2**bits packs, of which `made` are there."""

    inputs: tuple[str, ...]
    bits: int
    number: int
    made: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """packs: names, oldest first; next: number of the next pack; cursor: the writer's own; done: all read."""

    packs: tuple[str, ...] = ()
    next: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    merging: Merging | None = None


def load(home: Home) -> Manifest:
    """The manifest of a store; an empty one where there is none. Raises DamagedPack, NewerFormat."""
    where, text = f"{home.where}/{NAME}", home.read(NAME)
    if text is None:
        return Manifest()
    try:
        values = json.loads(text)
        version, written = values.pop("pack"), values.pop("crc32", None)
        if version not in (VERSION, OLDER):
            raise NewerFormat(
                f"{where} is a store of version {version}",
                where=where,
                why=f"this danlu reads version {VERSION}",
                fix="update danlu (git pull), or make the store again: danlu prep",
            )
        if (version == VERSION or written is not None) and written != _checksum(values):
            raise damaged(where, "it has another checksum than when it was written")
        merging = values.pop("merging")
        if merging is not None:
            merging = Merging(tuple(merging["inputs"]), merging["bits"], merging["number"], tuple(merging["made"]))
        return Manifest(tuple(values["packs"]), values["next"], values["cursor"], values["done"], merging)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(where, f"it cannot be read: {error}") from error


def change(home: Home, how: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest by `how` of it, atomically; writers and merges of one store take turns. Raises DiskFull."""
    lock = home.lock("manifest.lock", wait=True)
    try:
        after = how(load(home))
        put(home, after)
        return after
    finally:
        lock.close()


def put(home: Home, after: Manifest) -> None:
    """Write a manifest in the place of what is there, atomically. Raises DiskFull."""
    values = json.loads(json.dumps(asdict(after)))
    text = json.dumps({"pack": VERSION, "crc32": _checksum(values), **values}).encode()
    home.put(NAME, lambda file: _write(file, text))


def _checksum(values: dict[str, Any]) -> int:
    """Of all fields but `pack` and `crc32`, as they are once they are read back."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _write(file: Any, text: bytes) -> None:
    file.write(text)


__all__ = ["NAME", "VERSION", "Manifest", "Merging", "change", "load", "put", "replace"]
