"""Texts whose letters are folded: lower case, no diacritics, blanks for signs, as datatrove compares documents."""

from __future__ import annotations

import ctypes
import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.data import letters

ROOM, GROWS = 16, 3  # bytes of a row of `forms`; times that a text may grow: a Hangul syllable becomes three letters
SELF = 0xFF  # length of what stays itself
_BLANKS = dict.fromkeys([*letters.SIGNS, *map(chr, range(128, 160))], " ")


def same(texts: Sequence[bytes]) -> list[bytes]:
    """Every text (UTF-8) folded, natively where that is possible. ASCII stays: words are compared in lower case."""
    library = native.library() if native.runs("ref") else None
    return plain(texts) if library is None else _native(library, texts)


def plain(texts: Sequence[bytes]) -> list[bytes]:
    """The same, character by character: the reference. About 10 MB/s."""
    return ["".join(map(form, text.decode("utf-8", "surrogateescape"))).encode("utf-8", "surrogateescape")
            for text in texts]  # fmt: skip


@functools.cache
def form(letter: str) -> str:
    """What becomes of one character."""
    if letter < "\x80" or "\ud800" <= letter < "\ue000" or ord(letter) >= letters.CHARACTERS:
        return letter
    found = (_BLANKS.get(each, each) for each in unicodedata.normalize("NFD", letter.lower()))
    return "".join(each for each in found if each < "\u0300" or unicodedata.category(each) != "Mn")


@functools.cache
def forms() -> npt.NDArray[np.uint8]:
    """(letters.CHARACTERS, ROOM): length of what a character becomes, SELF for itself, then its bytes. 0.2 s, once."""
    table = np.zeros((letters.CHARACTERS, ROOM), np.uint8)
    table[:, 0] = SELF
    for code in range(0x80, letters.CHARACTERS):
        if (new := form(chr(code))) != chr(code):
            raw = new.encode()
            table[code, : len(raw) + 1] = (len(raw), *raw)
    return table


def _native(library: ctypes.CDLL, texts: Sequence[bytes]) -> list[bytes]:
    data = b"".join(texts)
    if data.isascii():
        return list(texts)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    out, stops = np.empty(GROWS * len(data) + ROOM, np.uint8), np.zeros(len(texts), np.int64)
    status = library.danlu_fold(
        data, ctypes.c_void_p(ends.ctypes.data), ctypes.c_int64(len(texts)), ctypes.c_void_p(forms().ctypes.data),
        ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(stops.ctypes.data),
    )  # fmt: skip
    assert status == 0, "danlu_fold refused its sizes"
    edges = [0, *stops.tolist()]
    return [out[a:b].tobytes() for a, b in zip(edges, edges[1:], strict=False)]
