"""A home in any store that fsspec speaks to: s3://, gs://, memory://, ... Packs are read by ranges, written whole.

An object appears whole or not at all, which is all that packs and manifest need. A lock is an object that may only be
created, so it does not die with its process: it says who holds it.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from danlu.errors import MissingPackage, StoreInUse, Unreachable
from danlu.store.cache import Cache
from danlu.store.folder import Folder
from danlu.store.home import MOMENT_S, PAGE, TRY_S, Fill, Home, Reader, copied


def remote_home(where: str, cache: Cache | None = None) -> Home:
    """The home at an address. Raises MissingPackage, Unreachable."""
    try:
        fsspec = importlib.import_module("fsspec.core")
        files, root = fsspec.url_to_fs(where)
    except ImportError as error:
        raise MissingPackage(f"{where.partition(':')[0]}:// needs a package", where=where, why=str(error),
                             fix="pip install 'danlu[s3]', or the fsspec package of that store") from error  # fmt: skip
    except ValueError as error:
        raise Unreachable(f"{where} is no address of a store", why=str(error), where=where,
                          fix="give a folder, or an address such as s3://bucket/prefix") from error  # fmt: skip
    if "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol):
        return Folder(Path(root))
    return Remote(files, root.rstrip("/"), where, cache)


class Remote:
    """See home.Home."""

    def __init__(self, files: Any, root: str, where: str, cache: Cache | None) -> None:
        self._files, self._root, self.where, self._cache = files, root, where.rstrip("/"), cache

    def read(self, name: str) -> bytes | None:
        """See Home."""
        try:
            with reaching(self.where):
                data: bytes = self._files.cat_file(f"{self._root}/{name}")
                return data
        except FileNotFoundError:
            return None

    def open(self, name: str) -> Reader:
        """See Home."""
        with reaching(self.where):
            self._files.invalidate_cache()
            return RemoteReader(self._files, f"{self._root}/{name}", f"{self.where}/{name}", self._cache)

    def put(self, name: str, fill: Fill) -> None:
        """See Home."""
        with tempfile.TemporaryDirectory() as folder:
            Folder(Path(folder)).put(name, fill)
            with reaching(self.where):
                self._files.put_file(f"{folder}/{name}", f"{self._root}/{name}")

    def take(self, name: str, file: Path) -> None:
        """See Home."""
        self.put(name, partial(copied, file))

    def remove(self, name: str) -> None:
        """See Home."""
        try:
            with reaching(self.where):
                self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass

    def names(self) -> list[str]:
        """See Home."""
        try:
            with reaching(self.where):
                self._files.invalidate_cache()
                return [each.rstrip("/").rsplit("/", 1)[-1] for each in self._files.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []

    def lock(self, name: str, *, wait: bool = False) -> RemoteLock:
        """See Home."""
        return RemoteLock(self, self._files, f"{self._root}/{name}", name, wait)


class RemoteReader:
    """An object read by ranges, one request each, through the cache where there is one."""

    fd = direct = -1

    def __init__(self, files: Any, path: str, where: str, cache: Cache | None) -> None:
        self._files, self._path, self._cache, self.where = files, path, cache, where
        known = files.info(path)
        self.size = int(known["size"])
        # A name may come again with other bytes, in a store that was cleared and filled anew.
        made = known.get("ETag") or known.get("LastModified") or known.get("created") or known.get("mtime")
        self._identity = f"{where}\0{made}\0{self.size}"

    def read(self, start: int, stop: int) -> bytes:
        """See Reader."""
        if stop <= start:
            return b""
        if self._cache is None:
            return self._fetch(start, stop)
        return self._cache.read(self._identity, self.size, start, stop, self._fetch)

    def _fetch(self, start: int, stop: int) -> bytes:
        with reaching(self.where):
            data: bytes = self._files.cat_file(self._path, start=start, end=stop)
            return data

    def take(self, start: int, stop: int, room: memoryview) -> int:
        """See Reader."""
        data = self.read(start, stop)
        room[start % PAGE : start % PAGE + len(data)] = data
        return len(data)

    def want(self, start: int, stop: int) -> None:
        """Nothing: a request takes its own time."""

    def close(self) -> None:
        """Nothing is held open."""


class RemoteLock:
    """An object that was created by us and by nobody else."""

    def __init__(self, home: Remote, files: Any, path: str, name: str, wait: bool) -> None:
        self._home, self._name = home, name
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "t": time.time()}).encode()
        until = time.monotonic() + 2 * MOMENT_S  # by no clock but ours: the holder's may be ahead
        while True:
            try:
                with reaching(home.where):
                    files.pipe_file(path, mine, mode="create")
                return
            except FileExistsError as error:
                held = home.read(name)
                if held is None or _gone(held, wait):
                    home.remove(name)
                elif wait and time.monotonic() < until:
                    time.sleep(TRY_S)
                else:
                    raise _in_use(home, name, _holder(held)) from error

    def close(self) -> None:
        """See Lock."""
        self._home.remove(self._name)


def _holder(held: bytes) -> dict[str, Any]:
    """Host, process and time that a lock names; of one that cannot be read, a holder that nobody knows."""
    try:
        found = json.loads(held)
        return {"host": str(found["host"]), "pid": int(found["pid"]), "t": float(found["t"])}
    except (ValueError, KeyError, TypeError):
        return {"host": "an unknown host", "pid": 0, "t": 0.0}


def _gone(held: bytes, wait: bool) -> bool:
    """True when the holder is a process of this host that is no more, or has held a lock of moments for too long."""
    holder = _holder(held)
    if wait and time.time() - holder["t"] > MOMENT_S:
        return True
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _in_use(home: Remote, name: str, holder: dict[str, Any]) -> StoreInUse:
    return StoreInUse(
        f"another process {'merges' if name == 'merge.lock' else 'writes'} {home.where}",
        where=home.where,
        why=f"process {holder['pid']} on {holder['host']} holds {name} since {time.ctime(holder['t'])}",
        fix=f"wait for it; if that process is gone, remove the object {home.where}/{name}",
    )


class reaching:  # noqa: N801  # it reads as a verb: with reaching(where)
    """What goes wrong between here and an object store, as Unreachable; what is not there stays FileNotFoundError."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        own = (FileNotFoundError, FileExistsError)
        if isinstance(error, Exception) and not isinstance(error, own) and _from_afar(error):
            raise Unreachable(
                f"{self._where} does not answer",
                where=self._where,
                why=f"{type(error).__name__}: {error}",
                fix="check the address, the network and the credentials (for s3://, aws s3 ls shows them)",
            ) from error


def _from_afar(error: Exception) -> bool:
    """Errors of the network or of the object store's client; an error of our own code passes."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in (
        "botocore",
        "aiohttp",
        "aiobotocore",
    )
