"""Where the buckets of a pack begin: rising numbers in about two bits each beside the bits of their mean distance.

Method: Elias-Fano (P. Elias, "Efficient Storage and Retrieval by Content and Address of Static Files", JACM 21, 1974;
the select marks after S. Vigna, "Quasi-Succinct Indices", WSDM 2013). The layout is `pack` in docs/formats.md, the
native reader csrc/store/offsets.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
EVERY = 64  # offsets between two marks


@dataclass(frozen=True, slots=True)
class Offsets:
    """`count` rising offsets, of which the first is `base`.

    high   bits: for offset i of distance x from the base a one at (x >> shift) + i
    low    bits: the last `shift` ones of each x, one after the other
    marks  where the ones of offsets 0, EVERY, 2 EVERY, ... are in `high`
    """

    count: int
    base: int
    shift: int
    high: Words
    low: Words
    marks: npt.NDArray[np.uint32]

    @property
    def nbytes(self) -> int:
        """Of all three, as they are in memory and in a file."""
        return self.high.nbytes + self.low.nbytes + self.marks.nbytes

    def tobytes(self) -> bytes:
        """As a file has them."""
        return self.high.tobytes() + self.low.tobytes() + self.marks.tobytes()

    def between(self, first: int, last: int) -> Places:
        """Offsets number first .. last, last included."""
        begin, mark = int(self.marks[first // EVERY]), last // EVERY + 1
        end = int(self.marks[mark]) if mark < len(self.marks) else 64 * len(self.high)
        ones = np.flatnonzero(_bits(self.high, begin, end))[first % EVERY : last + 1 - first // EVERY * EVERY] + begin
        low = _bits(self.low, first * self.shift, (last + 1) * self.shift)
        low = low.reshape(last + 1 - first, self.shift)
        weights = np.int64(1) << np.arange(self.shift, dtype=np.int64)
        return (ones - np.arange(first, last + 1) << self.shift) + low @ weights + self.base

    def whole(self) -> bool:
        """Whether there are as many ones as offsets, and the marks are at theirs: a search then ends inside."""
        ones = np.flatnonzero(_bits(self.high, 0, 64 * len(self.high)))
        return len(ones) == self.count and bool(np.array_equal(ones[::EVERY], self.marks))


def offsets_of(numbers: Places) -> Offsets:
    """Rising numbers, one at least, in this form."""
    base, count = int(numbers[0]), len(numbers)
    distances = (numbers - base).astype(np.int64)
    shift, high_words, low_words = _sizes(count, int(distances[-1]))
    ones = (distances >> shift) + np.arange(count)
    high = np.zeros(64 * high_words, np.uint8)
    high[ones] = 1
    low = np.zeros(64 * low_words, np.uint8)
    low[: count * shift] = (distances[:, None] >> np.arange(shift) & 1).reshape(-1)
    return Offsets(count, base, shift, _words(high), _words(low), ones[::EVERY].astype("<u4"))


def from_bytes(data: bytes, count: int, base: int, last: int) -> Offsets | None:
    """Of a file; None where these bytes are no `count` offsets from base to last."""
    shift, high, low = _sizes(count, last - base)
    if len(data) != 8 * (high + low) + 4 * -(-count // EVERY):
        return None
    words, marks = np.frombuffer(data, "<u8", high + low), np.frombuffer(data, "<u4", offset=8 * (high + low))
    found = Offsets(count, base, shift, words[:high], words[high:], marks)
    return found if found.whole() else None


def _sizes(count: int, most: int) -> tuple[int, int, int]:
    """Shift, and words of `high` and `low`, for `count` offsets up to base + most; `low` may be read a word further."""
    shift = max(0, (most // count).bit_length() - 1)
    return shift, -(-((most >> shift) + count) // 64), count * shift // 64 + 2


def _bits(words: Words, begin: int, end: int) -> npt.NDArray[np.uint8]:
    part = words.view(np.uint8)[begin // 8 : -(-end // 8)]
    return np.unpackbits(part, bitorder="little")[begin % 8 : begin % 8 + end - begin]


def _words(bits: npt.NDArray[np.uint8]) -> Words:
    return np.packbits(bits, bitorder="little").view("<u8")
