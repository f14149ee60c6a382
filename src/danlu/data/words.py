"""Words as English tokenizers cut them: blanks first, then signs off both ends, then signs between letters.

The rules are those that spaCy publishes for English (prefixes, suffixes, infixes, addresses, contractions) without its
long list of single exceptions. A Chinese or Japanese character is a word of its own. csrc/rules/words.cpp must equal
this file, which is written to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from danlu.data import letters
from danlu.data.letters import ALPHA, CJK, DIGIT, FRONT, ICON, LOWER, MONEY, PEEL, QUOTE, UPPER

Span = tuple[int, int]
TITLES = frozenset(
    "Mr. Mrs. Ms. Dr. Prof. St. Co. Corp. Inc. Ltd. Jr. Sr. vs. Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. "
    "Nov. Dec. Gen. Gov. Rep. Rev. Sen. Mt. Adm. Bros. Ph.D.".split()
)
UNITS = frozenset(
    "km m dm cm mm ha nm yd in ft kg g mg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M "
    "K %".split()
)
_DOTS, _LAST_DOTS = re.compile(r"\.{2,}"), re.compile(r"\.{2,}\Z")
_SECOND = re.compile(r"(?<=.n)['’]t\Z|(?<=.)['’](?:ll|ve|re|d|m)\Z", re.S)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return [text[begin:end] for begin, end in spans(text)]


def spans(text: str) -> Iterator[Span]:
    """Begin and end of every word, in order."""
    classes = letters.of(text).tolist()
    for found in re.finditer(r"\S+", text):
        for begin, end in _Chunk(found[0], classes[found.start() : found.end()]).words():
            yield found.start() + begin, found.start() + end


class _Chunk:
    """What stands between two blanks, and the class of each of its characters."""

    def __init__(self, text: str, classes: list[int]) -> None:
        self.text, self.classes = text, classes

    def words(self) -> list[Span]:
        text, a, b = self.text, 0, len(self.text)
        before: list[Span] = []
        behind: list[Span] = []
        while a < b and not _abbreviation(text[a:b], self.classes[a:b]):
            first = self._front(a, b)
            if first:
                before.append((a, a + first))
                a += first
            if a == b or _abbreviation(text[a:b], self.classes[a:b]):
                break
            last = self._back(a, b)
            if last:
                behind.append((b - last, b))
                b -= last
            if not first and not last:
                break
        middle = [(a, b)] if _abbreviation(text[a:b], self.classes[a:b]) else self._core(a, b)
        return [*before, *(span for span in middle if span[0] < span[1]), *reversed(behind)]

    def _is(self, i: int, names: int) -> bool:
        return bool(self.classes[i] & names)

    def _front(self, a: int, b: int) -> int:
        """Length of a sign that stands alone at the front of [a, b)."""
        if self.text[a] == ".":
            dots = _DOTS.match(self.text, a, b)
            return len(dots[0]) if dots else 0
        if self.text[a : min(a + 2, b)] == "''":
            return 2
        if self._is(a, PEEL | ICON | MONEY | FRONT):
            return 1
        return int(self.text[a] == "+" and not (a + 1 < b and self._is(a + 1, DIGIT)))

    def _back(self, a: int, b: int) -> int:
        """Length of a sign, an 's or a unit of measure that stands alone at the end of [a, b)."""
        text, last = self.text[a:b], self.text[b - 1]
        if text[-2:] in ("):", "''"):
            return 2
        if self._is(b - 1, PEEL | ICON) or last in "—–":
            return 1
        if last == ".":
            dots = _LAST_DOTS.search(text)
            if dots or len(text) == 1:
                return len(dots[0]) if dots else 0
            if self._is(b - 2, DIGIT | LOWER | PEEL | QUOTE) or text[-2] in "%²-+":
                return 1
            return int(len(text) > 2 and self._is(b - 2, UPPER) and self._is(b - 3, UPPER))
        if len(text) < 2:
            return 0
        if text[-2:] in ("'s", "'S", "’s", "’S"):
            return 2
        if self._is(b - 2, DIGIT) and (last == "+" or self._is(b - 1, MONEY)):
            return 1
        return next((n for n in range(1, 5) if text[-n:] in UNITS and n < len(text) and self._is(b - n - 1, DIGIT)), 0)

    def _core(self, a: int, b: int) -> list[Span]:
        """Words of what is left when nothing can be taken off its ends any more."""
        han = any(each & CJK for each in self.classes)
        text = self.text[a:b]
        if a == b or (not han and self._address(a, b)) or text == "and/or":
            return [(a, b)]
        second = 3 if text in ("cannot", "Cannot") else 0
        if found := _SECOND.search(text):
            second = found.start() - found[0].endswith("t")
        if second:
            return [(a, a + second), (a + second, b)]
        cut, begin, i = [], a, a
        while i < b:
            sign = 1 if han and self._is(i, CJK | PEEL) else self._between(i, a, b)
            if sign:
                cut += [(begin, i), (i, i + sign)]
                begin = i = i + sign
            else:
                i += 1
        return [*cut, (begin, b)]

    def _between(self, i: int, a: int, b: int) -> int:
        """Length of a sign at i that parts two words."""
        text, sign = self.text, self.text[i]
        if dots := _DOTS.match(text, i, b):
            return len(dots[0])
        if self._is(i, ICON) or sign == "…":
            return 1
        if i == a or self._is(i, ALPHA | DIGIT) or i + 1 >= b:
            return 0
        letter, figure = self._is(i - 1, ALPHA), self._is(i - 1, DIGIT)
        if figure and (self._is(i + 1, DIGIT) or text[i + 1] == "-") and sign in "+-*^":
            return 1
        if sign == ".":
            return int(self._is(i - 1, LOWER | QUOTE) and self._is(i + 1, UPPER | QUOTE))
        if sign == ",":
            return int(letter and self._is(i + 1, ALPHA))
        if not letter and not figure:
            return 0
        if sign in "-–—~":
            size = 1
            while sign == "-" and size < 3 and i + size < b and text[i + size] == "-":
                size += 1
            return size if i + size < b and self._is(i + size, ALPHA) else 0
        return int(sign in ":<>=/" and self._is(i + 1, ALPHA))

    def _address(self, a: int, b: int) -> bool:
        """Whether it reads like http://..., mail@host.org or docs.python.org/3: one word."""
        text = self.text
        scheme = text.find("://", a, b)
        named = all(self._is(j, ALPHA | DIGIT) or text[j] in "+-._" for j in range(a, scheme))
        start = a if scheme < a else scheme + 3 if scheme >= a + 2 and named else b
        i = start
        while i < b and text[i] not in "/?#":
            if text[i] == "@" and i > start:
                start = i + 1
            i += 1
        end = start
        while end < b and (text[end] in "._-" or self._inner(end)):
            end += 1
        places = [start, *(j + 1 for j in range(start, end) if text[j] == "."), end + 1]
        labels = [(first, after - 1) for first, after in zip(places, places[1:], strict=False)]
        if len(labels) < 2 or any(first == last for first, last in labels):
            return False
        if not all(self._inner(first) and self._inner(last - 1) for first, last in labels[:-1]):
            return False
        first, last = labels[-1]
        if not (
            last - first >= 2 and all(self._is(j, LOWER if text[j] < "\x80" else ALPHA) for j in range(first, last))
        ):
            numbers = sum(self._is(each - 1, DIGIT) for _, each in labels[:-1])
            if not (len(labels) == 4 and numbers == 3 and self._is(last - 1, DIGIT)):
                return False
        if end < b and text[end] == ":":
            port = end + 1
            while port < b and self._is(port, DIGIT):
                port += 1
            if port - end < 3:
                return False
            end = port
        return end == b or text[end] in "/?#"

    def _inner(self, i: int) -> bool:
        return self._is(i, DIGIT) or (self._is(i, ALPHA) if self.text[i] < "\x80" else self.text[i] >= "\xa1")


def _abbreviation(text: str, classes: list[int]) -> bool:
    """Whether the last dot belongs to the word: "e.g.", "a.", "Dr."."""
    if not text.endswith(".") or len(text) > 6:
        return False
    if len(text) == 2:
        return "a" <= text[0] <= "z"
    dotted = len(text) % 2 == 0 and set(text[1::2]) == {"."} and all(each & ALPHA for each in classes[::2])
    return dotted or text in TITLES
