"""Quality rules, cleaning in parts, and the whole of prep, beside datatrove on the same documents.

datatrove with its word tokenizer goes into .peers:
  pip install --target .peers "datatrove[processing]" spacy "xxhash<3.6"
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from danlu.cli import spread
from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import clean, rules
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
BIG = 96_000_000  # bytes that one and two workers prepare

Row = list[Any]
Part = Callable[[list[Document], Path, int], tuple[dict[str, Any], list[Row]]]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys of the parts: quality_rules, text_to_tokens, two_processes; only one of them; quick: half of the text."""
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


def two_processes(_: list[Document], home: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """scale_2_workers, scale_2_prep: wall time of cleaning, and of prep from files to tokens, one worker and two.

    scale_others: cores that other processes used meanwhile; with any, the ratios say little of an idle machine.

    This machine's own files; cleaning reads the store, de-duplicates exactly and nearly, and writes what is left.
    """
    cleaning: dict[int, list[float]] = {1: [], 2: []}
    whole: dict[int, list[float]] = {1: [], 2: []}
    before = _used()
    for _ in range(min(rounds, 3)):
        for workers in whole:
            stages: list[tuple[str, float]] = []
            shutil.rmtree(home / "out", ignore_errors=True)
            began = time.perf_counter()
            with spread.local(workers) as execute:
                prep([], home / "out", vocab=4096, limit_bytes=BIG, steps=clean.STEPS, execute=execute,
                     reads=True, tell=partial(_noted, stages))  # fmt: skip
            whole[workers].append(time.perf_counter() - began)
            times = dict(stages)
            cleaning[workers].append(times["vocab"] - times["clean"])
    rows: list[Row] = []
    for what, seconds in (("cleaning", cleaning), ("files to tokens", whole)):
        rows += [
            [f"{what}, {workers} worker{'s' * (workers > 1)}, s", *_spread(each)] for workers, each in seconds.items()
        ]
    ratio = {name: statistics.median(each[1]) / statistics.median(each[2])
             for name, each in (("scale_2_workers", cleaning), ("scale_2_prep", whole))}  # fmt: skip
    (wall, busy, own), (wall_0, busy_0, own_0) = _used(), before
    ratio["scale_others"] = (busy - busy_0 - own + own_0) / (wall - wall_0)
    return ratio, [*rows, *([name, f"{value:.2f}", "", ""] for name, value in ratio.items())]


def _used() -> tuple[float, float, float]:
    """Seconds since some moment: by the clock, of all cores' work, of this process's and its children's."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]
    return time.perf_counter(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def _noted(stages: list[tuple[str, float]], stage: str) -> Callable[[str, float], None]:
    stages.append((stage, time.perf_counter()))
    return lambda words, share: None


PARTS: dict[str, Part] = {each.__name__: each for each in (quality_rules, text_to_tokens, two_processes)}
