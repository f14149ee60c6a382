"""Runs of words that stood there before, found without keeping every one of them.

A run of n equal words is a run of n - SHINGLE + 1 equal shingles. In every stretch of so many shingles the least hash
is a seed (winnowing: Schleimer, Wilkerson and Aiken 2003): equal stretches have it at the same place. So only seeds are
looked up, one in some twenty words; from there the shingles of both places are compared, on and back.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from danlu.data.minhash import SHINGLE, Hashes

Places = npt.NDArray[np.int64]


def seeds(shingles: Hashes, stretch: int) -> Places:
    """Where some `stretch` shingles in a row have their least hash; none where there are fewer. Cost: linear."""
    if len(shingles) < stretch:
        return np.empty(0, np.int64)
    least = _sliding(np.minimum, shingles, stretch, np.uint64(0xFFFFFFFFFFFFFFFF))
    edge = np.zeros(stretch - 1, np.uint64)
    # A place is a seed when the greatest of the minima of all stretches over it is its own hash.
    return np.flatnonzero(_sliding(np.maximum, np.concatenate([edge, least, edge]), stretch, np.uint64(0)) == shingles)


def _sliding(what: np.ufunc, x: Hashes, width: int, nothing: np.uint64) -> Hashes:
    """The least or greatest of every `width` values in a row: of blocks from both ends (van Herk 1992)."""
    padded = np.full(-(-len(x) // width) * width, nothing)
    padded[: len(x)] = x
    blocks = padded.reshape(-1, width)
    on = what.accumulate(blocks, axis=1).ravel()
    back = what.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    found: Hashes = what(back[: len(x) - width + 1], on[width - 1 : len(x)])
    return found


class Seen:
    """Owns the shingles of the documents so far, and where their seeds stand. Memory: about 13 bytes for each word."""

    def __init__(self, words: int) -> None:
        """words  length of the shortest run that is found, above SHINGLE"""
        self._stretch = words - SHINGLE + 1
        self._documents: list[Hashes] = []
        self._places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def repeated(self, shingles: Hashes) -> npt.NDArray[np.bool_]:
        """Which words of the next document lie in a run that stood before: in an earlier document, or earlier in it.

        shingles  of the whole document, in their order
        """
        own, size = len(self._documents), len(shingles)
        self._documents.append(shingles)
        gone, last = np.zeros(size + SHINGLE - 1, bool), (0, 0)
        found = seeds(shingles, self._stretch)
        for seed, name in zip(found.tolist(), shingles[found].tolist(), strict=True):
            # All stretches over this seed; where one run has them all, whoever repeats them finds that run's origin.
            low, high = max(0, seed - self._stretch + 1), min(size, seed + self._stretch)
            if last[0] <= low and high <= last[1]:
                continue
            covered = False
            for number, place in self._places[name]:
                run = _run(self._documents[number], place, shingles, seed)
                if run[1] - run[0] >= self._stretch:
                    gone[run[0] : run[1] + SHINGLE - 1] = True
                    covered |= run[0] <= low and high <= run[1]
                    last = max(last, run, key=lambda each: each[1])
            if not covered:
                self._places[name].append((own, seed))
        return gone


def _run(before: Hashes, place: int, here: Hashes, seed: int) -> tuple[int, int]:
    """Begin and end, in `here`, of the equal shingles around the seed; the seed's own hash is equal."""
    back, on = min(place, seed), min(len(before) - place, len(here) - seed)
    unlike = np.flatnonzero(before[place - back : place] != here[seed - back : seed])
    first = seed - back + (int(unlike[-1]) + 1 if len(unlike) else 0)
    unlike = np.flatnonzero(before[place : place + on] != here[seed : seed + on])
    return first, seed + (int(unlike[0]) if len(unlike) else on)
