"""The one file that says which packs are part of a store, how far its source was read, and what is being merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from danlu.errors import NewerFormat
from danlu.store.home import Home
from danlu.store.pack import damaged

VERSION = 2
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
        version = values.pop("pack")
        if version != VERSION:
            raise NewerFormat(
                f"{where} is a store of version {version}",
                where=where,
                why=f"this danlu reads version {VERSION}",
                fix="update danlu (git pull), or make the store again: danlu prep",
            )
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
        text = json.dumps({"pack": VERSION, **asdict(after)}).encode()
        home.put(NAME, lambda file: _write(file, text))
        return after
    finally:
        lock.close()


def _write(file: Any, text: bytes) -> None:
    file.write(text)


__all__ = ["NAME", "VERSION", "Manifest", "Merging", "change", "load", "replace"]
