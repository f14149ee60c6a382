"""Texts of other kinds than the rest of `danlu bench data` takes: code, pages, logs, other languages.

Each key is the worst of the kinds: other_rules_equal (decisions beside datatrove's four filters), other_dedup_recall
and other_dedup_precision (the near step against every pair's exact Jaccard similarity). A kind that this machine does
not have has no row. other_rules_equal_cjk is of Japanese, and of Chinese with too few characters for the limits we
have for it: there a character is a word here, and what stands between two blanks is one to the English rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data.document import Document
from danlu.data.read import Refused, listing, read
from danlu.data.steps import near, normalise

CJK = "Japanese and Chinese"
KINDS = {
    "code": (("/usr/include", "/usr/lib/python3/dist-packages"), (".py", ".h", ".c", ".js")),
    "pages": (("/usr/share/doc", "/usr/share/gtk-doc", "/usr/share/javascript"), (".html", ".htm", ".xml", ".svg")),
    "logs": (("/var/log",), (".log", ".gz", ".1")),
    "German": (("/usr/share/man/de",), (".gz",)),
    CJK: (("/usr/share/man/ja", "/usr/share/man/zh_CN", "/usr/share/man/zh_TW"), (".gz",)),
}
SIZE = 3_000_000  # characters of each kind
LONGEST = 200_000  # bytes of a file
JUDGED = 60  # documents of each kind that datatrove's filters judge too
COMPARED = 1_200  # documents of each kind of which every pair is compared

Row = list[Any]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """The keys above; quick: half of the text."""
    found: dict[str, list[float]] = {}
    rows: list[Row] = []
    for kind, (roots, ends) in KINDS.items():
        documents = _documents([Path(each) for each in roots], ends, SIZE // (2 if quick else 1))
        if not documents:
            continue
        for key, (share, count) in (_rules(documents, kind == CJK) | _pairs(documents)).items():
            rows.append([f"{kind}, {len(documents)} documents: {key.replace('_', ' ')}", f"{share:.4f}", count])
            if count:
                found.setdefault(f"other_{key}", []).append(share)
    print(table(["other texts", "share", "of"], rows) + "\n", flush=True)
    return {key: min(shares) for key, shares in found.items()}


def _documents(roots: list[Path], ends: tuple[str, ...], most: int) -> list[Document]:
    documents: list[Document] = []
    size = 0
    for source in listing([each for each in roots if each.is_dir()])[0]:
        if source.path.endswith(ends) and source.size <= LONGEST and size < most:
            own = [each for each in read(source, 1 << 20) if not isinstance(each, Refused)]
            documents += normalise.step(own, lambda document, why: None)
            size += sum(len(each.text) for each in own)
    return documents


def _rules(documents: list[Document], cjk: bool) -> dict[str, tuple[float, int]]:
    """Equal decisions, and of how many; nothing without datatrove."""
    judge = load("data_rules")
    peers = judge.peers()
    if peers is None:
        return {}
    equal, count = judge.decisions(documents[:: max(1, len(documents) // JUDGED)], peers)
    return {"rules_equal_cjk" if cjk else "rules_equal": (equal / count if count else 1.0, count)}


def _pairs(documents: list[Document]) -> dict[str, tuple[float, int]]:
    """Recall and how many pairs there are, precision and how many documents went."""
    data = load("data")
    some = [each for each in documents if len(each.text) <= data.SHORT][:COMPARED]
    pairs = dict(data.alike(some))
    hit, went, right = data.went(some, pairs, near.step)
    return {"dedup_recall": (hit / len(pairs) if pairs else 1.0, len(pairs)),
            "dedup_precision": (right / went if went else 1.0, went)}  # fmt: skip


PARTS = {"other": measure, "other_texts": measure}
