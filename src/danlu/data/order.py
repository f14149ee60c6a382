"""A shuffled order of any length that nobody stores: place -> number, computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROUNDS = 6


def permute(places: npt.NDArray[np.uint64], size: int, key: int) -> npt.NDArray[np.uint64]:
    """Numbers at the given places of a pseudo-random permutation of 0 .. size - 1; another key, another permutation.

    A Feistel network over the next power of four, applied again to whatever falls outside `size` (cycle walking; Black
    and Rogaway, "Ciphers with arbitrary finite domains", 2002). Cost: below four rounds of it on average.
    """
    half = max(1, -(-max(size - 1, 1).bit_length() // 2))
    keys = np.random.default_rng(key).integers(0, 1 << 64, ROUNDS, np.uint64)
    found = _feistel(places.astype(np.uint64), np.uint64(half), keys)
    while (outside := found >= size).any():
        found[outside] = _feistel(found[outside], np.uint64(half), keys)
    return found


def _feistel(x: npt.NDArray[np.uint64], half: np.uint64, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mask = np.uint64((1 << int(half)) - 1)
    left, right = x >> half, x & mask
    for key in keys:
        mixed = (right + key) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << half) | right
