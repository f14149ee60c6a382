"""Ranges of hashes out of several packs, one after the other, each read by a thread while the one before it is used.

For a merge, which reads everything once: the buffers are used again, and nothing stays in the page cache.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from danlu.store import bucket
from danlu.store.batch import Batch, settled
from danlu.store.home import PAGE
from danlu.store.pack import Pack, Piece

READERS = 4  # pieces read at once: one after the other, direct reads of a quarter of a megabyte leave the disk idle

Range = tuple[int, int]  # the least hash, and the first after it
Placed = tuple[Piece, int]  # a piece, and where it begins in the room


def ranges_of(packs: Sequence[Pack], ranges: Sequence[Range]) -> Iterator[Batch]:
    """Settled records of each range of packs given oldest first: of each key the newest, or its removal.

    A batch is good until the next one is asked for. Raises DamagedPack.
    """
    rooms = (Room(), Room())
    with ThreadPoolExecutor(1, "ahead") as thread, ThreadPoolExecutor(READERS, "read") as readers:
        coming = [thread.submit(_read, packs, each, rooms[0], readers) for each in ranges[:1]]
        for number, (low, high) in enumerate(ranges):
            placed = coming.pop().result()
            if number + 1 < len(ranges):
                coming.append(thread.submit(_read, packs, ranges[number + 1], rooms[(number + 1) % 2], readers))
            every = _parsed(placed, rooms[number % 2].view).within(low, high)
            yield every.take(settled(every))


class Room:
    """Memory that begins a page, as direct reads ask, and grows."""

    def __init__(self) -> None:
        self.view = memoryview(b"")

    def grow(self, size: int) -> None:
        """To so many bytes at least; what was in it is gone."""
        if size > len(self.view):
            self.view = memoryview(mmap.mmap(-1, size + size // 8))


def _read(packs: Sequence[Pack], wanted: Range, into: Room, readers: Executor) -> list[Placed]:
    """The pieces of all packs, the newest first, each in pages of its own; and where each begins."""
    placed, at = list[Placed](), 0
    for each in reversed(packs):
        if each.covers_any(*wanted):
            piece = each.piece(*wanted)
            inside = int(piece.edges[0]) % PAGE
            placed.append((piece, at + inside))
            at += -(-(inside + piece.size) // PAGE) * PAGE
    into.grow(at)
    ends = [start // PAGE * PAGE for _, start in placed[1:]] + [at]
    rooms = (into.view[start // PAGE * PAGE : end] for (_, start), end in zip(placed, ends, strict=True))
    for _ in readers.map(lambda piece, room: piece.pack.take(piece, room), (piece for piece, _ in placed), rooms):
        pass  # raises what a read has raised
    return placed


def _parsed(placed: Sequence[Placed], data: memoryview) -> Batch:
    pieces, empty = [piece for piece, _ in placed], np.zeros(0, np.int64)
    moves = [at - piece.edges[0] for piece, at in placed]
    starts = np.concatenate([empty, *(each.edges[:-1] + move for each, move in zip(pieces, moves, strict=True))])
    stops = np.concatenate([empty, *(each.edges[1:] + move for each, move in zip(pieces, moves, strict=True))])
    try:
        return bucket.parse(data, starts, stops)
    except bucket.DamagedBucket as error:
        number = error.args[0]
        for each in pieces:
            if number < len(each.edges) - 1:
                raise each.pack.damaged(each.first + number) from error
            number -= len(each.edges) - 1
        raise
