"""A manifest made from the packs that are there, where the one that was written is damaged or gone.

Its cursor is lost with it: the next `danlu store add` reads its source from the beginning, which doubles nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from danlu.errors import DamagedPack
from danlu.store import manifest
from danlu.store.home import Home
from danlu.store.manifest import NAME, Manifest
from danlu.store.pack import Pack

NAMED = re.compile(r"(\d{6})(\.m[0-9a-f]{3})?\.pack")


def remade(home: Home) -> str:
    """Why the manifest was made anew; empty where it is whole, or where there is no pack either."""
    there = sorted(name for name in home.names() if NAMED.fullmatch(name))
    try:
        manifest.load(home)
        if home.read(NAME) is not None or not there:
            return ""
        why = "it is not there"
    except DamagedPack as error:
        why = error.why
    packs = _still_named(home, there) or counted(there, lambda name: _bits(home, name))
    number = max((int(name[:6]) + 1 for name in there), default=0)
    manifest.put(home, Manifest(tuple(packs), number))
    return f"{why}; {len(packs)} of {len(there)} packs count, the source is read from its beginning"


def _still_named(home: Home, there: Sequence[str]) -> list[str]:
    """The packs that a damaged manifest still names, if all of them are there."""
    try:
        packs = json.loads(home.read(NAME) or b"")["packs"]
        return packs if packs and len(set(packs)) == len(packs) and set(packs) <= set(there) else []
    except (ValueError, KeyError, TypeError):
        return []


def counted(there: Sequence[str], bits: Callable[[str], int]) -> list[str]:
    """Which packs count, oldest first, by their names alone.

    A merge removes its inputs, oldest first, once all its ranges are made. Until then inputs and ranges hold the same
    records, and the inputs are all of them. Where it cannot be seen whether all ranges were made, both count.
    """
    merges = sorted({name[:6] for name in there if ".m" in name})
    if not merges:
        return sorted(there)
    last = merges[-1]
    ranges = sorted(name for name in there if ".m" in name and name[:6] == last)
    inputs = sorted((name for name in there if name[:6] < last), key=lambda name: (".m" not in name, name))
    younger = [name for name in there if name[:6] > last]
    if not inputs or len(ranges) == 1 << bits(ranges[0]):
        return [*ranges, *younger]
    if len(merges) > 1 or [int(name[:6]) for name in inputs] == list(range(int(last))):
        return [*inputs, *younger]
    return [*ranges, *inputs, *younger]


def _bits(home: Home, name: str) -> int:
    reader = home.open(name)
    try:
        return Pack(reader).bits
    except DamagedPack:
        return 64  # nobody knows
    finally:
        reader.close()
