"""The tokens of one file, read by offset and not by mapping: a file cut while it is mapped kills its readers."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu.errors import DamagedTokens

FIX = "prepare them again: danlu prep run.yaml"


class Stream:
    """Owns an open file of little-endian token ids; closed when nobody holds it. May be read by several threads."""

    def __init__(self, path: Path, dtype: str, tokens: int) -> None:
        """dtype  numpy's name of an id; tokens  how many the file must hold. Raises DamagedTokens."""
        self._path, self._dtype = path, np.dtype(dtype).newbyteorder("<")
        self._bytes = tokens * self._dtype.itemsize
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._damaged(f"{path.name} cannot be opened", error.strerror or str(error)) from error
        weakref.finalize(self, os.close, self._fd)

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Ids of `count` tokens from the `start`-th on. Raises DamagedTokens."""
        at, left = start * self._dtype.itemsize, count * self._dtype.itemsize
        try:
            data = os.pread(self._fd, left, at)
        except OSError as error:
            raise self._damaged(f"{self._path.name} cannot be read", error.strerror or str(error)) from error
        if len(data) != left:
            self.check()
            raise self._damaged(f"{self._path.name} ends early", f"{len(data)} of {left} bytes came from byte {at} on")
        return np.frombuffer(data, self._dtype).astype(np.int64)

    def check(self) -> None:
        """Raises DamagedTokens when the file was removed, replaced or cut: what follows would be another run."""
        state = os.fstat(self._fd)
        if state.st_nlink == 0:
            raise self._damaged(f"{self._path.name} was removed or replaced", "its name is gone while it is in use")
        if state.st_size != self._bytes:
            why = f"it has {state.st_size} bytes, it had {self._bytes} when it was opened"
            raise self._damaged(f"{self._path.name} has changed its size", why)

    def _damaged(self, what: str, why: str) -> DamagedTokens:
        return DamagedTokens(what, where=str(self._path), why=why, fix=f"put it back, or {FIX}")
