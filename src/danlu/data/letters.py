"""The class of every character, as the quality rules see it: letter, digit, blank, sign, end of a sentence, ...

The native pass (csrc/rules/) is given this table, so both know the same Unicode: that of this Python.
"""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

ALPHA, LOWER, UPPER, DIGIT, BLANK, SYMBOL, MARK, PEEL, QUOTE, CJK, STOP, ICON, MONEY, LINE_END, FRONT, LETTER = (
    1 << bit for bit in range(16)
)
CHARACTERS = 0x20000  # those with a class of their own
BEYOND = 0x40000  # those up to here are Chinese characters, what follows has no class
HAN = ALPHA | LETTER | LOWER | UPPER | CJK

# Unicode 15, PropList.txt, Sentence_Terminal: the signs that end a sentence in any script.
_STOPS = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d6
17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e
2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52
fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6
111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944
11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f
1da88
"""
# Letters between which a sign parts two words (LETTER), and those that have no capitals, so that they count as small
# and as large ones; both are spaCy's, which knows the scripts it has a language for.
_LETTERS = """
41-5a 61-7a c0-d6 d8-f6 f8-1bf 1c4-2af 386 388-38a 38c 38e-38f 391-3a9 3ac-3af 3b1-3c9 3cc-3ce 400-401 403-40a 40c-40d
410-451 453-45a 45c-45d 490-491 496-497 4a2-4a3 4ae-4af 4ba-4bb 4d8-4d9 4e8-4e9 1d00-1d25 1d6b-1d77 1d79-1d9a 1e00-1eff
2c60-2c7b 2c7e-2c7f a722-a76f a771-a787 a78b-a78e a790-a7b9 a7fa ab30-ab5a ab60-ab64 ff21-ff3a ff41-ff5a
"""
_UNCASED = """
591-5f4 620-64a 66e-6d5 6e5-6ff 750-77f 8a0-8bd 900-9ff b80-cff d80-dff 1100-137f 2e80-2fdf 2ff0-30ff 31c0-31ef
3200-4dbf 4e00-9fff ac00-d7af f900-faff fb1d-fbb1 fbd3-fd3d fd50-fdc7 fdf0-fdfb fe30-fe4f fe70-fefc 1ee00-1eebb
1f200-1f2ff
"""
# Symbols of Unicode 12 to 15, which that does not know.
_NEW_ICONS = """
166d 2b97 2bc9 2bff 2e50-2e51 32ff fd40-fd4f fdcf fdfe-fdff 1019c 11fd5-11fdc 11fe1-11ff1 1cf50-1cfc3 1d1e9-1d1ea
1e14f 1ed2e 1f10d-1f10f 1f16c-1f16f 1f1ad 1f6d5-1f6d7 1f6dd-1f6df 1f6fa-1f6fc 1f7e0-1f7eb 1f7f0 1f8b0-1f8b1 1f90c-1f90f
1f93f 1f971-1f972 1f977-1f979 1f97b 1f9a3-1f9af 1f9ba-1f9bf 1f9c3-1f9cf 1fa00-1fa53 1fa70-1ffff
"""
# Signs of which alone no word consists (the list of CCNet, Wenzek et al. 2019, arXiv:1911.00359).
SIGNS = "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
_SYMBOLS = string.punctuation + SIGNS
_PEELS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_MONEY = "$£€¥฿﷼" + "".join(map(chr, range(0x20A0, 0x20C0)))
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _set(table: npt.NDArray[np.uint16], characters: str, name: int) -> None:
    table[[ord(each) for each in characters]] |= np.uint16(name)


def _places(text: str) -> Iterator[slice]:
    """Ranges of characters, "41-5a 61"."""
    for part in text.split():
        first, _, last = part.partition("-")
        yield slice(int(first, 16), int(last or first, 16) + 1)


@functools.cache
def classes() -> npt.NDArray[np.uint16]:
    """Bits of the names above for each of the first CHARACTERS characters. Cost: about 0.15 s, once."""
    letters = list(map(chr, range(CHARACTERS)))
    category = [unicodedata.category(each) for each in letters]
    table = np.zeros(CHARACTERS, np.uint16)
    for name, holds in (
        (ALPHA, map(str.isalpha, letters)), (LOWER, map(str.islower, letters)), (UPPER, map(str.isupper, letters)),
        (BLANK, map(str.isspace, letters)), (MARK, (each[0] == "P" for each in category)),
        (ICON, (each == "So" for each in category)),
    ):  # fmt: skip
        table[np.fromiter(holds, bool, CHARACTERS)] |= np.uint16(name)
    for place in _places(_NEW_ICONS):
        table[place] &= ~np.uint16(ICON)
    for place in _places(_LETTERS + _UNCASED):
        table[place] |= np.uint16(LETTER)
    table[(table & LETTER) == 0] &= ~np.uint16(LOWER | UPPER)
    for place in _places(_UNCASED):
        table[place] |= np.uint16(LOWER | UPPER)
    _set(table, "\u0294", LOWER)  # no small letter for Unicode
    _set(table, "\u03a2", UPPER)  # no letter, in the middle of the Greek capitals
    for place in _places(_STOPS):
        table[place] |= np.uint16(STOP | SYMBOL)
    for begin, end in ((0, 9), (11, 13), (13, 32), (127, 160)):
        table[begin:end] |= np.uint16(SYMBOL)
    _set(table, _SYMBOLS, SYMBOL)
    _set(table, _PEELS, PEEL)
    _set(table, _QUOTES, QUOTE)
    _set(table, _MONEY, MONEY)
    _set(table, _LINE_ENDS, LINE_END)
    _set(table, "§%=—–", FRONT)
    _set(table, string.digits, DIGIT)
    for begin, end in ((0x3041, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)):
        table[begin:end] |= np.uint16(CJK)
    return table


def of(text: str) -> npt.NDArray[np.uint16]:
    """The classes of every character of a text."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    found = classes()[np.minimum(points, CHARACTERS - 1)]
    found[points >= CHARACTERS] = 0
    found[(points >= CHARACTERS) & (points < BEYOND)] = HAN
    return found
