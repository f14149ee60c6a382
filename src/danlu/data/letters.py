"""The class of every character, as the quality rules see it: letter, digit, blank, sign, end of a sentence, ...

The native pass (csrc/rules/) is given this table, so both know the same Unicode: that of this Python.
"""

from __future__ import annotations

import functools
import string
import unicodedata

import numpy as np
import numpy.typing as npt

ALPHA, LOWER, UPPER, DIGIT, BLANK, SYMBOL, MARK, PEEL, QUOTE, CJK, STOP, ICON, MONEY, LINE_END, FRONT = (
    1 << bit for bit in range(15)
)
CHARACTERS = 0x20000  # those beyond are Chinese characters

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
# Signs of which alone no word consists (the list of CCNet, Wenzek et al. 2019, arXiv:1911.00359).
SIGNS = "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
_SYMBOLS = string.punctuation + SIGNS
_PEELS = "….,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧".replace(".", "")
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_MONEY = "$£€¥฿₽﷼₴" + "".join(map(chr, range(0x20A0, 0x20C0)))
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _set(table: npt.NDArray[np.uint16], characters: str, name: int) -> None:
    table[[ord(each) for each in characters]] |= np.uint16(name)


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
    table[ord("°")] &= ~np.uint16(ICON)
    for part in _STOPS.split():
        first, _, last = part.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] |= np.uint16(STOP | SYMBOL)
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
    found[points >= CHARACTERS] = ALPHA | CJK
    return found
