"""Messages between the ranks of one epoch. Sending and receiving run in their own threads, beside the compute.

`post` puts a message on its way and returns; `take` waits for one, with a limit, and names the rank that is late.
Bodies are received into buffers that `recycle` gives back, so a steady step allocates nothing.
"""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from danlu.comm.header import SIZE, Header, Tag, decode, encode
from danlu.comm.mesh import Aborted, PeerLost
from danlu.errors import BadMessage, LateRank
from danlu.nouns import Link


class Message(NamedTuple):
    """A message that came: its header, and its body to be read (and given back by `Wire.recycle`)."""

    header: Header
    body: Any


class Lane:
    """When a message on a paced link may be used: it is busy for bytes / bandwidth; latency later they have come."""

    def __init__(self, link: Link) -> None:
        self._link, self._busy = link, 0.0

    def ready(self, sent: float, size: int) -> float:
        """Arrival, in the seconds of `sent` (the end of the instruction that made the message), of `size` bytes."""
        self._busy = max(self._busy, sent) + size / self._link.bandwidth
        return self._busy + self._link.latency_s


class _Box:
    """One peer: what to send, what came, and what came before anyone asked for it."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.out: SimpleQueue[tuple[Header, Any] | None] = SimpleQueue()
        self.came: SimpleQueue[Message | Exception] = SimpleQueue()
        self.early: dict[Tag, Message] = {}
        self.failure: Exception | None = None


class Wire:
    """Owns the sockets and threads of one rank in one epoch. `post` and `take` are for one thread, `abort` for any."""

    def __init__(
        self, rank: int, epoch: int, lines: Mapping[int, socket.socket], *, links: Mapping[int, Link] | None = None,
        limit_s: float = 60.0, body_limit: int = 1 << 32, name: Callable[[int], str] = "rank {}".format,
        memory: Callable[[int], Any] = bytearray,
    ) -> None:  # fmt: skip
        """lines  a connected socket per peer; links  paced links by peer, none for real ones.

        limit_s     longest wait for a message before its sender is called late
        body_limit  longest body in bytes a peer may announce
        name        what a rank is called in an error
        memory      makes what a body of so many bytes is received into (comm/staging.py)
        """
        self._name, self._memory = name, memory
        self.rank, self.epoch = rank, epoch
        self._limit_s, self._body_limit = limit_s, body_limit
        self._lanes = {peer: Lane(link) for peer, link in (links or {}).items()}
        self._boxes = {peer: _Box(line) for peer, line in lines.items()}
        self._spare: defaultdict[int, list[Any]] = defaultdict(list)
        self._threads = []
        for peer, box in self._boxes.items():
            for loop in (self._send, self._receive):
                thread = threading.Thread(target=loop, args=(peer, box), name=f"wire-{peer}", daemon=True)
                thread.start()
                self._threads.append(thread)

    @property
    def peers(self) -> tuple[int, ...]:
        """Ranks this one has a line to, in order."""
        return tuple(sorted(self._boxes))

    def post(self, peer: int, tag: Tag, body: Any, dtype: str, shape: tuple[int, ...], sent: float = 0.0) -> None:
        """Send `body` (C-contiguous buffer; unchanged until it is received) to `peer`; returns at once.

        body  or a function that gives it, which the thread that sends calls, and may wait in
        sent  end of the instruction that made it, on the sender's clock; a paced link adds its time to it
        """
        lane = self._lanes.get(peer)
        header = Header(tag, self.rank, self.epoch, dtype, shape, 0.0, 0)
        if lane is not None:
            header = header._replace(ready=lane.ready(sent, header.body_bytes))
        self._boxes[peer].out.put((header, body))

    def take(self, peer: int, tag: Tag, dtype: str, shape: tuple[int, ...]) -> Message:
        """The message `tag` from `peer`, waited for.

        Raises LateRank after the limit, PeerLost when the peer is gone, Aborted after `abort`, BadMessage when what
        came is damaged or is not `dtype` and `shape`.
        """
        box = self._boxes[peer]
        message = box.early.pop(tag, None) or self._wait(peer, box, tag)
        found = message.header
        if found.dtype != dtype or found.shape != shape:
            raise BadMessage(
                f"{self._name(peer)} sent {tag.what} of another shape",
                where=self._name(self.rank),
                why=f"{found.dtype} {found.shape} came, {dtype} {shape} was due",
                fix="give every rank the same plan and the same danlu",
            )
        return message

    def recycle(self, body: Any) -> None:
        """Give a message's body back, to be received into again."""
        self._spare[len(body)].append(body)

    def abort(self) -> None:
        """Wake everything that waits, with Aborted, and drop every line."""
        for box in self._boxes.values():
            box.failure = Aborted()
            box.came.put(box.failure)
            _hang_up(box.line)

    def close(self, limit_s: float = 10.0) -> None:
        """Send what is still to send, then drop the lines and end the threads."""
        for box in self._boxes.values():
            box.out.put(None)
        deadline = time.monotonic() + limit_s
        for thread in self._threads[::2]:
            thread.join(max(0.0, deadline - time.monotonic()))
        for box in self._boxes.values():
            _hang_up(box.line)
        for thread in self._threads[1::2]:
            thread.join(max(0.0, deadline - time.monotonic()))
        for box in self._boxes.values():
            box.line.close()

    def _wait(self, peer: int, box: _Box, tag: Tag) -> Message:
        deadline = time.monotonic() + self._limit_s
        while True:
            if box.failure is not None:
                raise box.failure
            try:
                found = box.came.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise LateRank(
                    f"{self._name(peer)} is late with {tag.what} of micro-batch {tag.mb}, step {tag.step}",
                    where=self._name(self.rank),
                    why=f"waited {self._limit_s:g} s; {len(box.early)} other messages came",
                    fix="look at that rank's log in OUT/logs; a slow machine may need a longer limit",
                ) from None
            if isinstance(found, Exception):
                box.failure = found
            elif found.header.tag == tag:
                return found
            else:
                box.early[found.header.tag] = found

    def _send(self, peer: int, box: _Box) -> None:
        while (item := box.out.get()) is not None:
            header, body = item
            try:
                body = body() if callable(body) else body
            except RuntimeError as error:  # torch's word for a card that failed
                box.came.put(error)
                return
            view = memoryview(body).cast("B") if header.body_bytes else memoryview(b"")
            head = encode(header._replace(crc=zlib.crc32(view)))
            try:
                done = box.line.sendmsg([head, view])
                if done < SIZE:
                    box.line.sendall(head[done:])
                if done < SIZE + len(view):
                    box.line.sendall(view[max(0, done - SIZE) :])
            except OSError as error:
                box.came.put(PeerLost(peer, str(error)))
                return

    def _receive(self, peer: int, box: _Box) -> None:
        head = bytearray(SIZE)
        try:
            while True:
                _fill(box.line, memoryview(head), peer)
                header = decode(head, self._name(peer), self._body_limit)
                spare = self._spare[header.body_bytes]
                body = spare.pop() if spare else self._memory(header.body_bytes)
                _fill(box.line, memoryview(body), peer)
                if header.sender != peer or zlib.crc32(body) != header.crc:
                    raise BadMessage(
                        f"{self._name(peer)} sent a damaged {header.tag.what}",
                        where=self._name(self.rank),
                        why=f"checksum of {len(body)} bytes or sender {header.sender} does not match",
                        fix="check that host's memory and network",
                    )
                if header.epoch == self.epoch:
                    box.came.put(Message(header, body))
                else:
                    self.recycle(body)
        except (PeerLost, BadMessage) as error:
            box.came.put(error)


def _fill(line: socket.socket, view: memoryview, peer: int) -> None:
    got = 0
    while got < len(view):
        try:
            count = line.recv_into(view[got:], 0, socket.MSG_WAITALL)
        except OSError as error:
            raise PeerLost(peer, str(error)) from error
        if count == 0:
            raise PeerLost(peer, "its line ended")
        got += count


def _hang_up(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer was faster
