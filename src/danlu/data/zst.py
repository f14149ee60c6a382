"""Where a zstandard file ends: its frames name the sizes of their blocks, so a file cut anywhere shows it.

RFC 8878, section 3.1. The package zstandard reads a cut file to its last whole block and takes that for the end.
"""

from __future__ import annotations

from typing import BinaryIO

FRAME, SKIPPED = 0xFD2FB528, 0x184D2A50  # magic numbers; of the second the last four bits are free
RAW, RLE = 0, 1  # kinds of a block; one byte stands for all of RLE's


def ends_early(file: BinaryIO, size: int) -> bool:
    """Whether the last frame of a file of `size` bytes is not whole; reads a few bytes for each block."""
    at = 0
    while at < size:
        magic = _number(file, at, 4)
        if magic & ~0xF == SKIPPED:
            at += 8 + _number(file, at + 4, 4)
        elif magic == FRAME:
            at = _frame(file, at + 4, size)
        else:
            return size - at < 4  # other bytes than frames; their reader says so
    return at > size


def _frame(file: BinaryIO, at: int, size: int) -> int:
    """Where a frame ends whose header begins at `at`."""
    how = _number(file, at, 1)
    single, checksum = how >> 5 & 1, how >> 2 & 1
    at += 1 + (not single) + (0, 1, 2, 4)[how & 3] + (single, 2, 4, 8)[how >> 6]
    last = False
    while not last and at < size:
        block = _number(file, at, 3)
        last, kind = bool(block & 1), block >> 1 & 3
        at += 3 + (1 if kind == RLE else block >> 3)
    return at + 4 * checksum if last else size + 1


def _number(file: BinaryIO, at: int, count: int) -> int:
    file.seek(at)
    return int.from_bytes(file.read(count), "little")
