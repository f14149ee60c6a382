"""Quality rules and the whole of prep, beside datatrove on the same documents.

datatrove with its word tokenizer goes into .peers:
  pip install --target .peers "datatrove[processing]" spacy "xxhash<3.6"
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import bpe, rules
from danlu.data.document import Document
from danlu.data.measure import FIELDS
from danlu.data.measure import measure as measured
from danlu.data.prep import SAMPLE, _sample, prep
from danlu.store.packs import Store

EVERY = 4  # of the documents, every so-manyth is judged by datatrove's filters
WHOLE = 12  # of the documents, every so-manyth is taken from text to tokens by datatrove
STEPS = [
    "normalise",
    "gopher_repetition",
    "near",
]  # the sets that leave most of these documents, which are no web pages

Row = list[Any]
Part = Callable[[list[Document], Path, int], tuple[dict[str, Any], list[Row]]]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys of the parts: quality_rules, text_to_tokens; only one of them; quick: half of the text."""
    documents: list[Document] = _data().corpus()[:: 2 if quick else 1]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as home:
        for name in [only] if only else PARTS:
            values, rows = PARTS[name](documents, Path(home), rounds)
            print(table([name.replace("_", " "), "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found


def _data() -> ModuleType:
    return load("data")


def peers() -> dict[str, Any] | None:
    """datatrove's four filters by the name of our set, their word tokenizer loaded; None where it is not installed."""
    data = _data()
    if data._peer("datatrove.pipeline.filters") is None or importlib.util.find_spec("spacy") is None:
        return None
    theirs, text = data._peer("datatrove.pipeline.filters"), data._peer("datatrove.utils.text")
    text.split_into_words("loaded by its first text")
    return {
        "gopher_quality": theirs.GopherQualityFilter(), "gopher_repetition": theirs.GopherRepetitionFilter(),
        "c4": theirs.C4QualityFilter(), "fineweb": theirs.FineWebQualityFilter(),
    }  # fmt: skip


def quality_rules(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """All four sets on every text, per CPU-second; decisions beside datatrove's, each with its own words."""
    texts = [document.text.encode() for document in documents]
    ours = [_rate(texts, _judge_all) for _ in range(rounds)]
    values: dict[str, Any] = {"rules_mb_s": statistics.median(ours)}
    rows: list[Row] = [["ours, MB/CPU-s", *_spread(ours)]]
    theirs = peers()
    if theirs is None:
        return values, [*rows, ["datatrove: not in .peers", "", "", ""]]
    some = documents[::EVERY]
    found: list[tuple[int, int]] = []
    rate = _rate([each.text.encode() for each in some], lambda _: found.append(decisions(some, theirs)))
    equal, count = found[0]
    values |= {"rules_vs_datatrove": values["rules_mb_s"] / rate, "rules_equal": equal / count}
    return values, [*rows, ["datatrove, MB/CPU-s", f"{rate:.3f}", "", ""],
                    [f"equal decisions of {count}", equal, "", ""]]  # fmt: skip


def decisions(documents: list[Document], theirs: dict[str, Any]) -> tuple[int, int]:
    """Decisions of the four sets equal to datatrove's, and of how many, each with its own words.

    Chinese has limits of its own here, and none there. Ours cost a hundredth of the time of theirs.
    """
    counts = measured([each.text.encode() for each in documents]).counts.tolist()
    equal = count = 0
    for document, row in zip(documents, counts, strict=True):
        own = dict(zip(FIELDS, row, strict=True))
        decided = _asked(theirs, document)
        if not rules.is_chinese(own):
            equal += sum((rules.verdict(name, own) is None) == kept for name, kept in zip(theirs, decided, strict=True))
            count += len(decided)
    return equal, count


def _judge_all(texts: list[bytes]) -> None:
    batch, size = list[bytes](), 0
    for text in texts:  # as many at a time as prep takes
        batch.append(text)
        size += len(text)
        if size >= rules.BATCH or text is texts[-1]:
            counts = measured(batch).counts
            for name in rules.SETS:
                rules.verdicts([name], counts)
            batch, size = [], 0


def _asked(peers: dict[str, Any], document: Document) -> tuple[bool, ...]:
    from datatrove.data import Document as Theirs

    kept = []
    for each in peers.values():
        try:
            answer = each.filter(Theirs(text=document.text, id=document.key))
        except ZeroDivisionError:  # a text without a word
            answer = False
        kept.append(answer is True)
    return tuple(kept)


def _rate(texts: list[bytes], work: Callable[[list[bytes]], Any]) -> float:
    began = time.process_time()
    work(texts)
    return sum(map(len, texts)) / 1e6 / (time.process_time() - began)


def _spread(values: list[float]) -> list[str]:
    return [f"{each:.2f}" for each in (statistics.median(values), min(values), max(values))]


def text_to_tokens(documents: list[Document], home: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """Text files in, tokens out, the same steps on both sides, learning the vocabulary too: prep_vs_datatrove.

    datatrove has no learner; the tokenizers package's trainer, whose merges are the same, does it for it.
    prep_vs_datatrove_given: ours learns, datatrove is given the vocabulary.
    """
    folder = home / "whole"
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number}.txt").write_text(document.text)
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    ours = []
    for _ in range(min(rounds, 3)):
        shutil.rmtree(home / "out", ignore_errors=True)
        began = time.process_time()
        made = prep([folder], home / "out", vocab=4096, limit_bytes=10**9, steps=STEPS)
        ours.append(size / (time.process_time() - began))
    values: dict[str, Any] = {"prep_mb_s": statistics.median(ours)}
    rows: list[Row] = [["ours, MB/CPU-s", *_spread(ours)]]
    if peers() is None:
        return values, [*rows, ["datatrove: not in .peers", "", "", ""]]
    some = documents[::WHOLE]
    began = time.process_time()
    _theirs(some, home / "theirs", made.tokens / "tokenizer.json")
    given = sum(len(each.text.encode()) for each in some) / 1e6 / (time.process_time() - began)
    rate = 1 / (1 / given + learning(home / "out", 4096) / size)
    return values | {"prep_vs_datatrove": values["prep_mb_s"] / rate,
                     "prep_vs_datatrove_given": values["prep_mb_s"] / given}, [
        *rows,
        ["datatrove and the tokenizers package's trainer, MB/CPU-s", f"{rate:.3f}", "", ""],
        ["datatrove, given the vocabulary, MB/CPU-s", f"{given:.3f}", "", ""],
    ]  # fmt: skip


def learning(out: Path, vocab: int) -> float:
    """CPU-seconds of the tokenizers package's trainer on the documents that prep learned the vocabulary of OUT from."""
    store = Store(out / "store" / "clean")
    texts = list(_sample(store, SAMPLE * vocab))
    store.close()
    began = time.process_time()
    made = bpe.by_package(texts, vocab)
    seconds = time.process_time() - began
    assert made.to_str() == (out / "tokens" / bpe.FILE).read_text()
    return seconds


def _theirs(documents: list[Document], home: Path, tokenizer: Path) -> None:
    """The same steps by datatrove's blocks, one after the other in this process, as its executor calls them."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline import dedup, filters, tokens
    from loguru import logger

    logger.disable("datatrove")  # hundreds of lines between our tables

    def kept() -> Any:
        texts = (Theirs(text=each.text, id=each.key) for each in documents)
        return filters.GopherRepetitionFilter().run(texts, 0, 1)

    config = dedup.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    left = list(kept())
    dedup.MinhashDedupSignature(str(home / "signatures"), config=config).run(iter(left), 0, 1)
    for rank in range(config.num_buckets):
        buckets = dedup.MinhashDedupBuckets(str(home / "signatures"), str(home / "buckets"), config=config)
        buckets.run(None, rank, config.num_buckets)
    dedup.MinhashDedupCluster(str(home / "buckets"), str(home / "remove"), config=config).run(None, 0, 1)
    rest = dedup.MinhashDedupFilter(str(home / "remove")).run(iter(left), 0, 1)
    writer = tokens.DocumentTokenizer(str(home / "tokens"), tokenizer_name_or_path=str(tokenizer), eos_token="<|end|>")
    writer.run(rest, 0, 1)


PARTS: dict[str, Part] = {each.__name__: each for each in (quality_rules, text_to_tokens)}
