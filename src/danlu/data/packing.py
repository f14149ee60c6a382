"""Which pieces of which documents share a training sequence: best-fit decreasing, so that few documents are cut.

Ding et al., "Fewer truncations improve language modeling" (ICML 2024, arXiv:2404.10830): a document that fits a
sequence is never cut; a longer one is, at every full sequence. Equal sizes are placed together, which gives just what
placing them one by one would, in time that grows with the number of sizes and no Python work for each piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequence r holds the pieces edges[r] .. edges[r + 1]: `sizes` tokens of the stream from `starts` on."""

    starts: Whole
    sizes: Whole
    edges: Whole

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self.edges) - 1


def pack(ends: Whole, seq: int) -> Packed:
    """Place every token of a stream in exactly one sequence of at most `seq` tokens.

    ends  where each document ends in the stream, rising; the first begins at 0
    A piece that goes on with a document cut before stands first in its sequence where it can. Deterministic.
    Cost: sorting the pieces twice (`danlu bench data` prints how many a second); 60 bytes of memory for each.
    """
    starts, sizes, whole = _pieces(ends, seq)
    rows, count = _placed(sizes, seq)
    order = np.lexsort((starts, whole, rows))
    edges = np.searchsorted(rows[order], np.arange(count + 1))
    return Packed(starts[order], sizes[order], edges)


def _pieces(ends: Whole, seq: int) -> tuple[Whole, Whole, npt.NDArray[np.bool_]]:
    """Where each piece starts, its tokens, and whether it begins a document."""
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    counts = -(-(ends - begins) // seq)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # number within its document
    starts = np.repeat(begins, counts) + inside * seq
    return starts, np.minimum(np.repeat(ends, counts) - starts, seq), inside == 0


def _placed(sizes: Whole, seq: int) -> tuple[Whole, int]:
    """The sequence of each piece, and how many sequences there are."""
    order = np.argsort(-sizes, kind="stable")
    found, first = np.unique(-sizes[order], return_index=True)
    free: list[list[Whole]] = [[] for _ in range(seq + 1)]  # sequences by the room left in them
    some = bytearray(seq + 1)  # where `free` has any
    rows, count = np.empty(len(sizes), np.int64), 0
    for size, group in zip((-found).tolist(), np.split(order, first[1:]), strict=True):
        left: Whole = group
        while len(left):
            room = some.find(1, size)
            if room >= 0:
                each = room // size
                bins = free[room].pop()
                some[room] = bool(free[room])
            else:
                room, each = seq, seq // size
                bins = np.arange(count, count - (-len(left) // each))
                count += len(bins)
            taken = min(len(left), len(bins) * each)
            used, full = -(-taken // each), taken // each
            rows[left[:taken]] = np.repeat(bins[:used], each)[:taken]
            left = left[taken:]
            for rest, those in ((room - each * size, bins[:full]), (room - taken % each * size, bins[full:used]),
                                (room, bins[used:])):  # fmt: skip
                if len(those) and rest:
                    free[rest].append(those)
                    some[rest] = 1
    return rows, count
