"""Which transport the ranks of a wire use among themselves: shared memory where they can, sockets elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from danlu.comm.group import Group
from danlu.comm.header import Tag
from danlu.comm.islands import IslandGroup
from danlu.comm.shm import MAX_RANKS, Segment, ShmGroup, usable
from danlu.comm.sockets import SocketGroup
from danlu.comm.wire import Wire
from danlu.events import fallback

_PLACE_BYTES = 32


def form(wire: Wire, *, limit_s: float = 60.0, place: bytes | None = None) -> Group:
    """The best group over all ranks of a wire; each of them calls it at the same point.

    place  32 bytes, equal on ranks that may share memory; by default those of one host, user and process namespace
    Ranks of one place use a segment; places are joined as islands. Raises what Wire.take raises.
    """
    ranks = tuple(sorted((*wire.peers, wire.rank)))
    places = _places(wire, ranks, place or here())
    islands = [
        [i for i, rank in enumerate(ranks) if places[rank] == each]
        for each in dict.fromkeys(places[rank] for rank in ranks)
    ]
    home = next(each for each in islands if ranks.index(wire.rank) in each)
    inner = _inner(wire, [ranks[i] for i in home], limit_s) if len(home) > 1 else None
    if len(islands) == 1:
        return inner or SocketGroup(wire)
    if len(islands) == len(ranks):
        return SocketGroup(wire)
    heads = [ranks[each[0]] for each in islands]
    leaders = SocketGroup(wire, heads, "leaders") if wire.rank in heads else None
    return IslandGroup(ranks.index(wire.rank), islands, inner, leaders)


def here() -> bytes:
    """What ranks that may share memory have in common; something unique where this process cannot share any."""
    if not usable():
        return secrets.token_bytes(_PLACE_BYTES)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        common = f"{boot} {os.readlink('/proc/self/ns/pid')} {os.readlink('/proc/self/ns/user')} {os.getuid()}"
    except OSError as error:
        fallback("shm", f"sockets instead of shared memory between processes of this host: {error}")
        return secrets.token_bytes(_PLACE_BYTES)
    return hashlib.sha256(common.encode()).digest()


def _places(wire: Wire, ranks: Sequence[int], place: bytes) -> dict[int, bytes]:
    assert len(place) == _PLACE_BYTES
    for peer in wire.peers:
        wire.post(peer, Tag("place", 0), place, "uint8", (_PLACE_BYTES,))
    came = {peer: bytes(wire.take(peer, Tag("place", 0), "uint8", (_PLACE_BYTES,)).body) for peer in wire.peers}
    return {**came, wire.rank: place}


def _inner(wire: Wire, members: Sequence[int], limit_s: float) -> Group:
    """The group of one place: a segment if everyone can open it, else sockets. Its founder is the first member."""
    if len(members) > MAX_RANKS:
        return SocketGroup(wire, members, "inner")
    founder = members[0]
    if wire.rank == founder:
        segment = _open(len(members))
        _say(wire, members[1:], 0, json.dumps([segment.address, *segment.identity] if segment else []).encode())
        opened = all(_hear(wire, peer, 1) == b"1" for peer in members[1:])
        _say(wire, members[1:], 2, b"1" if opened else b"0")
        fine = opened and segment is not None
    else:
        address = json.loads(_hear(wire, founder, 0))
        segment = _open(len(members), *address) if address else None
        _say(wire, [founder], 1, b"1" if segment else b"0")
        fine = _hear(wire, founder, 2) == b"1"
    if segment is not None:
        segment.settle()  # whoever could open it has
    if not fine or segment is None:
        fallback("shm", f"sockets instead of shared memory between ranks {list(members)} of one host")
        return SocketGroup(wire, members, "inner")
    return ShmGroup(segment, members, wire.rank, limit_s=limit_s)


def _open(ranks: int, address: str | None = None, *identity: int) -> Segment | None:
    """A segment, or None where the system refuses it: another rank cannot tell why, so the caller says so."""
    try:
        found = Segment(ranks, address)
    except OSError as error:
        fallback("shm", f"no shared memory with the other ranks of this host: {error}")
        return None
    if identity and found.identity != identity:
        found.settle()
        return None
    return found


def _say(wire: Wire, peers: Sequence[int], number: int, text: bytes) -> None:
    padded = np.frombuffer(text.ljust(128, b" "), np.uint8)
    for peer in peers:
        wire.post(peer, Tag("segment", number), padded, "uint8", (128,))


def _hear(wire: Wire, peer: int, number: int) -> bytes:
    return bytes(wire.take(peer, Tag("segment", number), "uint8", (128,)).body).strip()
