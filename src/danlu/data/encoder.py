"""Text to token ids, equal to the tokenizer's own but many times as fast: words repeat, so each is looked up, not made.

The byte-level pre-tokenizer cuts a text into words by one regular expression; what a word becomes does not depend on
its neighbours. csrc/bpe/ does so for any text. Without a compiler, and for characters newer than this Python's Unicode,
Python does: for ASCII the same cut can be made by `re`, and a dictionary remembers the ids of every word met; any other
line goes through the tokenizer. No word reaches from a line's last letter into its line end, so a text may be cut
there.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.data import bytelevel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REMEMBERED = 1_000_000  # words; then the memory starts anew
# The expression of the byte-level pre-tokenizer (GPT-2), with its classes of Unicode letters and digits cut to ASCII.
_WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
_VISIBLE = {byte: written for byte, written in bytelevel.WRITTEN.items() if byte < 0x80 and written != chr(byte)}
_LINE_END = re.compile(r"(?<=\S)(?=\n)")
Ids = npt.NDArray[np.int32]


class _Native:
    """Owns the native encoder of one vocabulary."""

    def __init__(self, library: ctypes.CDLL, model: dict[str, Any]) -> None:
        vocab = model["vocab"]
        pairs = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
        merges = np.array([(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs], np.int32).reshape(-1, 3)
        bytes_ids = np.array([vocab[bytelevel.WRITTEN[byte]] for byte in range(256)], np.int32)
        classes = bytelevel.classes()
        library.danlu_bpe_new.restype = ctypes.c_void_p
        self._library = library
        self._handle = library.danlu_bpe_new(
            ctypes.c_void_p(classes.ctypes.data), ctypes.c_int64(len(classes)), ctypes.c_void_p(bytes_ids.ctypes.data),
            ctypes.c_void_p(merges.ctypes.data), ctypes.c_int64(len(merges)),
        )  # fmt: skip
        if not self._handle:
            raise MemoryError("no memory for an encoder")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.danlu_bpe_free(ctypes.c_void_p(self._handle))

    def encode(self, texts: Sequence[bytes]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Ids of all texts in a row, and how many each has: -1 where a character is unknown here, and no ids."""
        data = b"".join(texts)
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        ids, counts = np.empty(len(data) + 1, np.int32), np.empty(len(texts), np.int64)
        status = self._library.danlu_bpe_encode(
            ctypes.c_void_p(self._handle), data, ctypes.c_void_p(ends.ctypes.data), ctypes.c_int64(len(texts)),
            ctypes.c_void_p(ids.ctypes.data), ctypes.c_void_p(counts.ctypes.data),
        )  # fmt: skip
        if status == 2:
            raise MemoryError(f"no memory to encode a text of {max(map(len, texts))} bytes")
        assert status == 0, "danlu_bpe_encode refused its sizes"
        return ids[: int(np.maximum(counts, 0).sum())], counts


class Encoder:
    """Owns the memory of words met so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """tokenizer  byte-level BPE of `danlu.data.bpe`; from now on it takes special tokens in a text as text."""
        tokenizer.encode_special_tokens = True  # a document that spells the end token must not end itself
        self.tokenizer, self._merges = tokenizer, tokenizer.model
        self._ids: dict[str, list[int]] = {}
        library = native.library() if native.runs("ref") else None
        self._native = _Native(library, json.loads(tokenizer.to_str())["model"]) if library else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without any special token."""
        return [ids.tolist() for ids in self.arrays(texts)]

    def arrays(self, texts: Sequence[str]) -> list[Ids]:
        """The same as arrays. Raises MemoryError."""
        if self._native is None:
            return [np.array(ids, np.int32) for ids in self.in_python(texts)]
        flat, counts = self._native.encode([text.encode() for text in texts])
        left = iter(self.in_python([text for text, count in zip(texts, counts.tolist(), strict=True) if count < 0]))
        stops = np.cumsum(np.maximum(counts, 0)).tolist()
        return [flat[stop - count : stop] if count >= 0 else np.array(next(left), np.int32)
                for stop, count in zip(stops, counts.tolist(), strict=True)]  # fmt: skip

    def ended(self, texts: Sequence[str], end: int) -> tuple[Ids, npt.NDArray[np.int64]]:
        """All of them in a row, `end` behind each, and where each ends behind that. Raises MemoryError."""
        if self._native is not None:
            flat, counts = self._native.encode([text.encode() for text in texts])
        if self._native is None or (counts < 0).any():
            arrays = self.arrays(texts)
            flat, counts = np.concatenate(arrays), np.array([len(each) for each in arrays], np.int64)
        stops = np.cumsum(counts)
        return np.insert(flat, stops, end), stops + np.arange(1, len(stops) + 1)

    def in_python(self, texts: Sequence[str]) -> list[list[int]]:
        """The same without native code. One call of the tokenizer for all that is new in them."""
        cut = [self._words(text) for text in texts]
        new = list(set(chain.from_iterable(cut)).difference(self._ids))
        if len(self._ids) + len(new) > REMEMBERED:
            self._ids, new = {}, list(set(chain.from_iterable(cut)))
        self._ids.update(self._learned(new))
        return [list(chain.from_iterable(map(self._ids.__getitem__, words))) for words in cut]

    def _learned(self, words: list[str]) -> Iterator[tuple[str, list[int]]]:
        for word in filter(str.isascii, words):  # straight to the merges, four times as fast
            yield word, [token.id for token in self._merges.tokenize(word.translate(_VISIBLE))]
        others = [word for word in words if not word.isascii()]
        found = self.tokenizer.encode_batch_fast(others, add_special_tokens=False)
        yield from zip(others, (each.ids for each in found), strict=True)

    def _words(self, text: str) -> list[str]:
        if text.isascii():
            return _WORDS.findall(text)
        words: list[str] = []
        for ascii_only, lines in groupby(_LINE_END.split(text), str.isascii):
            part = "".join(lines)
            words += _WORDS.findall(part) if ascii_only else [part]
        return words
