"""A pack of a store that cannot be opened, so that the rest of the store can be read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from danlu.errors import DamagedPack
from danlu.store.batch import Batch
from danlu.store.offsets import offsets_of


class Unread:
    """Stands where the pack stood: whatever would have to ask it raises what is wrong with it, all else goes on.

    bits, prefix  what its hashes are known to begin with: the name of a merged pack says so, beside another one
    """

    records = removed = index_bytes = data_bytes = size = 0
    buckets = 1
    fd = direct = -1

    def __init__(self, where: str, why: DamagedPack, bits: int = 0, prefix: int = 0, *, merged: bool = False) -> None:
        self.where, self.why, self.bits, self.prefix, self.merged = where, why, bits, prefix, merged
        self.low, self.high, self.reader = prefix << 64 - bits, prefix + 1 << 64 - bits, self
        self.offsets = offsets_of(np.zeros(2, np.int64))

    def covers(self, key_hash: int) -> bool:
        """True when a key of this hash would be here."""
        return self.low <= key_hash < self.high

    def covers_any(self, low: int, high: int) -> bool:
        """True when keys with low <= hash < high would be here."""
        return self.low < high and low < self.high

    def look(self, key: bytes, key_hash: int) -> Batch | None:
        """Raises DamagedPack."""
        raise self.why

    def batch(self, low: int, high: int) -> Batch:
        """Raises DamagedPack."""
        raise self.why

    def weight(self, low: int, high: int) -> float:
        """Nobody knows."""
        return 0.0

    def want(self, low: int, high: int) -> None:
        """Nothing: it is not read."""

    def verify(self) -> Iterator[str]:
        """What is wrong."""
        yield self.why.why

    def close(self) -> None:
        """Nothing is open."""


def number_of(name: str) -> int | None:
    """The range of hashes that a merged pack is of, by its name; None of a writer's pack."""
    number = name.rpartition(".m")[2].partition(".")[0] if ".m" in name else ""
    return int(number, 16) if number else None
