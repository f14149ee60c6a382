"""The 72 bytes before every message: what it is, whom it is from, how long it is, when it may be used.

Layout: docs/formats.md, "message header". Ranks of one job may run different torch versions; only WIRE must agree.
"""

from __future__ import annotations

import struct
import zlib
from math import isfinite, prod
from typing import NamedTuple

from danlu.errors import BadMessage

WIRE = 2
SIZE = 72
MAGIC = b"DLMS"
DTYPES = ("uint8", "fp32", "bf16", "fp16", "int64", "fp64", "int32")
ITEM_BYTES = {"uint8": 1, "fp32": 4, "bf16": 2, "fp16": 2, "int64": 8, "fp64": 8, "int32": 4}
_LAYOUT = struct.Struct("<4sHBBI8sIiHH4IQdII")
_CHECK = struct.Struct("<I")


class Tag(NamedTuple):
    """Which message of a step this is; a pair of ranks never sends the same tag twice in one epoch.

    what  "act", "grad", "norm", "tied", ... (at most 8 ASCII letters)
    mb    micro-batch, -1 where none
    """

    what: str
    step: int
    mb: int = -1


class Header(NamedTuple):
    """A message's header.

    epoch   counts rewinds of the job; a message of another epoch is dropped
    ready   time.monotonic() seconds from which the receiver may use it (a paced link), 0.0 for at once
    crc     CRC-32 of the body
    """

    tag: Tag
    sender: int
    epoch: int
    dtype: str
    shape: tuple[int, ...]
    ready: float
    crc: int

    @property
    def body_bytes(self) -> int:
        """Length of the body that follows."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def encode(header: Header) -> bytes:
    """The SIZE bytes of a header. At most four axes."""
    tag, shape = header.tag, header.shape
    assert len(shape) <= 4 and len(tag.what) <= 8 and tag.what.isascii()
    packed = _LAYOUT.pack(
        MAGIC, WIRE, DTYPES.index(header.dtype), len(shape), header.epoch, tag.what.encode(), tag.step, tag.mb,
        header.sender, 0, *shape, *(0,) * (4 - len(shape)), header.body_bytes, header.ready, header.crc, 0,
    )[:-4]  # fmt: skip
    return packed + _CHECK.pack(zlib.crc32(packed))


def decode(data: bytes | bytearray | memoryview, source: str, limit: int) -> Header:
    """The header in `data`.

    source  who sent it, for the error: "rank 2"
    limit   longest body in bytes that the receiver will take
    Raises BadMessage when it is short, damaged, of another wire version, or promises an impossible body.
    """
    if len(data) != SIZE:
        raise _bad("a header that ends early", source, f"{len(data)} of {SIZE} bytes came")
    magic, wire, code, axes, epoch, what, step, mb, sender, _, *rest = _LAYOUT.unpack(data)
    shape, (size, ready, crc, check) = tuple(rest[:4]), rest[4:]
    if magic != MAGIC:
        raise _bad("bytes that are no message", source, f"they start with {bytes(magic)!r}, a message with {MAGIC!r}")
    if wire != WIRE:
        raise _bad("another wire version", source, f"it speaks {wire}, this process {WIRE}; install one danlu version")
    if check != zlib.crc32(memoryview(data)[:-4]):
        raise _bad("a damaged header", source, "its checksum does not match")
    kind = what.rstrip(b"\0")
    if code >= len(DTYPES) or axes > 4 or any(shape[axes:]) or not kind.isalnum() or not kind.isascii():
        raise _bad("an impossible header", source, f"dtype {code}, {axes} axes, shape {shape}, kind {kind!r}")
    header = Header(Tag(kind.decode(), step, mb), sender, epoch, DTYPES[code], shape[:axes], ready, crc)
    if size != header.body_bytes or size > limit or not isfinite(ready):
        raise _bad(
            "an impossible body",
            source,
            f"{size} bytes for {header.dtype} {header.shape}, limit {limit}, ready {ready}",
        )
    return header


def claimed(data: bytes | bytearray) -> int:
    """The rank that SIZE bytes say they are from; its place is the same in every wire version."""
    return int.from_bytes(data[28:30], "little")


def _bad(what: str, source: str, why: str) -> BadMessage:
    return BadMessage(
        f"{source} sent {what}", where=source, why=why, fix="run the same danlu on every host; look at that rank's log"
    )
