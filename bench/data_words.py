"""Whether words and decisions are those of spaCy and datatrove, where they are most likely not to be.

words  every word of texts of all kinds (bench/parts/corpora.py, odd_words.py) and of this machine's documents
edges  documents that stand on a limit: a part is added to a text, again and again, until the verdict of a set changes;
       those on both sides are judged by datatrove too

A text with a Chinese or Japanese character is left out: there a character is a word of its own here.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import letters, rules
from danlu.data.document import Document
from danlu.data.measure import FIELD
from danlu.data.measure import measure as measured
from danlu.data.words import words as cut

SIZE = 60_000  # characters of a kind that are cut
BASE = 1_600  # characters of a text that is brought to a limit
TIMES = 100  # that a part is added
JUDGED = 800  # documents on a limit
PARTS_ADDED = (
    " 12", " #", " ...", " …", " a", " of the", " nights", " the same words again", " incomprehensibilities", "\n",
    "\n\n", "\n- item", "\n• it", "\nA line that ends so...", "\nshort one", "\nshort.", "\n\nAgain.", "\n \n", "{",
    "?", "…", "\nWhat a long line without an end this is, is it not", " It is so. And so it goes.",
    "\nOne more line, said twice.", "\nIt is so! Is it (it is)?", "\x0bthree words here.", "\u2028Three more words.",
    "\r\nand three others.", " i'd :) dont", "\nWe use cookies, as you know.", "\nlorem ipsum", "\nJavaScript.",
    "\n[1] is what he said[2][citation needed].",
)  # fmt: skip

Values = dict[str, Any]


def measure(rounds: int, quick: bool = False, only: str = "") -> Values:
    """Keys: words_equal, the worst kind's share of texts' words; edges_equal, of decisions; quick: a third of each."""
    seed = secrets.randbits(32)
    print(f"words and edges, seed {seed}", flush=True)
    found: Values = {}
    for name in [only] if only else PARTS_OWN:
        print(f"data_words: {name}", file=sys.stderr, flush=True)
        found |= PARTS_OWN[name](seed, 3 if quick else 1)
    return found


_file = cache(load)  # a file read again would make its tables again


@cache
def kinds(seed: int) -> dict[str, list[str]]:
    """Texts by kind."""
    corpora, odd = _file("parts/corpora"), _file("parts/odd_words")
    own = {kind: corpora.texts(kind, seed, SIZE) for kind in corpora.KINDS if "Chinese" not in kind}
    odds = {kind: odd.texts(kind, seed, SIZE // 1600) for kind in odd.KINDS}
    machine = [each.text[:4000] for each in _file("data").corpus(20_000)[::40]]
    return {**own, **odds, "this machine": machine}


def _chinese(text: str) -> bool:
    return bool((letters.of(text) & letters.CJK).any())


def words(seed: int, part: int) -> Values:
    """Each text's words by both; those that differ are shown, one of a kind."""
    if _file("data_rules").peers() is None:
        print("datatrove and spaCy: not in .peers\n")
        return {}
    from datatrove.utils.text import split_into_words

    rows, shares = [], []
    for kind, texts in kinds(seed).items():
        equal, total, odd = 0, 0, ""
        for text in (each[:SIZE] for each in texts[::part] if not _chinese(each)):
            ours, theirs = cut(text), split_into_words(text)
            first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            odd = odd or ("" if first is None else ascii((ours[first : first + 3], theirs[first : first + 3])))
            both = Counter(ours) & Counter(theirs)
            equal, total = equal + both.total(), total + max(len(ours), len(theirs))
        native = measured([each.encode() for each in texts]).counts[:, FIELD["words"]]
        agree = all(len(cut(text)) == count for text, count in zip(texts[:4], native[:4].tolist(), strict=True))
        rows.append([kind, f"{total:,}", f"{total - equal:,}", "yes" if agree else "NO", odd])
        shares += [equal / total] if total else []
    print(table(["words of", "cut", "unequal", "native agrees", "the first, ours and theirs"], rows) + "\n", flush=True)
    return {"words_equal": min(shares)}


def on_limits(seed: int) -> Iterator[tuple[str, str, str]]:
    """Set, rule and text of documents that break another rule first with one part more, or with one less."""
    rng = np.random.default_rng(seed)
    for texts in kinds(seed).values():
        for _ in range(4):
            base = texts[int(rng.integers(len(texts)))][:BASE].strip()
            for part in rng.choice(np.array(PARTS_ADDED, object), 10, replace=False).tolist():
                yield from _changes(base, part)


def _changes(base: str, part: str) -> Iterator[tuple[str, str, str]]:
    grown = [base + part * n for n in range(TIMES)]
    counts = measured([each.encode() for each in grown]).counts
    for name in rules.SETS:
        found = rules.verdicts([name], counts)
        for n in np.flatnonzero(np.diff(found.first)).tolist():
            number = min(found.first[n], found.first[n + 1])
            yield name, rules.SETS[name][number].name, grown[n]
            yield name, rules.SETS[name][number].name, grown[n + 1]


def edges(seed: int, part: int) -> Values:
    """Decisions on documents that stand on a limit, as many of each rule as of any other."""
    judge = _file("data_rules")
    theirs = judge.peers()
    if theirs is None:
        print("datatrove and spaCy: not in .peers\n")
        return {}
    by_rule: dict[str, list[str]] = {}
    for name, rule, text in on_limits(seed):
        by_rule.setdefault(f"{name}.{rule}", []).append(text)
    each = max(2, JUDGED // part // len(by_rule))
    rows, equal, count = [], 0, 0
    for rule, texts in sorted(by_rule.items()):
        own = of = 0
        odd = ""
        for text in texts[:: max(1, len(texts) // each)]:
            agreed, asked = judge.decisions([Document("it", text)], theirs)
            odd = odd or (ascii(text[-60:]) if agreed < asked else "")
            own, of = own + agreed, of + asked
        rows.append([rule, of, of - own, odd])
        equal, count = equal + own, count + of
    print(table(["on the limit of", "decisions", "unequal", "how the first one ends"], rows) + "\n", flush=True)
    return {"edges_equal": equal / count if count else 1.0}


PARTS_OWN: dict[str, Callable[[int, int], Values]] = {"words": words, "edges": edges}
PARTS = {name: measure for name in PARTS_OWN}
