"""Words as English tokenizers cut them: blanks first, then signs off both ends, then signs between letters.

The rules are those that spaCy publishes for English: prefixes, suffixes, infixes, addresses, single exceptions
(irregular.py). What it does with a text without Chinese or Japanese characters is done here; such a character is a word
of its own, where spaCy leaves rows of them whole. csrc/rules/words.cpp must equal this file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from danlu.data import letters
from danlu.data.address import is_address
from danlu.data.irregular import irregular
from danlu.data.letters import CJK, DIGIT, FRONT, ICON, LETTER, LOWER, MONEY, PEEL, QUOTE, UPPER

Span = tuple[int, int]
Irregular = Mapping[str, tuple[str, ...]]
UNITS = frozenset(
    "km m dm cm mm nm ha µm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % "
    "км м дм см мм нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم "
    "كم م سم مم غرام جرام جم كغ ملغ كوب اكواب".split()
) | {unit + power for unit in "km m dm cm mm км м дм см мм كم م سم مم".split() for power in "²³"}
LONGEST_UNIT = max(map(len, UNITS))
LONGEST = max(map(len, irregular()))
HYPHENS = ("---", "--", "-", "——", "—", "–", "~")
_DOTS = re.compile(r"\.{2,}")
_DOLLARS = ("US$", "C$", "A$")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return [text[begin:end] for begin, end in spans(text)]


def spans(text: str) -> list[Span]:
    """Begin and end of every word, in order."""
    return joined(text, list(_cut(text, irregular())))


def _cut(text: str, known: Irregular) -> Iterator[Span]:
    classes = letters.of(text).tolist()
    for found in re.finditer(r"\S+", text):
        for begin, end in _Chunk(found[0], classes[found.start() : found.end()], known).words():
            yield found.start() + begin, found.start() + end


class _Chunk:
    """What stands between two blanks, and the class of each of its characters."""

    def __init__(self, text: str, classes: list[int], known: Irregular) -> None:
        self.text, self.classes, self.known = text, classes, known

    def words(self) -> list[Span]:
        a, b = 0, len(self.text)
        before: list[Span] = []
        behind: list[Span] = []
        while a < b and not self._rote(a, b):
            first = self._front(a, b)
            last = self._back(a + first, b)
            if self._rote(a + first, b):
                last = 0
            elif self._rote(a, b - last):
                first = 0
            if not first and not last:
                break
            before += [(a, a + first)] if first else []
            behind += [(b - last, b)] if last else []
            a, b = a + first, b - last
        return [*before, *self._core(a, b), *reversed(behind)]

    def _is(self, i: int, names: int) -> bool:
        return bool(self.classes[i] & names)

    def _rote(self, a: int, b: int) -> Sequence[str]:
        """The words of [a, b) where they are known by rote."""
        return self.known.get(self.text[a:b], ()) if b - a <= LONGEST else ()

    def _front(self, a: int, b: int) -> int:
        """Length of a sign that stands alone at the front of [a, b)."""
        text = self.text
        if dots := _DOTS.match(text, a, b):
            return len(dots[0])
        if self._is(a, PEEL | ICON | MONEY | FRONT):
            return 1
        if text[a] == "+":
            return int(a + 1 == b or not self._is(a + 1, DIGIT))
        return next((len(each) for each in _DOLLARS if text.startswith(each, a, b)), 0)

    def _back(self, a: int, b: int) -> int:
        """Length of the longest sign, 's or unit of measure that stands alone at the end of [a, b)."""
        text, dots = self.text[max(a, b - LONGEST) : b], 0
        while dots < b - a and self.text[b - dots - 1] == ".":
            dots += 1
        if dots > 1:
            return dots
        if text.endswith(("……", "'s", "'S", "’s", "’S")):
            return 2
        sizes = (n for n in range(min(b - a - 1, LONGEST_UNIT), 0, -1) if self._is(b - n - 1, DIGIT))
        found = next((n for n in sizes if text[-n:] in UNITS or text[-n:] in _DOLLARS), 0)
        if found or not text:
            return found
        if self._is(b - 1, PEEL | ICON) or text[-1] in "—–":
            return 1
        if len(text) > 1 and self._is(b - 2, DIGIT) and (text[-1] == "+" or self._is(b - 1, MONEY)):
            return 1
        return int(text[-1] == "." and self._ends(a, b - 1))

    def _ends(self, a: int, dot: int) -> bool:
        """Whether the dot behind [a, dot) is no part of the word."""
        if dot == a:
            return False
        if self._is(dot - 1, DIGIT | LOWER | PEEL | QUOTE) or self.text[dot - 1] in "%²-+|":
            return True
        if dot - 2 < a:
            return False
        degrees = self.text[dot - 2] == "°" and self.text[dot - 1] in "FfCcKk"
        return degrees or (self._is(dot - 1, UPPER) and self._is(dot - 2, UPPER))

    def _core(self, a: int, b: int) -> Iterator[Span]:
        """Words of what is left when nothing can be taken off its ends any more."""
        if known := self._rote(a, b):
            yield from _pieces(a, known)
            return
        han = any(each & CJK for each in self.classes)
        begin = i = b if not han and is_address(self.text[a:b]) else a
        if begin == b > a:
            yield a, b
        while i < b:
            sign = 1 if han and self._is(i, CJK | PEEL) else self._between(i, a, b)
            if sign and (i > a or han):
                if begin < i:
                    yield begin, i
                yield i, i + sign
                begin = i + sign
            i += sign or 1
        if begin < b:
            yield begin, b

    def _between(self, i: int, a: int, b: int) -> int:
        """Length of a sign at i that parts two words."""
        text, sign = self.text, self.text[i]
        if dots := _DOTS.match(text, i, b):
            return len(dots[0])
        if self._is(i, ICON) or sign == "…":
            return 1
        if i == a or i + 1 == b:
            return 0
        letter, figure = self._is(i - 1, LETTER), self._is(i - 1, DIGIT)
        if figure and sign in "+-*^" and (self._is(i + 1, DIGIT) or text[i + 1] == "-"):
            return 1
        if sign == ".":
            return int(self._is(i - 1, LOWER | QUOTE) and self._is(i + 1, UPPER | QUOTE))
        if sign == ",":
            return int(letter and self._is(i + 1, LETTER))
        if not letter and not figure:
            return 0
        sizes = (len(each) for each in HYPHENS if text.startswith(each, i, b))
        return next((n for n in (*sizes, sign in ":<>=/") if n and i + n < b and self._is(i + n, LETTER)), 0)


def _pieces(begin: int, parts: Sequence[str]) -> Iterator[Span]:
    for part in parts:
        yield begin, begin + len(part)
        begin += len(part)


@functools.cache
def rejoined() -> Mapping[tuple[str, ...], str]:
    """The irregular words that the rules for signs would cut, by what those would make of them.

    Where a sign parts them from the word before ("foo:)"), they are not met whole, but their parts in a row.
    """
    cut = {each: tuple(each[begin:end] for begin, end in _cut(each, {})) for each in irregular()}
    return {parts: each for each, parts in cut.items() if len(parts) > 1}


def joined(text: str, cut: list[Span]) -> list[Span]:
    """The spans, but the irregular words whose parts stand there in a row, longest first, are cut as those are.

    A row with single blanks in it is left as it is, but as it was met, no other one may have a part of it.
    """
    rows = sorted(_rows(text, cut), key=lambda row: (row[0] - row[1], row[0]))
    taken: set[int] = set()
    instead: dict[int, tuple[int, Sequence[str]]] = {}
    for first, after in rows:
        row = cut[first][0], cut[after - 1][1]
        if not taken & {first, after - 1} and text[slice(*row)] in irregular():
            instead[first] = after, irregular()[text[slice(*row)]]
        taken |= set(range(first, after))
    found: list[Span] = []
    at = 0
    while at < len(cut):
        after, parts = instead.get(at, (at + 1, ()))
        found += _pieces(cut[at][0], parts) if parts else [cut[at]]
        at = after
    return found


@functools.cache
def _beginnings() -> frozenset[tuple[str, ...]]:
    return frozenset(parts[:n] for parts in rejoined() for n in range(1, len(parts)))


def _rows(text: str, cut: list[Span]) -> Iterator[Span]:
    """First word of each row that is an irregular one, and the one after it."""
    for first in range(len(cut)):
        after = first + 1
        row: tuple[str, ...] = (text[slice(*cut[first])],)
        while row in _beginnings() and after < len(cut) and text[cut[after - 1][1] : cut[after][0]] in ("", " "):
            row = (*row, text[slice(*cut[after])])
            after += 1
            if row in rejoined():
                yield first, after
