"""What byte-level BPE sees in a text: the letter it writes for every byte, and the class of every character."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

# The bytes that cannot be seen are written as the letters from U+0100 on, in their order.
_HIDDEN = [byte for byte in range(256) if not (0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE)]
WRITTEN = {byte: chr(256 + _HIDDEN.index(byte)) if byte in _HIDDEN else chr(byte) for byte in range(256)}
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_LETTER, _NUMBER, _SPACE, _UNKNOWN = 1, 2, 4, 8  # danlu_letter of csrc/bpe/bpe.h
_LAST = 0x33480  # no letter or number lies beyond; private and special characters do


@functools.cache
def classes() -> npt.NDArray[np.uint8]:
    """What GPT-2's expression sees in each character: letter, number, blank, or none of them. Cost: 30 ms, once."""
    categories = list(map(unicodedata.category, map(chr, range(_LAST))))
    kinds = {each: {"L": _LETTER, "N": _NUMBER}.get(each[0], 0) for each in set(categories)}
    table = np.array(list(map({**kinds, "Cn": _UNKNOWN, "Cs": _UNKNOWN}.__getitem__, categories)), np.uint8)
    table[[ord(each) for each in _BLANKS]] = _SPACE
    return table
