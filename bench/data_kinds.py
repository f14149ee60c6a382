"""The rates of `danlu bench data` again, on kinds of text that were not looked at when the code was made fast.

For each kind of bench/parts/corpora.py, made anew with a fresh seed: signing (datatrove's normal form on both sides,
and "own" as the near step has it), quality rules, files to tokens (ours reads them, datatrove is given them; both learn
the vocabulary, datatrove by the tokenizers package's trainer; "given": ours alone learns it) and encoding, per
CPU-second beside the peer; equal decisions, equal ids, recall and precision of near
duplicates that were put in. Each key is the worst kind.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import bpe, sign
from danlu.data.document import Document
from danlu.data.encoder import Encoder
from danlu.data.prep import prep
from danlu.data.steps import near, normalise

OURS, THEIRS = 4_000_000, 200_000  # bytes of a kind that each side takes: enough for steady rates
VOCAB = 4096
MANY = 4_000  # documents; more stand in one file of JSON lines
CHANGED = 3  # words of a planted twin that are others

Row = list[Any]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """The keys kind_sign_vs_datatrove, kind_rules_vs_datatrove, ... of the worst kind; quick: half of the text."""
    seed = secrets.randbits(32)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    print(f"kinds of text, seed {seed}", flush=True)
    found: dict[str, list[float]] = {}
    rows: list[Row] = []
    for kind in _file("parts/corpora").KINDS:
        print(f"data_kinds: {kind}", file=sys.stderr, flush=True)
        values = of_kind(kind, seed, min(rounds, 3), OURS // (2 if quick else 1))
        rows.append([kind, *(f"{values[name]:.4g}" if name in values else "" for name in NAMES)])
        for name, value in values.items():
            found.setdefault(f"kind_{name}", []).append(value)
    print(table(["kind", *(name.replace("_", " ") for name in NAMES)], rows) + "\n", flush=True)
    return {key: min(values) for key, values in found.items()}


NAMES = ("sign_vs_datatrove", "sign_own_vs_datatrove", "rules_vs_datatrove", "rules_equal", "prep_vs_datatrove",
         "prep_vs_datatrove_given", "encode_vs_hf", "encode_equal", "dedup_recall", "dedup_precision", "sign_mb_s",
         "rules_mb_s", "prep_mb_s")  # fmt: skip


_file = functools.cache(load)  # a file read again would make its tables again


def of_kind(kind: str, seed: int, rounds: int, size: int) -> dict[str, float]:
    """The figures of one kind; those of a peer that is not installed are absent."""
    texts = _file("parts/corpora").texts(kind, seed, size)
    made = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    documents = list(normalise.step(made, lambda document, why: None))
    some = _some(documents, THEIRS)
    return {**_signing(documents, some, rounds), **_rules(documents, some, rounds), **_prep(documents, some, rounds),
            **_encoding(documents, some, rounds), **_twins(documents, seed)}  # fmt: skip


def _some(documents: list[Document], size: int) -> list[Document]:
    """A sample of about so many bytes; of a document longer than that its beginning."""
    total = sum(len(each.text.encode()) for each in documents)
    chosen = documents[:: max(1, total // size)]
    return [Document(each.key, each.text.encode()[:size].decode(errors="ignore")) for each in chosen]


def _rate(work: Callable[[], Any], documents: list[Document], rounds: int = 1) -> float:
    """MB per CPU-second, the median."""
    size, found = sum(len(each.text.encode()) for each in documents) / 1e6, []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append(size / (time.process_time() - began))
    return statistics.median(found)


def _signing(documents: list[Document], some: list[Document], rounds: int) -> dict[str, float]:
    data = _file("data")
    ours, theirs = data._signer(data._simple_signed), data._datatrove()
    ours(["\u00e9"])  # makes its table of letters
    whole = [each.text for each in documents]
    rate = _rate(lambda: ours(whole), documents, rounds)
    if theirs is None:
        return {"sign_mb_s": rate}
    peer = _rate(lambda: theirs([each.text for each in some]), some)
    own = data._signer(sign.sign)
    return {"sign_mb_s": rate, "sign_vs_datatrove": rate / peer,
            "sign_own_vs_datatrove": _rate(lambda: own(whole), documents, rounds) / peer}  # fmt: skip


def _rules(documents: list[Document], some: list[Document], rounds: int) -> dict[str, float]:
    judge = _file("data_rules")
    theirs = judge.peers()
    texts = [each.text.encode() for each in documents]
    rate = _rate(lambda: judge._judge_all(texts), documents, rounds)
    if theirs is None:
        return {"rules_mb_s": rate}
    found: list[tuple[int, int]] = []
    peer = _rate(lambda: found.append(judge.decisions(some, theirs)), some)
    equal, count = found[0]
    return {"rules_mb_s": rate, "rules_vs_datatrove": rate / peer, **({"rules_equal": equal / count} if count else {})}


def _prep(documents: list[Document], some: list[Document], rounds: int) -> dict[str, float]:
    judge = _file("data_rules")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        home = Path(name)
        (home / "text").mkdir()
        if len(documents) > MANY:  # nobody has so short ones in files of their own
            lines = (json.dumps({"id": each.key, "text": each.text}, ensure_ascii=False) for each in documents)
            (home / "text" / "all.jsonl").write_text("\n".join(lines) + "\n")
        else:
            for each in documents:
                (home / "text" / each.key).write_text(each.text)

        def ours() -> None:
            shutil.rmtree(home / "out", ignore_errors=True)
            prep([home / "text"], home / "out", vocab=VOCAB, limit_bytes=10**9, steps=judge.STEPS)

        rate = _rate(ours, documents, rounds)
        if judge.peers() is None:
            return {"prep_mb_s": rate}
        made = home / "out" / "tokens" / "tokenizer.json"
        peer = _rate(lambda: judge._theirs(some, home / "theirs", made), some)
        size = sum(len(each.text.encode()) for each in documents) / 1e6
        both = 1 / (1 / peer + judge.learning(home / "out", VOCAB) / size)
        return {"prep_mb_s": rate, "prep_vs_datatrove": rate / both, "prep_vs_datatrove_given": rate / peer}


def _encoding(documents: list[Document], some: list[Document], rounds: int) -> dict[str, float]:
    texts, few = [each.text for each in documents[::2]], [each.text for each in some]
    tokenizer = bpe.train([each.text for each in documents[1::2] or documents], VOCAB)
    encoder = Encoder(tokenizer)
    hf = lambda: tokenizer.encode_batch_fast(few, add_special_tokens=False)  # noqa: E731
    equal = all(mine == each.ids for mine, each in zip(encoder.encode(few), hf(), strict=True))
    data = _file("data")
    rate = _rate(lambda: data._batched(Encoder(tokenizer).encode, texts), documents[::2], rounds)
    return {"encode_vs_hf": rate / _rate(hf, some, rounds), "encode_equal": float(equal)}


def _twins(documents: list[Document], seed: int) -> dict[str, float]:
    """Recall and precision of the near step where every fifth document has a twin with a few other words."""
    data, rng = _file("data"), np.random.default_rng(seed)
    own = [each for each in documents if len(each.text) <= data.SHORT][:800]
    twins = []
    for each in own[::5]:
        words = each.text.split(" ")
        for place in rng.integers(0, len(words), min(CHANGED, len(words) // 40)).tolist():
            words[place] = "otherwise"
        twins.append(Document(f"{each.key}.twin", " ".join(words)))
    whole = sorted(own + twins, key=lambda each: hash((each.key, seed)))
    pairs = dict(data.alike(whole)) if whole else {}
    hit, went, right = data.went(whole, pairs, near.step) if whole else (0, 0, 0)
    return {"dedup_recall": hit / len(pairs) if pairs else 1.0, "dedup_precision": right / went if went else 1.0}


PARTS = {"other": measure, "kinds": measure}
