"""The tokens of one file, read by offset and not by mapping: a file cut while it is mapped kills its readers."""

from __future__ import annotations

import os
import weakref
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu.errors import DamagedTokens

FIX = "prepare them again: danlu prep run.yaml"
BLOCK = 64 << 10  # bytes that have a checksum of their own: 0.05 ms of checking, once, for the first read in them


def damaged(path: Path, what: str, why: str) -> DamagedTokens:
    """The error for a file of a token folder that is there and not as it was written."""
    return DamagedTokens(
        what, where=str(path), why=why, fix=f"put it back, or rm -r {path.parent} and danlu prep run.yaml"
    )


class Stream:
    """Owns an open file of little-endian token ids; closed when nobody holds it. May be read by several threads."""

    def __init__(self, path: Path, dtype: str, tokens: int, sums: npt.NDArray[np.uint32] | None = None) -> None:
        """dtype  numpy's name of an id; tokens  how many the file must hold. Raises DamagedTokens.

        sums  CRC-32 of each BLOCK bytes; a block is held against its own when something of it is first read
        """
        self._path, self._dtype, self._sums = path, np.dtype(dtype).newbyteorder("<"), sums
        self._bytes = tokens * self._dtype.itemsize
        self._checked = bytearray(0 if sums is None else len(sums))
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._damaged("cannot be opened", error.strerror or str(error)) from error
        weakref.finalize(self, os.close, self._fd)

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Ids of `count` tokens from the `start`-th on. Raises DamagedTokens."""
        at, size = start * self._dtype.itemsize, count * self._dtype.itemsize
        first, last = at // BLOCK, -(-(at + size) // BLOCK)
        if self._sums is None or self._checked.find(0, first, last) < 0:
            return self._ids(self._bytes_at(at, size))
        low = first * BLOCK
        data = self._bytes_at(low, min(last * BLOCK, self._bytes) - low)
        for number in range(first, last):
            begin = number * BLOCK - low
            if zlib.crc32(data[begin : begin + BLOCK]) != self._sums[number]:
                part = f"bytes {number * BLOCK} to {min((number + 1) * BLOCK, self._bytes)}"
                raise self._damaged("is damaged", f"{part} have another checksum than when they were written")
            self._checked[number] = 1
        return self._ids(data[at - low : at - low + size])

    def check(self) -> None:
        """Raises DamagedTokens when the file was removed, replaced or cut: what follows would be another run."""
        state = os.fstat(self._fd)
        if state.st_nlink == 0:
            raise self._damaged("was removed or replaced", "its name is gone while it is in use")
        if state.st_size != self._bytes:
            why = f"it has {state.st_size} bytes, it had {self._bytes} when it was opened"
            raise self._damaged("has changed its size", why)

    def _ids(self, data: bytes) -> npt.NDArray[np.int64]:
        return np.frombuffer(data, self._dtype).astype(np.int64)

    def _bytes_at(self, at: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, at)
        except OSError as error:
            raise self._damaged("cannot be read", error.strerror or str(error)) from error
        if len(data) != size:
            self.check()
            raise self._damaged("ends early", f"{len(data)} of {size} bytes came from byte {at} on")
        return data

    def _damaged(self, what: str, why: str) -> DamagedTokens:
        return damaged(self._path, f"{self._path.name} {what}", why)
