"""A step as bytes, from the rank that serves to those that compute it with it; docs/formats.md, "step message"."""

from __future__ import annotations

import socket
import struct
import sys
from array import array

from danlu.kernels.step import Piece, Step

_SIZE = struct.Struct("<I")


def dumps(step: Step) -> bytes:
    """The numbers of a step."""
    numbers = array("i", (len(step.tokens), len(step.wanted), len(step.pieces)))
    numbers.extend(step.tokens)
    numbers.extend(step.wanted)
    for piece in step.pieces:
        numbers.extend((piece.start, piece.stop, len(piece.pages)))
        numbers.extend(piece.pages)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def loads(message: bytes) -> Step:
    """The step again."""
    numbers = array("i")
    numbers.frombytes(message)
    if sys.byteorder == "big":
        numbers.byteswap()
    tokens, wanted, count = numbers[:3]
    at, pieces = 3 + tokens + wanted, []
    for _ in range(count):
        start, stop, pages = numbers[at : at + 3]
        pieces.append(Piece(numbers[at + 3 : at + 3 + pages], start, stop))
        at += 3 + pages
    return Step(numbers[3 : 3 + tokens], pieces, numbers[3 + tokens : 3 + tokens + wanted])


def say(line: socket.socket, message: bytes) -> None:
    """Send one message: its size, then its bytes. Raises OSError when the other end is gone."""
    line.sendall(_SIZE.pack(len(message)) + message)


def hear(line: socket.socket) -> bytes | None:
    """The next message; None when the other end is gone."""
    try:
        data = line.recv(1 << 16)
        while data and (len(data) < _SIZE.size or len(data) < _SIZE.size + _SIZE.unpack_from(data)[0]):
            more = line.recv(1 << 20)
            if not more:
                return None
            data += more
    except OSError:
        return None
    return data[_SIZE.size :] if data else None
