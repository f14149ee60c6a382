"""MinHash signatures of many texts at once, in numpy: no loop over words, none over documents.

`sign.py` runs the same in native code where it can; this is what that must equal, and what runs without a compiler.

A word is a run of letters and digits (ASCII in lower case, any other script as it is), or one CJK character, since
Chinese and Japanese write no blanks. A shingle is SHINGLE words in a row.
Broder (1997), "On the resemblance and containment of documents"; bands as in Leskovec et al., "Mining of Massive
Datasets", ch. 3: a pair with Jaccard similarity s shares a band with probability 1 - (1 - s^rows)^bands:
at 0.8 0.924 with datatrove's 14 bands of 8, 0.996 with COMPARED.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHINGLE = 5
BANDS, ROWS = 14, 8
COMPARED = 18, 6  # bands and rows where candidates are compared: there may be more of them, so few pairs are missed
Hashes = npt.NDArray[np.uint64]
WORD = re.compile("[\u3040-\u9fff]|[0-9A-Za-z\u0080-\u1fff\u2040-\u2fff\ua000-\ufeff\uff21-\U0010ffff]+")  # one word

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_RNG = np.random.default_rng(5)
PLACES = _RNG.integers(0, 1 << 64, SHINGLE, np.uint64) | np.uint64(1)
FACTORS = _RNG.integers(0, 1 << 32, BANDS * ROWS, np.uint32) | np.uint32(1)
ADDENDS = _RNG.integers(0, 1 << 32, BANDS * ROWS, np.uint32)
_MIX = _RNG.integers(0, 1 << 64, ROWS, np.uint64) | np.uint64(1)
ORDER = np.stack([_RNG.permutation(BANDS * ROWS).astype(np.uint8) for _ in range(BANDS * ROWS)])
_NONE = 0xFFFFFFFF  # the value of a bin without one

_FOLD = np.zeros(256, np.uint8)  # 0 separates words
_FOLD[list(range(ord("0"), ord("9") + 1))] = range(ord("0"), ord("9") + 1)
_FOLD[list(range(ord("a"), ord("z") + 1))] = range(ord("a"), ord("z") + 1)
_FOLD[list(range(ord("A"), ord("Z") + 1))] = range(ord("a"), ord("z") + 1)
_FOLD[0x80:] = range(0x80, 0x100)


def shingles(texts: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of every shingle of every text, one after the other, and where each text's begin.

    texts  UTF-8; a text of fewer than SHINGLE words has one shingle of them all
    Cost: about 20 passes of numpy over the bytes; 40 bytes of memory for each byte of text.
    """
    data = np.frombuffer(b"\n".join(texts) + b"\n", np.uint8)
    word_starts, words = _words(data)
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts)])
    edges = np.searchsorted(word_starts, offsets)
    counts = np.diff(edges)
    if 0 in counts:
        return shingles([text if count else b"0" for text, count in zip(texts, counts, strict=True)])
    joined = words * PLACES[0]
    for j in range(1, SHINGLE):
        joined[:-j] += words[j:] * PLACES[j]
    keep = np.ones(len(words), bool)
    tails = edges[1:, None] - np.arange(1, SHINGLE)
    keep[tails[tails > edges[:-1, None]]] = False  # a text's first word always begins a shingle
    keep[tails[(tails == edges[:-1, None]) & (counts < SHINGLE)[:, None]]] = True
    for short in np.flatnonzero(counts < SHINGLE):
        first, last = edges[short], edges[short + 1]
        joined[first] = (words[first:last] * PLACES[: last - first]).sum(dtype=np.uint64)
    kept = np.cumsum(keep)
    return _mixed(joined[keep]), np.concatenate([[0], kept[edges[1:-1] - 1]])


def signatures(flat: Hashes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The least value of each of BANDS * ROWS permutations over each text's shingles: (texts, BANDS * ROWS)."""
    high = (flat >> np.uint64(32)).astype(np.uint32)
    moved = np.empty_like(high)
    least = np.empty((len(FACTORS), len(starts)), np.uint32)
    for row, (factor, addend) in enumerate(zip(FACTORS, ADDENDS, strict=True)):
        np.multiply(high, factor, out=moved)
        np.add(moved, addend, out=moved)
        np.minimum.reduceat(moved, starts, out=least[row])
    return least.T


def once(flat: Hashes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The same from one permutation: BANDS * ROWS bins of its values, the least of each. Cost: one pass.

    Li, Owen and Zhang (2012, arXiv:1208.1259). A bin without a value takes that of the first bin with one in its row of
    ORDER, which is the same for all texts: Shrivastava's densification (2017, arXiv:1703.04664, algorithm 1).
    """
    count = BANDS * ROWS
    bins = ((flat & np.uint64(_NONE)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)
    owner = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(flat)))
    least = np.full(len(starts) * count, _NONE, np.uint32)
    np.minimum.at(least, owner * count + bins, (flat >> np.uint64(32)).astype(np.uint32))
    table = least.reshape(-1, count)
    full = table.copy()
    for number, row in enumerate(ORDER):
        empty = np.flatnonzero(table[:, number] == _NONE)
        first = row[np.argmax(table[empty][:, row] != _NONE, axis=1)]
        full[empty, number] = table[empty, first]
    return full


def bands(signature: npt.NDArray[np.uint32], shape: tuple[int, int] = COMPARED) -> Hashes:
    """One hash per band of a signature: (texts, bands). Two texts with an equal one are candidates.

    shape  bands, and values of each: as many of the signature's as they need
    """
    count, rows = shape
    values = signature[:, : count * rows].reshape(-1, count, rows).astype(np.uint64) * _MIX[:rows]
    return _mixed(values.sum(axis=2, dtype=np.uint64) + np.arange(count, dtype=np.uint64))


def _words(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], Hashes]:
    """Where each word begins, and its hash: a polynomial in its bytes, taken from one running sum over all of them."""
    folded = _FOLD[data]
    begins = folded != 0
    if data.max() >= 0xE2:
        lead = _split_cjk(data, folded)
        begins = folded != 0
        begins[1:] &= folded[:-1] == 0
        begins |= lead
        begins[3:] |= lead[:-3] & (folded[3:] != 0) & (folded[1:-2] != 0)  # broken UTF-8 ends with its own text
    else:
        begins[1:] &= folded[:-1] == 0
    starts = np.flatnonzero(begins)
    powers = np.full(len(data), _BASE, np.uint64)
    running = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(folded * np.cumprod(powers, out=powers), out=running[1:])
    inverses = np.full(len(data), _INVERSE, np.uint64)
    np.cumprod(inverses, out=inverses)
    return starts, _mixed(np.diff(running[starts], append=running[-1:]) * inverses[starts])


def _split_cjk(data: npt.NDArray[np.uint8], folded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """First bytes of CJK characters; Unicode punctuation becomes a separator in `folded`."""
    first, second, third = data[:-2], data[1:-1], data[2:]
    signs = ((first == 0xE2) | (first == 0xE3)) & (second == 0x80)  # U+2000-203F, U+3000-303F
    signs |= (first == 0xEF) & (second == 0xBC) & (third < 0xA1)  # full-width punctuation and digits' signs
    for shift in range(3):
        folded[np.flatnonzero(signs) + shift] = 0
    lead: npt.NDArray[np.bool_] = (data >= 0xE3) & (data <= 0xE9) & (folded != 0)  # U+3000-9FFF
    return lead


def _mixed(x: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of x (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
