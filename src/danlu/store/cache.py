"""Blocks of far files kept on a local disk: bounded, checksummed, shared by all processes of a machine.

A block that was changed on the disk is fetched again; a disk that is full means only that nothing new is kept.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

BLOCK = 256 << 10  # bytes fetched and kept at a time: an object store's answer takes 10 ms and more, this part of it 2
MOST = 10 << 30
END = ".block"
DRAFT_S = 60.0  # a draft is written in milliseconds; one that is older was left by a killed process

Fetch = Callable[[int, int], bytes]  # bytes start .. stop - 1 of the far file


class Cache:
    """Owns its part of a folder; the blocks used longest ago make room for new ones.

    most_bytes  of blocks on the disk; processes that share the folder each keep to it
    hits, misses  blocks found and fetched
    """

    def __init__(self, folder: Path, most_bytes: int = MOST) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._most = folder, most_bytes
        self._sizes = OrderedDict(_kept(folder))
        self._total, self._lock = sum(self._sizes.values()), threading.Lock()
        self.hits = self.misses = 0

    def read(self, file: str, size: int, start: int, stop: int, fetch: Fetch) -> bytes:
        """Bytes start .. stop - 1 of a far file of `size` bytes that never changes under the name `file`."""
        stop = min(stop, size)
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks: list[bytes | None] = [self._load(_name(file, number)) for number in range(first, last)]
        number = 0
        while number < len(blocks):
            end = number
            while end < len(blocks) and blocks[end] is None:
                end += 1
            if end > number:  # neighbours that are missing come by one request
                low = (first + number) * BLOCK
                data = fetch(low, min((first + end) * BLOCK, size))
                for n in range(number, end):
                    block = data[(n - number) * BLOCK : (n - number + 1) * BLOCK]
                    self._keep(_name(file, first + n), block)
                    blocks[n] = block
            number = end + 1
        return b"".join(each for each in blocks if each)[start - first * BLOCK : stop - first * BLOCK]

    def _load(self, name: str) -> bytes | None:
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            data = b""
        whole = len(data) > 4 and zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little")
        with self._lock:
            self.hits, self.misses = self.hits + whole, self.misses + (not whole)
            if whole and name in self._sizes:
                self._sizes.move_to_end(name)
        return data[4:] if whole else None

    def _keep(self, name: str, block: bytes) -> None:
        draft = self._folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            draft.write_bytes(zlib.crc32(block).to_bytes(4, "little") + block)
            draft.replace(self._folder / name)
        except OSError:
            draft.unlink(missing_ok=True)
            return
        with self._lock:
            self._total += len(block) + 4 - self._sizes.pop(name, 0)
            self._sizes[name] = len(block) + 4
            while self._total > self._most:
                old, size = self._sizes.popitem(last=False)
                self._total -= size
                (self._folder / old).unlink(missing_ok=True)


def _kept(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the blocks in a folder, the oldest first; old drafts are removed."""
    found = list[tuple[float, str, int]]()
    for each in os.scandir(folder):
        with suppress(FileNotFoundError):  # another process makes room at the same time
            known = each.stat()
            if each.name.endswith(END):
                found.append((known.st_mtime, each.name, known.st_size))
            elif END in each.name and time.time() - known.st_mtime > DRAFT_S:
                os.unlink(each.path)
    return [(name, size) for _, name, size in sorted(found)]


def _name(file: str, number: int) -> str:
    return blake2b(f"{file}\0{number}".encode(), digest_size=16).hexdigest() + END
