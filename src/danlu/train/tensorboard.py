"""Scalars of a run as TensorBoard reads them: an event file beside the step log, written as the run goes.

The format is TensorFlow's: records of (length u64, its masked CRC-32C, bytes, their masked CRC-32C), each the protocol
buffer `Event` of tensorflow/core/util/event.proto; wall_time, step, file_version and scalar summaries are used.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = row >> 1 ^ (_POLYNOMIAL if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


_TABLE = _table()


class EventFile:
    """Owns one event file. Each line of a run that goes on later is another file of the same folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        path = folder / f"events.out.tfevents.{int(now)}.{os.getpid()}.danlu"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._write(now, 0, _field(3, b"brain.Event:2"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write what was measured in one step. Raises OSError when the disk is full."""
        named = b"".join(
            _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in values.items()
        )
        self._write(time.time(), step, _field(5, named))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, at: float, step: int, rest: bytes) -> None:
        event = b"\x09" + struct.pack("<d", at) + b"\x10" + _varint(step) + rest
        length = struct.pack("<Q", len(event))
        os.write(self._fd, length + struct.pack("<I", _masked(length)) + event + struct.pack("<I", _masked(event)))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _masked(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
