"""Many packs become few: one for each range of hashes, with every key once and removals gone.

The merge says in the manifest what it merges, and after each range what it has made; a killed one goes on at the first
range that is not there, and its bytes are the same, since they depend on the inputs alone. Writers may add packs
meanwhile, which stay as they are, and readers keep the packs they have opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from danlu.store import manifest
from danlu.store.ahead import ranges_of
from danlu.store.home import Home, Sink
from danlu.store.homes import home_of
from danlu.store.manifest import Manifest, Merging
from danlu.store.pack import PART, PER_BUCKET, Pack, PackFile, lowest

RANGE_BYTES = 1 << 30  # of one pack, about
MOST_BITS = 12
SPARE = 1.05  # a pack may have so many times the buckets its records need; one of overwritten keys is made again
OWN = re.compile(r"\.?\d{6}\.m[0-9a-f]{3}\.pack(\.part)?")

Tell = Callable[[str, float], None]  # what is done in words, and its share of the whole


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: packs and records before and after, and bytes of packs."""

    packs: tuple[int, int]
    records: tuple[int, int]
    size: tuple[int, int]


def merge(where: Path | str, *, range_bytes: int = RANGE_BYTES, tell: Tell = lambda words, share: None) -> Merged:
    """Merge all packs that are there; goes on where a killed merge was.

    Raises StoreInUse while another process merges, DiskFull (the store stays as it was), DamagedPack.
    Cost: every byte is read and written once; memory is a few times PART, whatever the store's size.
    """
    home = home_of(where)
    lock = home.lock("merge.lock")
    try:
        if manifest.load(home).merging is not None:
            _one(home, range_bytes, tell)  # a killed merge ends first; what was written since then is merged after it
        return _one(home, range_bytes, tell)
    finally:
        lock.close()


def _one(home: Home, range_bytes: int, tell: Tell) -> Merged:
    plan = _begin(home, range_bytes)
    packs = [Pack(home.open(name)) for name in plan.inputs]
    try:
        before = (len(packs), sum(p.records for p in packs), sum(p.reader.size for p in packs))
        if plan.made or _needed(packs):
            for number in range(len(plan.made), 1 << plan.bits):
                tell(f"range {number + 1} of {1 << plan.bits}", number / (1 << plan.bits))
                plan = _made(home, plan, _range(home, plan, packs, number))
            return _end(home, plan, before)
        manifest.change(home, lambda now: replace(now, merging=None, next=_unused(now, plan)))
        return Merged((before[0],) * 2, (before[1],) * 2, (before[2],) * 2)
    finally:
        for each in packs:
            each.close()


def _begin(home: Home, range_bytes: int) -> Merging:
    """The merge that is under way, or a new one of all packs; what a killed one left and did not record is removed."""

    def how(now: Manifest) -> Manifest:
        if now.merging is not None:
            return now
        size = 0
        for name in now.packs:
            reader = home.open(name)
            size += reader.size
            reader.close()
        bits = min(max(0, (-(-size // range_bytes) - 1).bit_length()), MOST_BITS)
        return replace(now, merging=Merging(now.packs, bits, now.next), next=now.next + 1)

    after = manifest.change(home, how)
    assert after.merging is not None
    for name in home.names():
        if OWN.fullmatch(name) and name not in (*after.packs, *after.merging.made):
            home.remove(name)
    return after.merging


def _range(home: Home, plan: Merging, packs: list[Pack], number: int) -> str:
    """Write the pack of one range; its name, empty where it has no records."""
    name = f"{plan.number:06d}.m{number:03x}.pack"
    share = 1 << plan.bits
    expected = sum(each.records * (1 << each.bits) // max(share, 1 << each.bits)
                   for each in packs if each.covers_any(*_bounds(number, plan.bits)))  # fmt: skip
    records = 0

    def fill(file: Sink) -> None:
        nonlocal records
        records = _copy(file, packs, -(-expected // PER_BUCKET), plan.bits, number)

    home.put(name, fill)
    if records * SPARE < expected and records:
        expected = records
        home.put(name, fill)
    if not records:
        home.remove(name)
    return name if records else ""


def _bounds(number: int, bits: int) -> tuple[int, int]:
    return number << 64 - bits, number + 1 << 64 - bits


def _copy(file: Sink, packs: list[Pack], buckets: int, bits: int, prefix: int) -> int:
    buckets = max(1, buckets)
    made = PackFile(file, buckets, bits, prefix)
    size = sum(each.data_bytes << each.bits >> bits for each in packs)
    step = max(1, buckets * PART // max(size, 1))
    lasts = [*range(step, buckets, step), buckets]
    edges = [lowest(number, buckets, bits, prefix) for number in (0, *lasts)]
    for last, batch in zip(lasts, ranges_of(packs, list(pairwise(edges))), strict=True):
        made.put(batch.present(), last)
    made.end()
    return made.records


def _made(home: Home, plan: Merging, name: str) -> Merging:
    after = replace(plan, made=(*plan.made, name))
    manifest.change(home, lambda now: replace(now, merging=after))
    return after


def _end(home: Home, plan: Merging, before: tuple[int, int, int]) -> Merged:
    """Put what was made in the place of what it was made from, then remove that."""
    made = tuple(name for name in plan.made if name)

    def how(now: Manifest) -> Manifest:
        return replace(now, packs=(*made, *now.packs[len(plan.inputs) :]), merging=None)

    manifest.change(home, how)
    for name in plan.inputs:
        home.remove(name)
    packs = [Pack(home.open(name)) for name in made]
    after = (len(packs), sum(p.records for p in packs), sum(p.reader.size for p in packs))
    for each in packs:
        each.close()
    return Merged((before[0], after[0]), (before[1], after[1]), (before[2], after[2]))


def _unused(now: Manifest, plan: Merging) -> int:
    """The next number once a merge that made nothing has given its own back."""
    return plan.number if now.next == plan.number + 1 else now.next


def _needed(packs: list[Pack]) -> bool:
    """True where two packs may hold the same key, or one holds a removal."""
    ordered = sorted(packs, key=lambda each: each.low)
    overlap = any(one.high > two.low for one, two in zip(ordered[:-1], ordered[1:], strict=True))
    return overlap or any(each.removed for each in packs)
