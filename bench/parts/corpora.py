"""Kinds of text that people prepare, made anew from a seed: natural words with natural frequencies.

Words, sentences and code are this Python's own library (docstrings, licences, source); what is not there on every
machine is drawn from a Zipf law over such words. Chinese has words of one to four common characters, each as frequent
as its rank says; "random Chinese" has none, and is the worst that a learner of words can meet.
"""

from __future__ import annotations

import functools
import json
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Make = Callable[[np.random.Generator, int], Iterator[str]]
WORDS = 20_000  # of a made-up Chinese vocabulary
COMMON = 3_500  # characters in daily use (the table of 2013 for general education)
TAGS = ("p", "li", "td", "h2", "span")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Words, and the running sum of the chances to draw each."""

    words: tuple[str, ...]
    until: npt.NDArray[np.float64]

    def some(self, rng: np.random.Generator, count: int) -> list[str]:
        """So many of them."""
        places = np.searchsorted(self.until, rng.random(count)).tolist()
        return [self.words[min(place, len(self.words) - 1)] for place in places]


@functools.cache
def sources() -> tuple[str, ...]:
    """The library's modules, as text."""
    found = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    found += sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py"))
    return tuple(
        each.read_text(errors="replace") for each in found if each.parent.name not in ("site-packages", "test")
    )


@functools.cache
def paragraphs() -> tuple[str, ...]:
    """What the library's docstrings say, a paragraph each, on one line."""
    said = (found[1] for text in sources() for found in re.finditer(r'"""(.*?)"""', text, re.S))
    parts = (" ".join(part.split()) for doc in said for part in re.split(r"\n\s*\n", doc))
    return tuple(dict.fromkeys(part for part in parts if len(part) > 60 and ">>>" not in part))


@functools.cache
def english() -> Drawn:
    """The library's words, each as frequent as it is there."""
    counts = Counter(word for part in paragraphs() for word in part.split())
    shares = np.fromiter(counts.values(), np.float64)
    return Drawn(tuple(counts), np.cumsum(shares / shares.sum()))


def _said(rng: np.random.Generator, words: int) -> str:
    return " ".join(english().some(rng, words))


def prose(rng: np.random.Generator, size: int) -> Iterator[str]:
    """English: paragraphs of docstrings in another order."""
    yield "\n\n".join(paragraphs()[i] for i in rng.integers(0, len(paragraphs()), max(2, size // 200))) + "\n"


def code(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Python: functions and classes as they stand in the library."""
    text = sources()[rng.integers(0, len(sources()))]
    starts = [match.start() for match in re.finditer(r"^(?:def|class|    def) ", text, re.M)] or [0]
    first = starts[rng.integers(0, len(starts))]
    yield text[first : first + size * 2].rstrip() + "\n"


def records(rng: np.random.Generator, size: int) -> Iterator[str]:
    """JSON lines: numbers, a time, an address and a text; every line with the same keys."""
    lines = []
    for _ in range(max(1, size // 600)):
        number = int(rng.integers(1, 1 << 31))
        lines.append(json.dumps({
            "id": number, "url": f"https://example.org/{rng.integers(1, 1 << 40):x}", "score": round(rng.random(), 4),
            "time": f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}:07Z",
            "text": _said(rng, int(rng.integers(40, 120)))}))  # fmt: skip
    yield "\n".join(lines) + "\n"


def chat(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Messages of a conversation: a name, few words."""
    for _ in range(max(1, size // 80)):
        yield f"{'user' if rng.random() < 0.5 else 'bot'}: {_said(rng, int(rng.integers(3, 20)))}?\n"


@functools.cache
def _chinese() -> Drawn:
    rng = np.random.default_rng(20_902)  # one language for every seed
    letters = rng.permutation(np.arange(0x4E00, 0x4E00 + 20_902))[:COMMON]
    shares = 1 / np.arange(2, COMMON + 2)
    drawn = rng.choice(letters, (WORDS, 4), p=shares / shares.sum())
    sizes = rng.choice([1, 2, 3, 4], WORDS, p=[0.1, 0.65, 0.15, 0.1])
    words = tuple("".join(map(chr, row[:n])) for row, n in zip(drawn.tolist(), sizes.tolist(), strict=True))
    ranks = 1 / (np.arange(WORDS) + 2.7)
    return Drawn(words, np.cumsum(ranks / ranks.sum()))


def chinese(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Chinese: sentences of words by Zipf's law, its own signs, no blanks."""
    lines: list[str] = []
    for _ in range(max(1, size // 500)):
        parts = ["".join(_chinese().some(rng, int(rng.integers(3, 12)))) for _ in range(8)]
        lines.append("，".join(parts[:3]) + "。" + "，".join(parts[3:6]) + "。“" + "、".join(parts[6:]) + "”！")
    yield "\n".join(lines) + "\n"


def uniform(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Random Chinese: every character as likely as any other, lines of a hundred."""
    lines = ("".join(map(chr, rng.integers(0x4E00, 0x9FA6, 100))) + "。" for _ in range(max(1, size // 300)))
    yield "\n".join(lines) + "\n"


def mixed(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Chinese with English in it, as technical writing has."""
    lines: list[str] = []
    for _ in range(max(1, size // 220)):
        own = ("".join(_chinese().some(rng, 8)) for _ in range(3))
        lines.append(f"{next(own)} {_said(rng, 2)} {next(own)}，{_said(rng, 4)} {next(own)}。")
    yield "\n".join(lines) + "\n"


@functools.cache
def _thai() -> Drawn:
    rng = np.random.default_rng(0xE01)  # one language for every seed
    letters = np.arange(0xE01, 0xE3A)
    shares = 1 / np.arange(3, len(letters) + 3)
    drawn = rng.choice(letters, (WORDS, 9), p=shares / shares.sum())
    words = tuple("".join(map(chr, row[:n])) for row, n in zip(drawn.tolist(), rng.integers(2, 10, WORDS), strict=True))
    ranks = 1 / (np.arange(WORDS) + 2.7)
    return Drawn(words, np.cumsum(ranks / ranks.sum()))


def thai(rng: np.random.Generator, size: int) -> Iterator[str]:
    """Thai: made-up words in rows, a blank between phrases alone: the longest words that a tokenizer meets."""
    lines = []
    for _ in range(max(1, size // 1500)):
        lines.append(" ".join("".join(_thai().some(rng, int(rng.integers(4, 12)))) for _ in range(20)))
    yield "\n".join(lines) + "\n"


def pages(rng: np.random.Generator, size: int) -> Iterator[str]:
    """HTML as it is on the wire: tags, attributes, links, few words between them."""
    parts = ["<!DOCTYPE html>\n<html><head><title>" + _said(rng, 4) + "</title></head>\n<body>"]
    for number in range(max(1, size // 160)):
        tag = TAGS[rng.integers(0, len(TAGS))]
        link = f'<a href="https://example.org/p/{rng.integers(0, 1 << 30)}?n={number}">{_said(rng, 2)}</a>'
        parts.append(f'<{tag} class="c{number % 7} item">{_said(rng, 12)} {link}.</{tag}>')
    yield "\n".join(parts) + "\n</body></html>\n"


def tiny(rng: np.random.Generator, size: int) -> Iterator[str]:
    """A line each: titles, searches, labels."""
    for _ in range(max(1, size // 40)):
        yield _said(rng, int(rng.integers(2, 8))) + "\n"


def one(rng: np.random.Generator, size: int) -> Iterator[str]:
    """All of it is one document, a book: prose in long paragraphs."""
    order = rng.permutation(len(paragraphs())).tolist()  # each stands once, so a seed may have less than `size`
    ends = np.cumsum([2 + len(paragraphs()[i].encode()) for i in order])
    yield "\n\n".join(paragraphs()[i] for i in order[: 1 + int(np.searchsorted(ends, size))]) + "\n"


# Name of a kind: what makes it, and the characters of a call; 0: all that is wanted.
KINDS: dict[str, tuple[Make, int]] = {
    "English prose": (prose, 4_000), "source code": (code, 3_000), "JSON lines": (records, 5_000),
    "chat": (chat, 4_000), "Chinese": (chinese, 5_000), "random Chinese": (uniform, 5_000),
    "Chinese and English": (mixed, 4_000), "HTML pages": (pages, 6_000), "very short": (tiny, 4_000),
    "one long": (one, 0), "Thai": (thai, 5_000),
}  # fmt: skip


def texts(kind: str, seed: int, size: int) -> list[str]:
    """Documents of a kind, about `size` bytes of UTF-8; the same for the same seed."""
    make, each = KINDS[kind]
    rng = np.random.default_rng([seed, *kind.encode()])
    found: list[str] = []
    gathered = 0
    while gathered < size:
        for text in make(rng, each or size):
            found.append(text)
            gathered += len(text.encode())
        if not each:
            break
    return found
