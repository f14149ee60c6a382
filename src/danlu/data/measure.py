"""What the published quality rules count in a document: words, lines, paragraphs, repetition, what C4 leaves.

`measure` runs the native pass; `in_python` says plainly what each count is, and is what runs without a compiler.

Gopher: Rae et al. 2021, arXiv:2112.11446, table A1. C4: Raffel et al. 2020, JMLR 21(140). FineWeb: Penedo et al. 2024,
arXiv:2406.17557. Where a paper leaves a choice open, the counts are those of datatrove's filters, the published code.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.data import letters
from danlu.data.irregular import irregular
from danlu.data.letters import ALPHA, CJK, MARK, QUOTE, STOP, SYMBOL
from danlu.data.words import rejoined, spans, words

C4 = Literal["none", "counts", "text"]
C4S: tuple[C4, ...] = get_args(C4)  # danlu_c4 of csrc/rules/rules.h
FIELDS = (
    "chars words spoken spoken_chars hashes ellipses lines bullets cut_lines alpha_words stop_words chinese_stops han "
    "paragraphs paragraphs_again paragraph_chars_again rows rows_again row_chars_again top2 top3 top4 dup5 dup6 dup7 "
    "dup8 dup9 dup10 text ended short text_chars_again newlines c4_sentences c4_lorem c4_curly c4_kept c4_long_word "
    "c4_unended c4_few c4_script c4_policy"
).split()
FIELD = {name: column for column, name in enumerate(FIELDS)}
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's
CHINESE_STOPS = "的了是在和不有这"  # the eight most frequent characters that carry no topic (ours)
SHORT = 30  # characters of a line that FineWeb calls short
LONGEST_WORD = 1000  # characters; C4 drops a line with a longer one
LEAST_WORDS = 3  # of a line that C4 keeps
SHORT_CHINESE, LEAST_CHINESE = (
    15,
    6,
)  # the same two limits in characters for a line of Chinese, which has no blanks (ours)
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class Measured:
    """counts (documents, len(FIELDS)); kept: the texts that the line rules of C4 leave, each as UTF-8, if asked for."""

    counts: npt.NDArray[np.int64]
    kept: list[bytes]


class _IrregularWords(ctypes.Structure):
    """`danlu_irregular` of csrc/rules/rules.h."""

    _fields_ = [
        ("chars", ctypes.c_void_p), ("ends", ctypes.c_void_p), ("cuts", ctypes.c_void_p), ("parts", ctypes.c_void_p),
        ("words", ctypes.c_int32),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Irregular:
    """The irregular words as the native pass takes them, and the arrays that it points into."""

    given: _IrregularWords
    arrays: tuple[npt.NDArray[Any], ...]


@functools.cache
def _irregular() -> _Irregular:
    known = irregular()
    apart = {whole: parts for parts, whole in rejoined().items()}
    arrays = (
        np.frombuffer("".join(known).encode("utf-32-le"), np.uint32),
        np.cumsum([len(each) for each in known], dtype=np.int32),
        np.array([_begins(parts) for parts in known.values()], np.uint16),
        np.array([_begins(apart.get(each, (each,))) for each in known], np.uint16),
    )
    return _Irregular(_IrregularWords(*(each.ctypes.data for each in arrays), len(known)), arrays)


def _begins(parts: Sequence[str]) -> int:
    """A bit for each character at which a part begins."""
    return sum(1 << sum(map(len, parts[:number])) for number in range(len(parts)))


class _Documents(ctypes.Structure):
    """`danlu_documents` of csrc/rules/rules.h."""

    _fields_ = [
        ("bytes", ctypes.c_char_p), ("bytes_count", ctypes.c_int64), ("ends", ctypes.c_void_p),
        ("texts", ctypes.c_int64), ("classes", ctypes.c_void_p), ("irregular", ctypes.c_void_p),
        ("ended_lines", ctypes.c_int32), ("c4", ctypes.c_int32),
    ]  # fmt: skip


def measure(texts: Sequence[bytes], ended_lines: bool = True, c4: C4 = "counts") -> Measured:
    """Count everything in UTF-8 texts, natively where that is possible; the answer is the same whatever runs.

    ended_lines  C4 keeps only lines that end a sentence; FineWeb uses it without that rule
    c4           what its rules find is counted, or also what they leave kept; "none": c4_... are 0
    Cost: about 20 ns for each character; 30 bytes of memory for each character of the longest text.
    """
    if native.runs("ref"):
        return with_native(texts, ended_lines, c4)
    found = [in_python(text.decode(errors="replace"), ended_lines) for text in texts]
    counts = np.array([counts for counts, _ in found], np.int64).reshape(len(texts), len(FIELDS))
    if c4 == "none":
        counts[:, [column for name, column in FIELD.items() if name.startswith("c4_")]] = 0
    return Measured(counts, [kept.encode() for _, kept in found] if c4 == "text" else [])


def with_native(texts: Sequence[bytes], ended_lines: bool = True, c4: C4 = "counts") -> Measured:
    """The same in the native library, which must be there."""
    library = native.library()
    assert library is not None
    data = b"".join(texts)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    counts = np.zeros((len(texts), len(FIELDS)), np.int64)
    kept = np.empty(3 * len(data) + 1 if c4 == "text" else 1, np.uint8)
    kept_ends = np.zeros(len(texts), np.int64)
    given = _Documents(
        data, len(data), ends.ctypes.data, len(texts), letters.classes().ctypes.data,
        ctypes.addressof(_irregular().given), int(ended_lines), C4S.index(c4),
    )  # fmt: skip
    status = library.danlu_measure_ref(
        ctypes.byref(given), ctypes.c_void_p(counts.ctypes.data), ctypes.c_void_p(kept.ctypes.data),
        ctypes.c_void_p(kept_ends.ctypes.data),
    )  # fmt: skip
    if status == 2:
        raise MemoryError(f"no memory to measure a text of {max(map(len, texts))} bytes")
    assert status == 0, "danlu_measure_ref refused its sizes"
    if c4 != "text":
        return Measured(counts, [])
    begins = [0, *kept_ends.tolist()]
    whole = kept[: begins[-1]].tobytes()  # slices of bytes are made in a fifth of the time of slices of an array
    return Measured(counts, [whole[a:b] for a, b in zip(begins, begins[1:], strict=False)])


def in_python(text: str, ended_lines: bool = True) -> tuple[list[int], str]:
    """Every count of FIELDS for one text, and what C4 leaves of it. The reference: about 0.2 MB/s."""
    found = words(text)
    values = {
        "chars": len(text), "newlines": text.count("\n"), "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"), "han": _having(text, CJK),
        **_words(found), **_lines(text), **_repeated(found),
    }  # fmt: skip
    c4, kept = _c4(text, ended_lines)
    values |= c4
    return [values[name] for name in FIELDS], kept


def _having(text: str, names: int) -> int:
    return int(np.count_nonzero(letters.of(text) & names))


def _chinese(line: str) -> bool:
    han = _having(line, CJK)
    return han > 0 and 3 * han >= len(line)


def _words(found: list[str]) -> dict[str, int]:
    spoken = [word for word in found if not (letters.of(word) & SYMBOL).all()]
    known = set(found)
    return {
        "words": len(found), "spoken": len(spoken), "spoken_chars": sum(map(len, spoken)),
        "alpha_words": sum(_having(word, ALPHA) > 0 for word in found),
        "stop_words": len(known.intersection(STOP_WORDS)), "chinese_stops": len(known.intersection(CHINESE_STOPS)),
    }  # fmt: skip


def _lines(text: str) -> dict[str, int]:
    lines, rows = text.splitlines(), re.split("\n+", text)
    paragraphs = re.split("\n{2,}", text.strip())
    said = [line for line in text.split("\n") if line.strip()]
    stripped = [line.strip() for line in lines]
    return {
        "lines": len(lines), "bullets": sum(line.startswith(("•", "-")) for line in stripped),
        "cut_lines": sum(line.endswith(("...", "…")) for line in stripped),
        "paragraphs": len(paragraphs), **_again("paragraph", paragraphs), "rows": len(rows), **_again("row", rows),
        "text": len(said), "ended": sum(bool(_having(line[-1], STOP)) for line in said),
        "short": sum(len(line) <= (SHORT_CHINESE if _chinese(line) else SHORT) for line in said),
        "text_chars_again": _again("", said)["_chars_again"],
    }  # fmt: skip


def _again(name: str, parts: list[str]) -> dict[str, int]:
    """How many parts stood there before, and their characters."""
    seen: set[str] = set()
    number = size = 0
    for part in parts:
        if part in seen:
            number, size = number + 1, size + len(part)
        seen.add(part)
    return {f"{name}s_again": number, f"{name}_chars_again": size}


def _repeated(found: list[str]) -> dict[str, int]:
    """Characters in the most frequent 2, 3, 4 words in a row, and in 5 to 10 words in a row that stood there before."""
    values: dict[str, int] = {}
    for n in (2, 3, 4):
        grams = Counter(tuple(found[i : i + n]) for i in range(len(found) - n + 1))
        gram, times = grams.most_common(1)[0] if grams else ((), 0)
        values[f"top{n}"] = (sum(map(len, gram)) + n - 1) * times if grams else 0
    for n in range(5, 11):
        seen: set[Hashable] = set()
        values[f"dup{n}"] = at = 0
        while at <= len(found) - n:
            row = tuple(found[at : at + n])
            values[f"dup{n}"] += sum(map(len, row)) if row in seen else 0
            at += n if row in seen else 1
            seen.add(row)
    return values


def _c4(text: str, ended_lines: bool) -> tuple[dict[str, int], str]:
    """Which lines the rules of C4 drop, each by its first reason, and the text of the others."""
    found = Counter({name: 0 for name in FIELDS if name.startswith("c4_")})
    kept: list[str] = []
    for whole in map(str.strip, text.splitlines()):
        parts = whole.split()
        if any(len(part) > LONGEST_WORD for part in parts):
            found["c4_long_word"] += 1
            continue
        line = _CITATION.sub("", whole)
        low = line.translate(_ASCII_LOWER)
        chinese = _chinese(whole)
        ends = line.endswith(_ENDS) or bool(chinese and line and _having(line[-1], STOP | QUOTE))
        if ended_lines and (not ends or line.endswith("...")):
            found["c4_unended"] += 1
        elif len(parts) < LEAST_WORDS and not (chinese and len(line) >= LEAST_CHINESE):
            found["c4_few"] += 1
        elif "lorem ipsum" in low:
            return {**found, "c4_lorem": 1}, ""
        elif "javascript" in low:
            found["c4_script"] += 1
        elif "{" in line:
            return {**found, "c4_curly": 1}, ""
        elif any(each in low for each in POLICIES):
            found["c4_policy"] += 1
        else:
            found["c4_kept"] += 1
            found["c4_sentences"] += sentences(line)
            kept.append(line)
    return dict(found), "\n".join(kept).strip()


def sentences(line: str) -> int:
    """Sentences of one line: a word that is a stop, perhaps more signs, then a word that is no sign begins the next.

    More than one blank, or another one than a space, begins one as a word does.
    """
    count, ended, before = 0, False, len(line)
    for begin, end in spans(line):
        if ended and line[before:begin] not in ("", " "):
            count, ended = count + 1, False
        word, before = line[begin:end], end
        stop = len(word) == 1 and _having(word, STOP) > 0
        if ended and not stop and not (letters.of(word) & MARK).all():
            count, ended = count + 1, False
        ended |= stop
    return count + bool(line and not line.isspace())
