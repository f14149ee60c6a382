"""Quality rules, cleaning in parts, and the whole of prep, beside datatrove on the same documents.

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

from danlu.cli import spread
from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import rules
from danlu.data.document import Document
from danlu.data.measure import FIELDS
from danlu.data.measure import measure as measured
from danlu.data.prep import prep

EVERY = 4  # of the documents, every so-manyth is judged by datatrove's filters
WHOLE = 12  # of the documents, every so-manyth is taken from text to tokens by datatrove
STEPS = [
    "normalise",
    "gopher_repetition",
    "near",
]  # the sets that leave most of these documents, which are no web pages
BIG = 96_000_000  # bytes that one and two processes clean

Row = list[Any]
Part = Callable[[list[Document], Path, int], tuple[dict[str, Any], list[Row]]]


def measure(rounds: int) -> dict[str, Any]:
    """rules_mb_s, rules_vs_datatrove, rules_equal, prep_mb_s, prep_vs_datatrove, scale_2_workers."""
    documents: list[Document] = _data().corpus()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as home:
        for part in PARTS:
            values, rows = part(documents, Path(home), rounds)
            print(table([part.__name__.replace("_", " "), "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found


def _data() -> ModuleType:
    return load("data")


def _peers() -> dict[str, Any] | None:
    """datatrove's four filters, their word tokenizer loaded; None where it is not installed."""
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
    peers = _peers()
    if peers is None:
        return values, [*rows, ["datatrove: not in .peers", "", "", ""]]
    some = documents[::EVERY]
    theirs: list[tuple[bool, ...]] = []
    rate = _rate([each.text.encode() for each in some], lambda _: theirs.extend(_asked(peers, each) for each in some))
    counts = [dict(zip(FIELDS, row, strict=True)) for row in measured([d.text.encode() for d in some]).counts.tolist()]
    # Chinese has limits of its own here, and none there.
    pairs = [
        (rules.verdict(name, count) is None, kept)
        for count, decided in zip(counts, theirs, strict=True) if not rules.is_chinese(count)
        for name, kept in zip(peers, decided, strict=True)
    ]  # fmt: skip
    equal = sum(mine == other for mine, other in pairs)
    values |= {"rules_vs_datatrove": values["rules_mb_s"] / rate, "rules_equal": equal / len(pairs)}
    return values, [*rows, ["datatrove, MB/CPU-s", f"{rate:.3f}", "", ""],
                    [f"equal decisions of {len(pairs)}", equal, "", ""]]  # fmt: skip


def _judge_all(texts: list[bytes]) -> None:
    for i in range(0, len(texts), 50):
        for row in measured(texts[i : i + 50]).counts.tolist():
            counts = dict(zip(FIELDS, row, strict=True))
            for name in rules.SETS:
                rules.verdict(name, counts)


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
    """Text files in, tokens out: prep, which learns its vocabulary too, and datatrove, which is given that."""
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
    if _peers() is None:
        return values, [*rows, ["datatrove: not in .peers", "", "", ""]]
    some = documents[::WHOLE]
    began = time.process_time()
    _theirs(some, home / "theirs", made.tokens / "tokenizer.json")
    rate = sum(len(each.text.encode()) for each in some) / 1e6 / (time.process_time() - began)
    return values | {"prep_vs_datatrove": values["prep_mb_s"] / rate}, [
        *rows,
        ["datatrove, MB/CPU-s", f"{rate:.3f}", "", ""],
    ]


def _theirs(documents: list[Document], home: Path, tokenizer: Path) -> None:
    """The same steps by datatrove's blocks, one after the other in this process, as its executor calls them."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline import dedup, filters, tokens

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


def two_processes(documents: list[Document], home: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """The parts of cleaning, wall time of one process and of two, on the corpus several times over."""
    from danlu.data import parts
    from danlu.data.document import to_record
    from danlu.store.packs import Writer

    size = sum(len(document.text.encode()) for document in documents)
    with Writer(home / "big") as writer:
        for copy in range(-(-BIG // size)):
            for document in documents:
                if writer.add(f"{copy}/{document.key}".encode(), to_record(document)[1]):
                    writer.commit({})
        writer.commit({}, done=True)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(min(rounds, 2)):
        for workers in seconds:
            job = parts.prepare(home / "big", home / f"parts{number}-{workers}", "bench", [*STEPS[:2], *rules.SETS])
            began = time.perf_counter()
            spread.local(workers)(job, parts.left(job), lambda words, share: None)
            seconds[workers].append(time.perf_counter() - began)
    rows: list[Row] = [[f"{workers} processes, s", *_spread(each)] for workers, each in seconds.items()]
    return {"scale_2_workers": statistics.median(seconds[1]) / statistics.median(seconds[2])}, rows


PARTS: tuple[Part, ...] = (quality_rules, text_to_tokens, two_processes)
