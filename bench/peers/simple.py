"""datatrove's normal form of a text beyond what the native pass does, one look into a table for each character."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

SIGNS = dict.fromkeys([*"«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～", *map(chr, range(128, 160))], " ")
TABLE, MOST = 0x20000, 3  # characters, marks are among them and those above are what they are; what one becomes at most
SAME, OTHER, NONE, SEVERAL = range(4)
GONE = 0xFFFFFFFF  # for what a character does not become


def simple(raw: bytes) -> bytes:
    """Lower case; signs become blanks; marks go, those of letters that are written as one character too."""
    if raw.isascii():
        return raw
    codes = np.frombuffer(raw.decode().encode("utf-32-le"), np.uint32)
    if codes.max() >= TABLE:
        return "".join(map(form, raw.decode())).encode()
    table, kinds = _forms()
    kind = kinds[codes]
    most = kind.max()
    if most == SAME:
        return raw
    if most == SEVERAL:
        found = table[codes].reshape(-1)
        found = found[found != GONE]
    else:
        places = np.flatnonzero(kind)  # few characters change: the others need no look into the large table
        found = codes.copy()
        found[places] = table[codes[places], 0]
        found = found if most == OTHER else found[kind != NONE]
    return found.tobytes().decode("utf-32-le").encode()


@functools.cache
def form(letter: str) -> str:
    """What becomes of one character."""
    found = (SIGNS.get(each, each) for each in unicodedata.normalize("NFD", letter.lower()))
    return "".join(each for each in found if not _is_mark(each))


def _is_mark(letter: str) -> bool:
    return "\u0300" <= letter < chr(TABLE) and unicodedata.category(letter) == "Mn"


@functools.cache
def _forms() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """What each character becomes, and whether that is itself, another one, none or several."""
    table = np.full((TABLE, MOST), GONE, np.uint32)
    table[:, 0] = np.arange(TABLE)
    for code in range(128, TABLE):
        if not 0xD800 <= code < 0xE000 and (new := form(chr(code))) != chr(code):
            table[code] = [*map(ord, new), *[GONE] * (MOST - len(new))]
    kinds = np.where(table[:, 0] == np.arange(TABLE), SAME, OTHER)
    kinds[table[:, 0] == GONE] = NONE
    kinds[table[:, 1] != GONE] = SEVERAL
    return table, kinds.astype(np.uint8)
