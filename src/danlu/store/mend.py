"""A damaged store is made whole again: every record that is whole stays, and what is lost is named.

A pack that cannot be opened or has damaged buckets is written anew from its buckets, under its own name; one that is
gone is taken out of the manifest. A manifest that is damaged or gone is made from the packs (remake.py).
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from danlu.errors import DamagedPack
from danlu.store import keys, manifest, pack
from danlu.store.batch import settled
from danlu.store.home import Home, Reader
from danlu.store.homes import home_of
from danlu.store.merge import MOST_BITS
from danlu.store.pack import FOOTER, MAGIC, PART, Pack
from danlu.store.packs import Store
from danlu.store.remake import remade
from danlu.store.salvage import salvage
from danlu.store.unread import number_of

Tell = Callable[[str, float], None]  # what is done in words, and its share of the whole
_FIRST_HASH = len(MAGIC) + 8  # where the first hash of a pack stands


@dataclass(frozen=True, slots=True)
class Mended:
    """What was wrong with one file of a store, and what became of it.

    kept       records of it that stay
    lost       records that do not; None where nobody knows how many there were
    keys       of those, as far as their names could be read
    corrected  buckets of which one bit was wrong, which was set right
    """

    name: str
    why: str
    kept: int = 0
    lost: int | None = 0
    keys: tuple[bytes, ...] = ()
    corrected: int = 0


def mend(where: Path | str, *, tell: Tell = lambda words, share: None) -> list[Mended]:
    """Make a store whole; returns what was wrong: nothing for a whole store. A killed call can be called again.

    Raises StoreInUse, DiskFull, NewerFormat. Cost: one read of everything; a damaged pack is held in memory.
    """
    home = home_of(where)
    with ExitStack() as held:
        for name in ("lock", "merge.lock"):
            held.callback(home.lock(name).close)
        why = remade(home)
        done = [Mended(manifest.NAME, why)] if why else []
        names = manifest.load(home).packs
        bits = _bits(home, names)
        for number, name in enumerate(names):
            tell(name, number / len(names))
            found = _mended(home, name, bits)
            if found is not None:
                done.append(found)
        if done:  # a merge under way begins anew: what it has made is of other bytes
            manifest.change(home, lambda now: replace(now, merging=None))
            home.remove(keys.NAME)
        return done + _sorted_keys(home, where)


def _sorted_keys(home: Home, where: Path | str) -> list[Mended]:
    """Remove the list of sorted keys if it is damaged; it is made again when it is asked for."""
    store = Store(where)
    try:
        problems = keys.verify(store)
    finally:
        store.close()
    if problems:
        home.remove(keys.NAME)
    return [Mended(keys.NAME, problems[0].partition(": ")[2])] if problems else []


def _mended(home: Home, name: str, bits: int) -> Mended | None:
    """Write a pack anew if it is damaged; None for a whole one."""
    try:
        reader = home.open(name)
    except FileNotFoundError:
        _leave_out(home, name)
        return Mended(name, "it is not there", lost=None)
    try:
        opened = Pack(reader)
        problems = list(opened.verify())
    except DamagedPack as error:
        opened, problems = None, [error.why]
    try:
        return _anew(home, name, reader, opened, bits, problems[0]) if problems else None
    finally:
        reader.close()


def _anew(home: Home, name: str, reader: Reader, opened: Pack | None, bits: int, why: str) -> Mended:
    data = _bytes(reader)
    footer = _footer(data)
    if opened is not None:
        found = salvage(data, opened.edges())
    else:
        found = salvage(data, end=len(data) if footer is None else min(footer["index"], len(data)))
    batch, number = found.batch.take(settled(found.batch)), number_of(name)
    if number is not None:  # what has another hash cannot have been in it
        batch = batch.between(number << 64 - bits, number + 1 << 64 - bits)
    if len(batch) or number is None:
        pack.write(home, name, batch, bits if number is not None else footer["bits"] if footer else 0)
    else:
        _leave_out(home, name)
        home.remove(name)
    lost = None if footer is None else footer["records"] - len(batch)
    return Mended(name, why, len(batch), lost, found.lost, found.corrected)


def _leave_out(home: Home, name: str) -> None:
    manifest.change(home, lambda now: replace(now, packs=tuple(each for each in now.packs if each != name)))


def _bits(home: Home, names: Sequence[str]) -> int:
    """First bits that all hashes of a merged pack share: of any that opens, else what their first hashes allow."""
    firsts = list[tuple[int, int]]()
    for name in names:
        if (number := number_of(name)) is not None:
            try:
                reader = home.open(name)
            except FileNotFoundError:
                continue
            try:
                return Pack(reader).bits
            except DamagedPack:
                firsts.append((number, int.from_bytes(reader.read(_FIRST_HASH, _FIRST_HASH + 8), "little")))
            finally:
                reader.close()
    if len(firsts) < 2:
        return max((number.bit_length() for number, _ in firsts), default=0)
    least = max(number for number, _ in firsts).bit_length()
    return max(range(least, MOST_BITS + 1), key=lambda bits: sum(h >> 64 - bits == n for n, h in firsts))


def _bytes(reader: Reader) -> memoryview:
    """All of a pack, in memory that may be written to."""
    data = memoryview(mmap.mmap(-1, max(reader.size, 1)))[: reader.size]
    for start in range(0, reader.size, PART):
        part = reader.read(start, min(start + PART, reader.size))
        data[start : start + len(part)] = part
    return data


def _footer(data: memoryview) -> dict[str, Any] | None:
    """The footer's fields, if it is whole or one bit of it is wrong."""
    if len(data) < FOOTER.itemsize:
        return None
    found = bytearray(data[-FOOTER.itemsize :])
    for bit in range(-1, 8 * FOOTER.itemsize):
        tried = bytearray(found)
        if bit >= 0:
            tried[bit // 8] ^= 1 << bit % 8
        footer = np.frombuffer(tried, FOOTER).copy()
        crc, footer["crc"] = int(footer["crc"][0]), 0
        if zlib.crc32(footer.tobytes()) == crc and footer["magic"][0][:7] == MAGIC[:7]:
            return {name: int(footer[name][0]) for name in ("bits", "prefix", "records", "buckets", "index")}
    return None
