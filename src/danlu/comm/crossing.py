"""Sums between the leaders of islands, chunk by chunk: all are on their way before the first one is waited for.

Two leaders swap whole chunks, which fills a link both ways with the array once and waits for its latency once. Among
more of them every chunk has an owner, who adds it and sends the sum back: 2 (n - 1) / n arrays each way, as a ring
carries, in two hops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from danlu.comm.header import Tag
from danlu.comm.numbers import Array, add_up
from danlu.comm.sockets import SocketGroup


def sums(leaders: SocketGroup, chunks: Sequence[Array], mine: Iterator[Array]) -> Iterator[Array]:
    """Each of `chunks`, in order, once the sum of all leaders' stands in it; added in the leaders' order.

    mine  what this leader brings to each: arrays of their own, not the chunks themselves
    """
    way = _swapped if leaders.size == 2 else _owned
    yield from way(leaders, chunks, mine)


def _swapped(leaders: SocketGroup, chunks: Sequence[Array], mine: Iterator[Array]) -> Iterator[Array]:
    other = 1 - leaders.rank
    away = [(own, leaders.post({other: own}, own)) for own in mine]
    for chunk, (own, tag) in zip(chunks, away, strict=True):
        came = leaders.take(tag, {other: own.size}, own)[other]
        add_up((own, came) if leaders.rank == 0 else (came, own), chunk)
        yield chunk


def _owned(leaders: SocketGroup, chunks: Sequence[Array], mine: Iterator[Array]) -> Iterator[Array]:
    """Owners add a round of chunks before anyone waits for the sums of the round before it."""
    to_owner = [(number % leaders.size, own) for number, own in enumerate(mine)]
    away = [(owner, own, leaders.post({} if owner == leaders.rank else {owner: own}, own)) for owner, own in to_owner]
    before: list[tuple[Array, Array, int, Tag]] = []
    for at in range(0, len(chunks), leaders.size):
        turn = zip(chunks[at : at + leaders.size], away[at : at + leaders.size], strict=True)
        back = [(chunk, own, owner, _added(leaders, owner, own, tag)) for chunk, (owner, own, tag) in turn]
        yield from (_taken(leaders, *each) for each in before)
        before = back
    yield from (_taken(leaders, *each) for each in before)


def _added(leaders: SocketGroup, owner: int, own: Array, tag: Tag) -> Tag:
    """The owner's `own` becomes the sum and leaves for the others; the tag it goes by."""
    if owner != leaders.rank:
        return leaders.post({}, own)
    others = [rank for rank in range(leaders.size) if rank != owner]
    came = leaders.take(tag, dict.fromkeys(others, own.size), own)
    add_up([came.get(rank, own) for rank in range(leaders.size)], own)
    return leaders.post(dict.fromkeys(others, own), own)


def _taken(leaders: SocketGroup, chunk: Array, own: Array, owner: int, tag: Tag) -> Array:
    chunk[...] = own if owner == leaders.rank else leaders.take(tag, {owner: own.size}, own)[owner]
    return chunk
