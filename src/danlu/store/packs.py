"""A store: a folder of packs and one manifest that says which of them count, and how far their source was read.

A writer gathers records and commits them as one more pack; the manifest, replaced atomically, is the only thing that
makes a pack part of the store. A killed writer therefore loses only what it had not committed, and going on from the
manifest's cursor doubles nothing.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.errors import NewerFormat, StoreInUse
from danlu.store import atomic, pack
from danlu.store.pack import Pack, Record

VERSION = 1
MANIFEST = "manifest.json"


class Store:
    """Reads the packs that were committed when it was opened. Raises DamagedPack, NewerFormat."""

    def __init__(self, folder: Path) -> None:
        manifest = _manifest(folder)
        self.cursor: dict[str, Any] = manifest["cursor"]
        self.done = bool(manifest["done"])
        self._packs = [Pack(folder / name) for name in manifest["packs"]]

    @property
    def records(self) -> int:
        """Records in all packs; a key written twice counts twice."""
        return sum(each.records for each in self._packs)

    @property
    def size(self) -> int:
        """Bytes of all packs on disk."""
        return sum(each.path.stat().st_size for each in self._packs)

    @property
    def index_bytes(self) -> int:
        """Bytes of index that a look-up needs in memory."""
        return sum(each.index_bytes for each in self._packs)

    def get(self, key: bytes) -> bytes | None:
        """The newest value of a key, None if there is none. Raises DamagedPack."""
        return next((value for each in reversed(self._packs) if (value := each.get(key)) is not None), None)

    def scan(self, start: int = 0) -> Iterator[Record]:
        """Every key once, with its newest value, in hash order: the global shuffle.

        start  least hash to return; a reader that has finished hash h goes on with h + 1
        """
        last: tuple[int, bytes] | None = None
        for record in heapq.merge(*(each.scan(start) for each in reversed(self._packs)), key=lambda r: r[:2]):
            if record[:2] != last:  # equal keys come newest first: merge is stable, and newer packs stand before older
                last = record[:2]
                yield record

    def verify(self) -> list[str]:
        """What is damaged, one line each; empty for a whole store. Reads everything."""
        return [f"{each.path.name}: {problem}" for each in self._packs for problem in each.verify()]

    def close(self) -> None:
        """Let go of all files."""
        for each in self._packs:
            each.close()


class Writer:
    """Owns a store for writing: one writer at a time, which holds a lock that dies with its process.

    cursor  where to go on, as the last `commit` said; empty for a new store
    Raises StoreInUse if another process writes this store.
    """

    def __init__(self, folder: Path, *, pack_bytes: int = 64 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._pack_bytes = folder, pack_bytes
        self._lock = _lock(folder)
        self._manifest = _manifest(folder)
        self.cursor: dict[str, Any] = self._manifest["cursor"]
        self.done = bool(self._manifest["done"])
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._sweep()

    def add(self, key: bytes, value: bytes) -> bool:
        """Take a record; a later value replaces an earlier one of the same key. True when it is time to `commit`."""
        self._pending[key] = value
        self._pending_bytes += len(key) + len(value)
        return self._pending_bytes >= self._pack_bytes

    def commit(self, cursor: dict[str, Any], *, done: bool = False) -> None:
        """Make what was added durable, together with how far the source was read. Raises DiskFull.

        done  the source has been read to its end
        """
        packs = list(self._manifest["packs"])
        if self._pending:
            name = f"{len(packs):06d}.pack"
            pack.write(self._folder / name, self._pending)
            packs.append(name)
        manifest = {"pack": VERSION, "packs": packs, "cursor": cursor, "done": done}
        atomic.write(self._folder / MANIFEST, json.dumps(manifest).encode())
        self._manifest, self.cursor, self.done = manifest, cursor, done
        self._pending, self._pending_bytes = {}, 0

    def clear(self) -> None:
        """Start anew: forget every record and the cursor."""
        self._manifest = {"pack": VERSION, "packs": [], "cursor": {}, "done": False}
        self._pending, self._pending_bytes, self.cursor, self.done = {}, 0, {}, False
        (self._folder / MANIFEST).unlink(missing_ok=True)
        self._sweep()

    def close(self) -> None:
        """Give the lock back; what was not committed is gone."""
        os.close(self._lock)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sweep(self) -> None:
        """Remove packs that a killed writer finished but did not commit, and drafts."""
        known = {MANIFEST, "lock", *self._manifest["packs"]}
        for stray in self._folder.iterdir():
            if stray.name not in known and (stray.suffix in (".pack", ".part")):
                stray.unlink()


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(fd, 32).decode() or "unknown"
        os.close(fd)
        raise StoreInUse(
            f"another process writes {folder.name}",
            where=str(folder),
            why=f"process {holder} holds its lock",
            fix=f"wait for it (ps -p {holder}), or give this run another `out`",
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        return {"pack": VERSION, "packs": [], "cursor": {}, "done": False}
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["pack"] > VERSION:
            raise NewerFormat(
                f"{path} is a store of version {manifest['pack']}",
                where=str(path),
                why=f"this danlu reads version {VERSION}",
                fix="update danlu: git pull",
            )
        return {name: manifest[name] for name in ("pack", "packs", "cursor", "done")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pack.damaged(path, f"it cannot be read: {error}") from error
