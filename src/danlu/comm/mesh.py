"""How the ranks of a job find each other: every rank listens once, and connects anew for every epoch.

Addresses are text: "unix:NAME" (abstract, so no file can be left behind) between processes of one host, "tcp:HOST:PORT"
otherwise. The lower rank accepts, the higher one connects and says who it is.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from danlu.comm.header import SIZE, Header, Tag, claimed, decode, encode
from danlu.errors import BadMessage, LateRank, OtherRank

_BUFFER_BYTES = 4 << 20  # a whole activation fits, so a sender seldom waits for the reader
_POLL_S = 0.1
_HELLO_BYTES = 4096  # the longest hello that is read


class Aborted(Exception):
    """What was waited for will not come: the job has moved to another epoch. Never shown to a user."""


class PeerLost(Exception):
    """A rank ended or its line broke. A value for the owner to act on, never shown to a user."""

    def __init__(self, peer: int, why: str) -> None:
        super().__init__(f"rank {peer}: {why}")
        self.peer = peer


class Door:
    """Owns a listening socket and its address."""

    def __init__(self, host: str | None = None) -> None:
        """host  None for a Unix socket on this machine, else the interface to listen on by TCP."""
        if host is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            name = f"danlu-{secrets.token_hex(16)}"
            self._socket.bind(f"\0{name}")
            self.address = f"unix:{name}"
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._socket.bind((host, 0))
            self.address = f"tcp:{host}:{self._socket.getsockname()[1]}"
        self._socket.listen(512)
        self._socket.settimeout(_POLL_S)

    def fileno(self) -> int:
        """For selectors: readable when someone knocks."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next caller, or None when nobody came within a tenth of a second."""
        try:
            found, _ = self._socket.accept()
        except TimeoutError:
            return None
        return _tuned(found)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def call(address: str) -> socket.socket:
    """Connect to a Door's address. Raises OSError when nobody listens there."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.connect(f"\0{rest}")
        except OSError:
            line.close()
            raise
    else:
        host, _, port = rest.rpartition(":")
        line = socket.create_connection((host, int(port)))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _tuned(line)


def answers(address: str, limit_s: float = 1.0) -> bool:
    """Whether someone listens at a Door's address; one too busy to say so within the limit does."""
    kind, _, rest = address.partition(":")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    host, _, port = rest.rpartition(":")
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.settimeout(limit_s)
        try:
            line.connect(f"\0{rest}" if kind == "unix" else (host, int(port)))
        except (BlockingIOError, TimeoutError):
            return True
        except OSError:
            return False
    return True


def join(
    door: Door,
    rank: int,
    epoch: int,
    addresses: Mapping[int, str],
    key: bytes,
    *,
    limit_s: float,
    given_up: Callable[[], bool],
    same: Mapping[str, str] | None = None,
    name: Callable[[int], str] = "rank {}".format,
) -> dict[int, socket.socket]:
    """One socket to every other rank of the epoch.

    addresses  of all ranks, this one included
    key        secret of the job; a caller without it is turned away
    same       what all ranks must have alike, by name; a rank with another value is refused
    name       what a rank is called in an error
    Raises PeerLost for a rank that does not answer, Aborted once `given_up()`, LateRank naming those who did not come
    in `limit_s`, BadMessage for a caller that speaks another wire version, OtherRank for one that differs in `same`.
    """
    mine = dict(same or {})
    body = key + json.dumps(mine).encode()
    hello = encode(Header(Tag("hello", 0), rank, epoch, "uint8", (len(body),), 0.0, zlib.crc32(body))) + body
    lines: dict[int, socket.socket] = {}
    deadline = time.monotonic() + limit_s
    try:
        for peer in sorted(p for p in addresses if p < rank):
            lines[peer] = _reach(addresses[peer], peer)
            lines[peer].sendall(hello)
        while missing := [peer for peer in addresses if peer > rank and peer not in lines]:
            if given_up():
                raise Aborted
            if time.monotonic() > deadline:
                raise LateRank(
                    f"{name(missing[0])} did not join epoch {epoch}",
                    where=name(rank),
                    why=f"waited {limit_s:g} s for ranks {missing}",
                    fix="look at that rank's log in OUT/logs",
                )
            caller = door.accept()
            if caller is not None:
                try:
                    found = _greet(caller, epoch, key, deadline - time.monotonic(), name)
                    if found is not None:
                        _compare(mine, found, rank, name)
                except BaseException:
                    caller.close()
                    raise
                if found is None or found.rank not in addresses or found.rank <= rank:
                    caller.close()
                    continue
                if found.rank in lines:
                    lines[found.rank].close()  # it tried before, and dropped that line
                lines[found.rank] = caller
    except BaseException:
        for line in lines.values():
            line.close()
        raise
    return lines


def _reach(address: str, peer: int) -> socket.socket:
    try:
        return call(address)
    except OSError as error:
        raise PeerLost(peer, f"{address}: {error}") from error


class _Guest(NamedTuple):
    """A caller with the key: its rank, and what it says that all ranks have alike."""

    rank: int
    same: dict[str, str]


def _greet(caller: socket.socket, epoch: int, key: bytes, limit_s: float, name: Callable[[int], str]) -> _Guest | None:
    """Who calls; None for one of an old epoch, one without the key, or one that left."""
    caller.settimeout(max(limit_s, _POLL_S))
    try:
        head = _exactly(caller, SIZE)
        if not head:
            return None
        header = decode(head, f"{name(claimed(head))} (a caller)", _HELLO_BYTES)
        if header.tag.what != "hello":
            raise BadMessage(
                "a caller did not say hello",
                why=f"its first message is {header.tag}",
                fix="look at the ranks' logs in OUT/logs",
            )
        body = _exactly(caller, header.body_bytes)
    except OSError:
        return None
    finally:
        caller.settimeout(None)
    known = secrets.compare_digest(body[: len(key)], key) and zlib.crc32(body) == header.crc
    return _Guest(header.sender, json.loads(body[len(key) :] or b"{}")) if known and header.epoch == epoch else None


def _exactly(caller: socket.socket, count: int) -> bytes:
    """So many bytes of a caller, fewer if it leaves before."""
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count and (more := caller.recv_into(view[got:])):
        got += more
    return bytes(view[:got])


def _compare(mine: Mapping[str, str], guest: _Guest, rank: int, name: Callable[[int], str]) -> None:
    """Raises OtherRank for a guest that differs in what all ranks have alike."""
    other = next((each for each in sorted({*mine, *guest.same}) if mine.get(each) != guest.same.get(each)), None)
    if other is None:
        return
    raise OtherRank(
        f"{name(guest.rank)} has another {other} than {name(rank)}",
        where=name(guest.rank),
        why=f"{guest.same.get(other, 'none')} there, {mine.get(other, 'none')} here",
        fix=f"give every host the same {other}, then go on from the last snapshot: --train.resume true",
    )


def _tuned(line: socket.socket) -> socket.socket:
    line.setblocking(True)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        line.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return line
