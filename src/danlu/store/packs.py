"""A store: a home of packs and one manifest that says which of them count, and how far their source was read.

A writer gathers records and commits them as one more pack; the manifest, replaced atomically, is the only thing that
makes a pack part of the store. A killed writer therefore loses only what it had not committed, and going on from the
manifest's cursor doubles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from danlu.errors import DamagedPack
from danlu.events import fallback
from danlu.store import manifest, pack
from danlu.store.arena import Arena
from danlu.store.batch import Batch, Record, joined, settled
from danlu.store.cache import Cache
from danlu.store.folder import Folder
from danlu.store.home import Home
from danlu.store.homes import home_of
from danlu.store.lookup import Lookup
from danlu.store.manifest import Manifest
from danlu.store.pack import Pack
from danlu.store.unread import Unread, number_of

MANIFEST = manifest.NAME
RUN = 1 << 20  # bytes of a scan's batch: a half costs 8% of a scan in work for each, 8 MiB leave the cache
SHARED = 6  # packs of the same hashes that a batch is worth: each is asked for its piece, which costs 0.1 ms
LARGEST = 8  # times RUN: 30 packs of the same hashes take 0.6 s for 233 MB in batches of 1 MiB, 0.24 s of 4, 0.2 s of 8
AHEAD = 16  # batches the disk is asked for before they are read
OWN = re.compile(r"\.?\d{6}\.pack(\.part)?")  # what a writer makes; a merge's packs have other names


class Store:
    """Reads the packs that were committed when it was opened. Raises DamagedPack, NewerFormat."""

    def __init__(self, where: Path | str, *, cache: Cache | None = None, partly: bool = False) -> None:
        """where  a folder, or an address that fsspec knows (s3://bucket/prefix); cache  for the latter.

        partly  a pack that cannot be opened is said to be so, and raises where its records would be needed
        """
        self.home = home_of(where, cache)
        found, self._packs = _opened(self.home, partly)
        self.cursor, self.done = found.cursor, found.done
        self._lookup = Lookup(self._packs)

    @property
    def names(self) -> list[str]:
        """Names of the packs, oldest first."""
        return [each.where.rsplit("/", 1)[-1] for each in self._packs]

    @property
    def packs(self) -> int:
        """Packs that a look-up may have to ask."""
        return len(self._packs)

    @property
    def records(self) -> int:
        """Records in all packs; until the next merge a key written twice counts twice, a removed one still counts."""
        return sum(each.records - each.removed for each in self._packs)

    @property
    def size(self) -> int:
        """Bytes of all packs."""
        return sum(each.reader.size for each in self._packs)

    @property
    def index_bytes(self) -> int:
        """Bytes of index that a look-up needs in memory."""
        return sum(each.index_bytes for each in self._packs) + self._lookup.seen_bytes

    def weight(self, low: int, high: int) -> float:
        """About how many bytes the packs hold of records with low <= hash < high; from the index, without a read."""
        return sum(each.weight(low, high) for each in self._packs)

    def get(self, key: bytes) -> bytes | None:
        """The newest value of a key, None if there is none. Raises DamagedPack. Any thread may call it."""
        return self._lookup.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The newest value of each key, or None; the device works on all at once. Raises DamagedPack."""
        return self._lookup.get_many(keys)

    def scan(self, start: int = 0, stop: int = 1 << 64) -> Iterator[Record]:
        """Every key once, with its newest value, in hash order: the global shuffle.

        start  least hash to return; a reader that has finished hash h goes on with h + 1
        stop   hash to end before
        """
        return chain.from_iterable(batch.present().records() for batch in self.batches(start, stop))

    def batches(self, start: int = 0, stop: int = 1 << 64) -> Iterator[Batch]:
        """The same, some megabytes at a time; removals are still in it. Raises DamagedPack."""
        least, after = min((each.low for each in self._packs), default=0), max((p.high for p in self._packs), default=0)
        shared = sum(each.high - each.low for each in self._packs) / max(after - least, 1)
        runs = max(1, int(self.size // (RUN * min(max(1.0, shared / SHARED), LARGEST))))
        spread = (least + number * (after - least) // runs for number in range(runs + 1))
        edges = [min(max(start, each), stop) for each in spread]
        for number, (low, high) in enumerate(pairwise(edges)):
            if low < high:
                if number % AHEAD == 0:
                    soon = edges[min(number + 2 * AHEAD, runs)]
                    for each in self._packs:
                        each.want(edges[min(number + AHEAD, runs)] if number else low, soon)
                yield newest(self._packs, low, high)

    def verify(self) -> list[str]:
        """What is damaged, one line each; empty for a whole store. Reads everything."""
        return [f"{each.where.rsplit('/', 1)[-1]}: {problem}" for each in self._packs for problem in each.verify()]

    def close(self) -> None:
        """Let go of all files."""
        for each in self._packs:
            each.close()


def newest(packs: Sequence[Pack | Unread], low: int, high: int) -> Batch:
    """Settled records with low <= hash < high of packs, given oldest first: of each key the newest, or its removal."""
    found = [batch for each in reversed(packs) if each.covers_any(low, high) and len(batch := each.batch(low, high))]
    if len(found) == 1:
        return found[0]
    every = joined(found)
    return every.take(settled(every))


def _opened(home: Home, partly: bool) -> tuple[Manifest, list[Pack | Unread]]:
    """The manifest and its packs; again if a merge replaced packs in between."""
    while True:
        found = manifest.load(home)
        opened, unread = dict[str, Pack](), dict[str, DamagedPack]()
        try:
            for name in found.packs:
                try:
                    opened[name] = Pack(home.open(name))
                except FileNotFoundError as error:
                    if manifest.load(home).packs != found.packs:
                        break
                    unread[name] = pack.damaged(f"{home.where}/{name}", "the manifest names it, and it is not there")
                    unread[name].__cause__ = error
                except DamagedPack as error:
                    unread[name] = error
            else:
                return found, _with_unread(home, found.packs, opened, unread, partly)
        except BaseException:
            for each in opened.values():
                each.close()
            raise
        for each in opened.values():
            each.close()


def _with_unread(home: Home, names: Sequence[str], opened: dict[str, Pack], unread: dict[str, DamagedPack],
                 partly: bool) -> list[Pack | Unread]:  # fmt: skip
    """All packs in their order; those that cannot be opened are said once, or the first of them is raised."""
    bits = next((each.bits for each in opened.values() if each.merged), 0)
    every = list[Pack | Unread]()
    for name in names:
        if name in opened:
            every.append(opened[name])
            continue
        if not partly:
            raise unread[name]
        number = number_of(name) if bits else None
        span = (0, 0) if number is None else (bits, number)
        every.append(Unread(f"{home.where}/{name}", unread[name], *span, merged=number is not None))
    if unread:
        fallback("store", f"{len(unread)} of {len(names)} packs cannot be opened, the others are read: "
                          f"{', '.join(unread)}; danlu store mend {home.where}")  # fmt: skip
    return every


class Writer:
    """Owns a store for writing: one writer at a time, which holds a lock that dies with its process.

    cursor  where to go on, as the last `commit` said; empty for a new store
    Raises StoreInUse if another process writes this store.
    """

    def __init__(self, where: Path | str, *, pack_bytes: int = 64 << 20, bits: int = 0, draft: bool = False) -> None:
        """bits  first bits that the hashes of all records share; where they do, a pack covers their range alone.

        draft  a local store that begins with `clear`, whatever is there, and lasts once its files are kept (atomic)
        """
        self.home = Folder(Path(where), lasting=False) if draft else home_of(where)
        self._pack_bytes, self._bits, self._manifest, self._begun = pack_bytes, bits, Manifest(), False
        self._taken: tuple[str, ...] = ()
        self._lock = self.home.lock("lock")
        try:
            if not draft:
                self._manifest, self._begun = manifest.load(self.home), self.home.read(MANIFEST) is not None
                self._sweep()
        except BaseException:
            self._lock.close()
            raise
        self._pending, self._spare = Arena(pack_bytes), Arena(pack_bytes)  # memory that is not touched costs nothing
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    @property
    def cursor(self) -> dict[str, Any]:
        """What the last commit said of the source."""
        return self._manifest.cursor

    @property
    def done(self) -> bool:
        """Whether the last commit said that the source is read to its end."""
        return self._manifest.done

    def add(self, key: bytes, value: bytes) -> bool:
        """Take a record; a later value replaces an earlier one of the same key. True when it is time to `commit`."""
        return self._pending.add(key, value) >= self._pack_bytes

    def remove(self, key: bytes) -> bool:
        """Take a key out of the store; its bytes are on the disk until the next merge. True as `add` says it."""
        return self._pending.add(key, None) >= self._pack_bytes

    def take(self, packs: Sequence[Path]) -> None:
        """Have packs of local stores in this one too, older than all that was added: the next `commit` counts them.

        On the same disk they are the same bytes under another name. Call it before the first `add`. Raises DiskFull.
        """
        self._begin()
        number = manifest.load(self.home).next
        self._taken = tuple(f"{number + i:06d}.pack" for i in range(len(packs)))
        for name, each in zip(self._taken, packs, strict=True):
            self.home.take(name, each)

    def commit(self, cursor: dict[str, Any], *, done: bool = False, wait: bool = True) -> None:
        """Make what was added durable, together with how far the source was read. Raises DiskFull.

        done  the source has been read to its end
        wait  False: the disk works while more is added; if it fails, the next commit and all after it say so
        """
        if self._under_way is not None:
            self._under_way.result()
        if wait:
            self._commit(self._pending, cursor, done)
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "commit")
        self._under_way = self._thread.submit(self._commit, self._pending, deepcopy(cursor), done)
        self._pending, self._spare = self._spare, self._pending

    def _commit(self, records: Arena, cursor: dict[str, Any], done: bool) -> None:
        taken, self._taken = self._taken, ()
        self._begin()
        number = manifest.load(self.home).next + len(taken)
        names: tuple[str, ...] = ()
        if len(records):
            pack.write(self.home, f"{number:06d}.pack", records.batch(), self._bits)
            names = (f"{number:06d}.pack",)

        def how(now: Manifest) -> Manifest:
            packs, following = (*now.packs, *taken, *names), max(now.next, number + len(names))
            return replace(now, packs=packs, next=following, cursor=cursor, done=done)

        self._manifest = manifest.change(self.home, how)
        records.clear()

    def clear(self) -> None:
        """Start anew: forget every record and the cursor. Raises StoreInUse while a merge is under way."""
        if self._under_way is not None:
            self._under_way.result()
        merging = self.home.lock("merge.lock")
        try:
            self._pending.clear()
            self._manifest, self._begun = Manifest(), True
            manifest.put(self.home, self._manifest)
            for name in self.home.names():
                if name.endswith((".pack", ".part")):
                    self.home.remove(name)
        finally:
            merging.close()

    def close(self) -> None:
        """Give the lock back; what was not committed is gone, what is on its way arrives first."""
        if self._thread is not None:
            self._thread.shutdown()
        self._lock.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """A manifest before the first pack: packs without one are then of a store that has lost it."""
        if not self._begun:
            manifest.change(self.home, lambda now: now)
            self._begun = True

    def _sweep(self) -> None:
        """Remove packs that a killed writer finished but did not commit, and drafts; a merge sweeps its own."""
        names = self.home.names()
        if not self._begun and (packs := sum(name.endswith(".pack") for name in names)):
            raise pack.damaged(f"{self.home.where}/{MANIFEST}", f"it is not there, and {packs} packs are")
        for name in names:
            if OWN.fullmatch(name) and name not in self._manifest.packs:
                self.home.remove(name)
