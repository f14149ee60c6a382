"""Names in order: a sorted list of a store's keys, kept beside its packs so that a folder can be listed.

A store itself knows no order but that of hashes; training needs none. The list is made when it is first asked for and
made again when the packs have changed. Its layout is `sorted keys` in docs/formats.md.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu import atomic
from danlu.errors import DamagedPack
from danlu.store.home import Home, Reader, Sink
from danlu.store.packs import Store

NAME = "keys"
MAGIC = b"danlukeys2\n"
RUN = 1_000_000  # keys sorted in memory at a time
ESCAPED = re.compile(rb"\\(.)")
BLOCK = 64 << 10  # bytes of keys between two entries of the index


def listed(store: Store, prefix: bytes = b"") -> Iterator[bytes]:
    """Keys that begin with `prefix`, in order of their bytes. Reads the blocks that hold them; raises DiskFull."""
    reader = _opened(store.home, store.names)
    if reader is None:
        write(store)
        reader = _opened(store.home, store.names)
        assert reader is not None
    try:
        blocks = json.loads(_tail(reader))["blocks"]
        firsts = [bytes.fromhex(first) for first, _, _ in blocks]
        begin = max(0, next((n for n, first in enumerate(firsts) if first >= prefix), len(firsts)) - 1)
        for number in range(begin, len(blocks)):
            stop = blocks[number + 1][1] if number + 1 < len(blocks) else int.from_bytes(_end(reader)[:8], "little")
            for key in _unescaped(_block(reader, blocks[number][1], stop, blocks[number][2])):
                if key.startswith(prefix):
                    yield key
                elif key > prefix:
                    return
    finally:
        reader.close()


def verify(store: Store) -> list[str]:
    """What is damaged of the list, if there is one of these very packs; one line each."""
    reader = _opened(store.home, store.names)
    if reader is None:
        return []
    try:
        blocks = json.loads(_tail(reader))["blocks"]
        stops = [*(start for _, start, _ in blocks[1:]), int.from_bytes(_end(reader)[:8], "little")]
        return [f"{NAME}: bytes {start} to {stop} have another checksum than when they were written"
                for (_, start, crc), stop in zip(blocks, stops, strict=True)
                if zlib.crc32(reader.read(start, stop)) != crc]  # fmt: skip
    finally:
        reader.close()


def write(store: Store) -> int:
    """Make the list; returns the number of keys. Cost: one scan; RUN keys in memory, the rest in a temporary file."""
    count = 0

    def fill(file: Sink) -> None:
        nonlocal count
        count = 0
        at, blocks = file.write(MAGIC), list[list[Any]]()  # first key, where it begins, checksum
        for key in _sorted(store):
            count += 1
            line = _escaped(key)
            if not blocks or at - blocks[-1][1] >= BLOCK:
                blocks.append([key.hex(), at, 0])
            file.write(line)
            at, blocks[-1][2] = at + len(line), zlib.crc32(line, blocks[-1][2])
        tail = json.dumps({"packs": store.names, "keys": count, "blocks": blocks}).encode()
        file.write(tail + at.to_bytes(8, "little") + zlib.crc32(tail).to_bytes(4, "little"))

    store.home.put(NAME, fill)
    return count


def _sorted(store: Store) -> Iterator[bytes]:
    try:
        yield from _merged(store)
    except OSError as error:  # the disk of temporary files is another one than the store's
        raise atomic.full(Path(tempfile.gettempdir()) / NAME, error) from error


def _merged(store: Store) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as spill:
        runs: list[tuple[int, int]] = []
        run: list[bytes] = []
        for batch in store.batches():
            run += map(batch.present().key, range(len(batch.present())))
            if len(run) >= RUN:
                start = spill.tell()
                spill.writelines(map(_escaped, sorted(run)))
                runs.append((start, spill.tell()))
                run = []
        spill.flush()
        yield from heapq.merge(*(_spilled(spill.fileno(), *each) for each in runs), sorted(run))


def _spilled(fd: int, start: int, stop: int) -> Iterator[bytes]:
    rest = b""
    while start < stop:
        piece = os.pread(fd, min(1 << 20, stop - start), start)
        start, whole = start + len(piece), (rest + piece).rpartition(b"\n")
        rest = whole[2]
        yield from _unescaped(whole[0] + whole[1])


def _escaped(key: bytes) -> bytes:
    return key.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n"


def _unescaped(lines: bytes) -> Iterator[bytes]:
    for line in lines.split(b"\n")[:-1]:
        yield ESCAPED.sub(lambda found: b"\n" if found[1] == b"n" else found[1], line) if b"\\" in line else line


def _block(reader: Reader, start: int, stop: int, crc: int) -> bytes:
    """Lines of keys as they were written. Raises DamagedPack."""
    data = reader.read(start, stop)
    if zlib.crc32(data) != crc:
        raise DamagedPack(
            f"the sorted keys of {reader.where.rpartition('/')[0]} are damaged",
            where=reader.where,
            why=f"bytes {start} to {stop} have another checksum than when they were written",
            fix=f"remove {reader.where}: danlu store keys makes it again from the packs, which are not touched",
        )
    return data


def _end(reader: Reader) -> bytes:
    return reader.read(reader.size - 12, reader.size)


def _tail(reader: Reader) -> bytes:
    at = int.from_bytes(_end(reader)[:8], "little")
    return reader.read(at, reader.size - 12) if len(MAGIC) <= at < reader.size - 12 else b""


def _opened(home: Home, packs: list[str]) -> Reader | None:
    """The list, if there is one of these very packs and its end is whole."""
    try:
        reader = home.open(NAME)
    except FileNotFoundError:
        return None
    if reader.size >= len(MAGIC) + 12:
        tail = _tail(reader)
        whole = reader.read(0, len(MAGIC)) == MAGIC and zlib.crc32(tail) == int.from_bytes(_end(reader)[8:], "little")
        if whole and tail and json.loads(tail)["packs"] == packs:
            return reader
    reader.close()
    return None
