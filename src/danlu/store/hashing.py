"""The hash that orders a store: 64 bits of BLAKE2b, of one key or of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from danlu.store import clib

GROUP = 1 << 14  # keys looked at together: measuring and joining touches each, the second time in the cache
Hashes = npt.NDArray[np.uint64]


def hash_of(key: bytes) -> int:
    """64-bit hash of a key: BLAKE2b with an 8-byte digest, big-endian."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def hash_many(keys: Sequence[bytes]) -> Hashes:
    """The hash of every key. Cost: about 5 M short keys/s in native code (Zen 3), 1 M/s without it."""
    if clib.library() is None:
        return np.fromiter(map(hash_of, keys), np.uint64, len(keys))
    found = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), GROUP):
        part = keys[start : start + GROUP]
        ends = np.cumsum(np.fromiter(map(len, part), np.int64, len(part)))
        found[start : start + GROUP] = hash_spans(b"".join(part), ends)
    return found


def hash_spans(data: bytes, ends: npt.NDArray[np.int64]) -> Hashes:
    """The hash of keys that stand one after the other, as in a column of Arrow: key i ends at ends[i].

    Cost: about 10 M short keys/s in native code (Zen 3): no object is touched.
    """
    library = clib.library()
    if library is None:
        starts = [0, *ends.tolist()]
        return hash_many([data[i:j] for i, j in zip(starts[:-1], starts[1:], strict=True)])
    assert not len(ends) or ends[-1] <= len(data), "keys end outside their bytes"
    found = np.empty(len(ends), np.uint64)
    library.danlu_store_hash(data, clib.at(ends), len(ends), clib.at(found))
    return found
