"""Ranges of hashes out of several packs, one after the other, each read by a thread while the one before it is used.

For a merge, which reads everything once: the buffers are used again, and nothing stays in the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from danlu.store import bucket
from danlu.store.batch import Batch, settled
from danlu.store.pack import Pack, Piece

Range = tuple[int, int]  # the least hash, and the first after it


def ranges_of(packs: Sequence[Pack], ranges: Sequence[Range]) -> Iterator[Batch]:
    """Settled records of each range of packs given oldest first: of each key the newest, or its removal.

    A batch is good until the next one is asked for. Raises DamagedPack.
    """
    buffers = (bytearray(), bytearray())
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = [thread.submit(_read, packs, each, buffers[0]) for each in ranges[:1]]
        for number, (low, high) in enumerate(ranges):
            pieces = coming.pop().result()
            if number + 1 < len(ranges):
                coming.append(thread.submit(_read, packs, ranges[number + 1], buffers[(number + 1) % 2]))
            every = _parsed(pieces, buffers[number % 2]).within(low, high)
            yield every.take(settled(every))


def _read(packs: Sequence[Pack], wanted: Range, into: bytearray) -> list[Piece]:
    """The pieces of all packs, the newest first, one after the other in `into`, which grows where it must."""
    pieces = [each.piece(*wanted) for each in reversed(packs) if each.covers_any(*wanted)]
    if (size := sum(each.size for each in pieces)) > len(into):
        into.extend(bytes(size - len(into)))
    at = 0
    for each in pieces:
        each.pack.reader.want(int(each.edges[0]), int(each.edges[-1]))
    with memoryview(into) as room:
        for each in pieces:
            each.pack.take(int(each.edges[0]), room[at : at + each.size])
            at += each.size
    return pieces


def _parsed(pieces: Sequence[Piece], data: bytearray) -> Batch:
    edges, at = [np.zeros(1, np.int64)], 0
    for each in pieces:
        edges.append(each.edges[1:] - each.edges[0] + at)
        at += each.size
    try:
        return bucket.parse(data, np.concatenate(edges))
    except bucket.DamagedBucket as error:
        number = error.args[0]
        for each in pieces:
            if number < len(each.edges) - 1:
                raise each.pack.damaged(each.first + number) from error
            number -= len(each.edges) - 1
        raise
