"""The published quality rules by name: each compares one count of `measure.py` with one limit, in the published order.

    gopher_quality     Rae et al. 2021 (arXiv:2112.11446), A.1.1: how long, how wordy, how many signs and stop words
    gopher_repetition  the same, table A1: repeated lines, paragraphs and runs of words
    c4                 Raffel et al. 2020 (JMLR 21(140)), 2.2: lines that are no sentences, pages that are no prose
    fineweb            Penedo et al. 2024 (arXiv:2406.17557), 3.6: lines without an end, short, repeated, lists

A text of which Han characters are a third or more is judged as Chinese: there a word is a character, so the length of
words says nothing, a run of words must be longer to be suspicious, and stop words are Chinese ones (limits are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.document import Document, Drop, Step, batches
from danlu.data.measure import FIELD, measure
from danlu.errors import BadValue

BATCH = 1 << 20  # characters measured at once
Counts = Mapping[str, Any]  # of one document, a number each; of many, an array each
Broken = tuple[str, str, str]  # set, rule, why


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit on one value: the document goes when the value is below `least` or above `most`."""

    name: str
    what: str
    value: Callable[[Counts], Any]  # of arrays where the counts are arrays
    least: float | None = None
    most: float | None = None
    least_chinese: float | None = None  # None: as for every other text
    most_chinese: float | None = None
    chinese: bool = True  # whether the rule means anything for Chinese

    def limits(self, chinese: bool) -> tuple[float | None, float | None]:
        """The least and the most that are allowed; None twice where the rule means nothing."""
        if not chinese:
            return self.least, self.most
        if not self.chinese:
            return None, None
        least = self.least if self.least_chinese is None else self.least_chinese
        return least, self.most if self.most_chinese is None else self.most_chinese

    def breach(self, counts: Counts, chinese: bool) -> str | None:
        """Why a document with these counts goes, with value and limit; None if it stays."""
        value = self.value(counts)
        return self.why(value, chinese) if _beyond(value, *self.limits(chinese)) else None

    def why(self, value: float, chinese: bool) -> str:
        """What is wrong with a value that breaks the rule."""
        least, most = self.limits(chinese)
        if least is not None and value < least:
            return f"{value:.4g} {self.what}, fewer than {least:g}"
        return f"{value:.4g} {self.what}, more than {most:g}"

    def breaks(self, values: npt.NDArray[Any], chinese: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Of many documents with these values: which break the rule."""
        found = _beyond(values, *self.limits(False))
        return np.where(chinese, _beyond(values, *self.limits(True)), found) if chinese.any() else np.asarray(found)


def _beyond(value: Any, least: float | None, most: float | None) -> Any:
    """Whether a value, or each of an array of them, is below `least` or above `most`."""
    if least is not None and most is not None:
        return (value < least) | (value > most)
    if least is not None:
        return value < least
    return value > most if most is not None else value != value


def _ratio(part: Any, whole: Any, otherwise: float = 0.0) -> Any:
    """One number by another, or arrays of them; `otherwise` where the second is 0."""
    if isinstance(whole, np.ndarray):
        return np.divide(part, whole, out=np.full(len(whole), otherwise), where=whole != 0)
    return part / whole if whole else otherwise


def _share(part: str, whole: str) -> Callable[[Counts], Any]:
    return lambda counts: _ratio(counts[part], counts[whole])


def _stops(counts: Counts) -> Any:
    """Different stop words; of Chinese the Chinese ones, where those are more."""
    more = counts["chinese_stops"] - counts["stop_words"]
    return counts["stop_words"] + is_chinese(counts) * (more > 0) * more


def _top(n: int, most: float) -> Rule:
    return Rule(f"top_{n}_gram", f"of the characters in one run of {n} words", _share(f"top{n}", "chars"), most=most)


def _dup(n: int, most: float) -> Rule:
    wide = {8: 0.15, 9: 0.14, 10: 0.13}.get(n)
    return Rule(f"repeated_{n}_grams", f"of the characters in repeated runs of {n} words", _share(f"dup{n}", "chars"),
                most=most, most_chinese=wide, chinese=wide is not None)  # fmt: skip


SETS: dict[str, tuple[Rule, ...]] = {
    "gopher_quality": (
        Rule("few_words", "words", lambda c: c["spoken"], least=50),
        Rule("many_words", "words", lambda c: c["spoken"], most=100_000),
        Rule("short_words", "characters in a word", _share("spoken_chars", "spoken"), least=3, chinese=False),
        Rule("long_words", "characters in a word", _share("spoken_chars", "spoken"), most=10, chinese=False),
        Rule("hashes", "# for each word", _share("hashes", "words"), most=0.1),
        Rule("ellipses", "ellipses for each word", _share("ellipses", "words"), most=0.1),
        Rule("bullets", "of the lines begin with a bullet", _share("bullets", "lines"), most=0.9),
        Rule("cut_lines", "of the lines end with an ellipsis", _share("cut_lines", "lines"), most=0.3),
        Rule("letters", "of the words have a letter", _share("alpha_words", "words"), least=0.8, least_chinese=0.7),
        Rule("stop_words", "different stop words", _stops, least=2),
    ),
    "gopher_repetition": (
        Rule("empty", "characters", lambda c: c["chars"], least=1),
        Rule("paragraphs", "of the paragraphs stood before", _share("paragraphs_again", "paragraphs"), most=0.3),
        Rule("paragraph_chars", "of the characters in such paragraphs", _share("paragraph_chars_again", "chars"),
             most=0.2),
        Rule("lines", "of the lines stood before", _share("rows_again", "rows"), most=0.3),
        Rule("line_chars", "of the characters in such lines", _share("row_chars_again", "chars"), most=0.2),
        _top(2, 0.2), _top(3, 0.18), _top(4, 0.16),
        _dup(5, 0.15), _dup(6, 0.14), _dup(7, 0.13), _dup(8, 0.12), _dup(9, 0.11), _dup(10, 0.10),
    ),
    "c4": (
        Rule("lorem_ipsum", "lines of lorem ipsum", lambda c: c["c4_lorem"], most=0),
        Rule("curly_bracket", "lines with a {", lambda c: c["c4_curly"], most=0),
        Rule("few_sentences", "sentences left", lambda c: c["c4_sentences"], least=5),
    ),
    "fineweb": (
        Rule("empty", "lines of text", lambda c: c["text"], least=1),
        Rule("unended_lines", "of the lines end like a sentence", _share("ended", "text"), least=0.12),
        Rule("short_lines", "of the lines are short", _share("short", "text"), most=0.67),
        Rule("repeated_lines", "of the characters in lines that stood before",
             lambda c: _ratio(c["text_chars_again"], c["chars"] - c["newlines"]), most=0.01),
        Rule("list", "line ends for each word", lambda c: _ratio(c["newlines"], c["words"], 1.0), most=0.3),
    ),
}  # fmt: skip


def is_chinese(counts: Counts) -> Any:
    """Whether Han characters are a third or more of what is said: of one document, or an array of many."""
    return (3 * counts["han"] >= counts["spoken_chars"]) & (counts["han"] > 0)


Verdict = Callable[[Document, str], None]  # takes a document out, and why


def verdict(name: str, counts: Counts) -> tuple[str, str] | None:
    """The first rule of a set that a document breaks, and why; None if it keeps them all."""
    chinese = is_chinese(counts)
    for rule in SETS[name]:
        if why := rule.breach(counts, chinese):
            return rule.name, why
    return None


class _Columns(dict[str, npt.NDArray[np.int64]]):
    """A count of all documents by its name; only those that are asked for are gathered."""

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self._counts = counts

    def __missing__(self, name: str) -> npt.NDArray[np.int64]:
        self[name] = np.ascontiguousarray(self._counts[:, FIELD[name]])
        return self[name]


@dataclass(frozen=True, slots=True)
class Verdicts(Sequence[Broken | None]):
    """The first rule of some sets that each document breaks; None for one that keeps them all.

    asked   the rules in turn, each with its set's name
    first   of each document the number of the rule it breaks; len(asked) if none
    values  what that rule looks at
    """

    asked: Sequence[tuple[str, Rule]]
    first: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    chinese: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, document: Any) -> Any:
        """What is wrong with a document, in words: they are made when somebody asks."""
        number = int(self.first[document])
        if number == len(self.asked):
            return None
        name, rule = self.asked[number]
        return name, rule.name, rule.why(float(self.values[document]), bool(self.chinese[document]))


def verdicts(names: Sequence[str], counts: npt.NDArray[np.int64]) -> Verdicts:
    """The verdict of some sets on each document.

    counts  (documents, len(FIELDS))
    Cost: about 0.3 ms for all sets, and for each document a hundredth of what `verdict` takes.
    """
    columns = _Columns(counts)
    chinese = is_chinese(columns)
    asked = [(name, rule) for name in names for rule in SETS[name]]
    first, values = np.full(len(counts), len(asked)), np.zeros(len(counts))
    for number, (_, rule) in enumerate(asked):
        value = rule.value(columns)
        found = np.flatnonzero(rule.breaks(value, chinese) & (first == len(asked)))
        first[found], values[found] = number, value[found]
    return Verdicts(asked, first, values, chinese)


def judged(documents: Iterable[Document], names: Sequence[str], drops: Callable[[str], Verdict],
           ended_lines: bool = True) -> Iterator[Document]:  # fmt: skip
    """Documents that keep every rule of the sets, which are asked in turn; one native pass measures for all of them.

    drops        given "SET.RULE", what to call with a document that goes
    ended_lines  c4 keeps only lines that end a sentence
    After "c4" a document is what that left, and the sets behind it measure that.
    """
    for batch in batches(documents, BATCH):
        left = batch
        todo = list(names)
        while todo:
            cut = todo.index("c4") + 1 if "c4" in todo else len(todo)
            left = _asked(left, todo[:cut], drops, ended_lines)
            todo = todo[cut:]
        yield from left


def _asked(documents: list[Document], names: Sequence[str], drops: Callable[[str], Verdict],
           ended_lines: bool) -> list[Document]:  # fmt: skip
    is_c4 = names[-1] == "c4"
    texts = [document.text.encode() for document in documents]
    measured = measure(texts, ended_lines, "text" if is_c4 else "none")
    left = []
    for number, (document, broken) in enumerate(zip(documents, verdicts(names, measured.counts), strict=True)):
        if broken is not None:
            drops(f"{broken[0]}.{broken[1]}")(document, broken[2])
        else:
            left.append(replace(document, text=measured.kept[number].decode()) if is_c4 else document)
    return left


def step_of(name: str, ended_lines: bool = True) -> Step:
    """One set as a step of its own."""

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        return judged(documents, [name], lambda rule: _said(rule, drop), ended_lines)

    return step


def _said(rule: str, drop: Drop) -> Verdict:
    return lambda document, why: drop(document, why, rule.partition(".")[2])


def c4_options(options: Any) -> bool:
    """`ended_lines` of `c4: {ended_lines: false}`. Raises BadValue for anything else."""
    if (
        not isinstance(options, dict)
        or set(options) - {"ended_lines"}
        or not isinstance(options.get("ended_lines", True), bool)
    ):
        raise BadValue("c4 has one option", why=f"it was given {options!r}", fix="c4: {ended_lines: false}")
    return bool(options.get("ended_lines", True))
