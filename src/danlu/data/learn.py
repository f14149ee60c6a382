"""The merges of a vocabulary, learned natively: those the tokenizers package learns, in a tenth of its time.

Words are counted as texts come, so a text is not kept. csrc/bpe/learn.cpp does both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.data import bytelevel

BATCH = 1 << 20  # characters counted at once
Cut = Callable[[str], list[str]]


def merges(texts: Iterable[str], vocab: int, byte_ids: Sequence[int], cut: Cut) -> npt.NDArray[np.int32]:
    """Left, right and joined token of each merge, best first, until there are `vocab` tokens: (merges, 3).

    byte_ids  the token of each byte; tokens below the least of them are special ones, and joined tokens follow
    cut       the words of a text with characters newer than this Python's Unicode
    Needs the native library. Raises MemoryError.
    """
    with _Counts() as counts:
        for batch in _batches(texts):
            unknown = counts.add([text.encode() for text in batch])
            words = chain.from_iterable(cut(text) for text, is_so in zip(batch, unknown, strict=True) if is_so)
            counts.add([word.encode() for word in words], are_words=True)
        return counts.learn(vocab, np.array(byte_ids, np.int32))


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


class _Counts:
    """Owns the counts of words."""

    def __init__(self) -> None:
        library = native.library()
        assert library is not None
        library.danlu_bpe_counts_new.restype = ctypes.c_void_p
        library.danlu_bpe_learn.restype = ctypes.c_int64
        self._library = library
        table = bytelevel.classes()
        self._handle = ctypes.c_void_p(
            library.danlu_bpe_counts_new(ctypes.c_void_p(table.ctypes.data), ctypes.c_int64(len(table)))
        )
        if not self._handle:
            raise MemoryError("no memory to count words")

    def __enter__(self) -> _Counts:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.danlu_bpe_counts_free(self._handle)

    def add(self, texts: Sequence[bytes], *, are_words: bool = False) -> list[bool]:
        """Count the words of texts; says of each whether it has an unknown character, and was not counted."""
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        unknown = np.zeros(len(texts), np.uint8)
        status = self._library.danlu_bpe_count(
            self._handle, b"".join(texts), ctypes.c_void_p(ends.ctypes.data), ctypes.c_int64(len(texts)),
            ctypes.c_int32(are_words), ctypes.c_void_p(unknown.ctypes.data),
        )  # fmt: skip
        if status == 2:
            raise MemoryError("no memory to count words")
        assert status == 0, "danlu_bpe_count refused its sizes"
        return [bool(each) for each in unknown]

    def learn(self, vocab: int, byte_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        room = max(vocab, 1)
        while True:
            found = np.empty((room, 3), np.int32)
            count = self._library.danlu_bpe_learn(
                self._handle, ctypes.c_void_p(byte_ids.ctypes.data), ctypes.c_int64(vocab),
                ctypes.c_void_p(found.ctypes.data), ctypes.c_int64(room),
            )  # fmt: skip
            if count == -1:
                raise MemoryError(f"no memory to learn {vocab} tokens")
            if count >= 0:
                return found[:count]
            room *= 2
