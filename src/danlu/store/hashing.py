"""The hash that orders a store: 64 bits of BLAKE2b, of one key or of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from danlu.store import clib

Hashes = npt.NDArray[np.uint64]


def hash_of(key: bytes) -> int:
    """64-bit hash of a key: BLAKE2b with an 8-byte digest, big-endian."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def hash_many(keys: Sequence[bytes]) -> Hashes:
    """The hash of every key. Cost: 11 M short keys/s in native code (Zen 3), 1 M/s without it."""
    library = clib.library()
    if library is None:
        return np.fromiter(map(hash_of, keys), np.uint64, len(keys))
    data, ends = b"".join(keys), np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
    found = np.empty(len(keys), np.uint64)
    library.danlu_store_hash(data, clib.at(ends), len(keys), clib.at(found))
    return found
