"""Signing, encoding, de-duplicating on this machine's own documents, beside the peers; and all of AREAS."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.data import bpe, folds, minhash, numbers, sign
from danlu.data.document import Document, Step
from danlu.data.encoder import Encoder
from danlu.data.packing import pack
from danlu.data.read import Refused, default_text, listing, read
from danlu.data.steps import near, normalise

PEER_PACKAGES = ("rensa", "datatrove[io,processing]", "spacy", "webdataset")
AREAS = ("data_rules", "data_other", "data_kinds", "data_words", "data_scale", "data_store")
PEERS = Path(__file__).parents[1] / ".peers"
CORPUS = 16_000_000  # bytes: enough for stable rates, few enough for the slow peers' sample
SLOW = 30  # a peer that is hundreds of times slower signs every so-manyth document
SHORT = 20_000  # bytes of a file whose documents are compared: copies are among the short ones, and pairs are many
WORD = re.compile("[\u3040-\u9fff]|[0-9a-z\u0080-\u1fff\u2040-\u2fff\ua000-\ufeff\uff21-\U0010ffff]+")

Row = list[Any]


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys: those of the functions below and of AREAS; a peer that is not installed has no key.

    only  signing, encoding, packing, near_duplicates (own: these four), one of AREAS, or a part of it
    """
    own = {part.__name__: part for part in (signing, encoding, packing, near_duplicates)}
    found: dict[str, Any] = {}
    if only in ("", "own", *own):
        documents = corpus()
        size = sum(len(document.text.encode()) for document in documents)
        print(f"corpus: {len(documents):,} documents of this machine, {size / 1e6:.1f} MB\n")
        with tempfile.TemporaryDirectory(
            dir=Path.cwd()
        ) as name:  # on a disk: the one for temporary files may be memory
            for part in [own[only]] if only in own else own.values():
                print(f"data: {part.__name__}", file=sys.stderr, flush=True)
                values, rows = part(documents, Path(name), rounds)
                print(table([part.__name__.replace("_", " "), "median", "least", "most"], rows) + "\n", flush=True)
                found |= values
    for area in AREAS:
        other = load(area)
        if only in ("", area, *other.PARTS):
            print(area, file=sys.stderr, flush=True)
            found |= other.measure(rounds, quick, only if only in other.PARTS else "")
    return found


def corpus(longest: int = 1 << 20) -> list[Document]:
    """This machine's documents in the order of their names' hash, up to CORPUS bytes, from files of `longest` bytes."""
    documents: list[Document] = []
    size = 0
    for source in listing(default_text())[0]:
        if source.size <= longest and size < CORPUS:
            found = [each for each in read(source, 1 << 20) if not isinstance(each, Refused)]
            documents += normalise.step(found, lambda document, why: None)
            size += sum(len(each.text) for each in found)
    return documents


def signing(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """112 minima of word 5-grams, per CPU-second: sign_mb_s, sign_vs_numpy, sign_vs_rensa, sign_vs_datatrove.

    sign_once_mb_s, sign_once_vs_permutations, sign_once_vs_datatrove: the same by one permutation, as near's default.

    The last is with datatrove's normal form on both sides: lower case; numbers, signs, diacritics alike or gone.
    sign_own_vs_datatrove: ours as the near step has it.
    """
    whole = [document.text for document in documents]
    cases: dict[str, tuple[Callable[[list[str]], Any], list[str]]] = {
        f"native ({sign.best()})": (_signer(sign.sign), whole),
        "native, datatrove's normal form": (_signer(_simple_signed), whole),
        "native, one permutation": (_signer(partial(sign.sign, once=True)), whole),
        "native, one permutation, datatrove's normal form": (_signer(partial(_simple_signed, once=True)), whole),
        "numpy": (_signer(sign.with_numpy), whole),
        "rensa, words in Python": (_rensa(), whole[::10]),
        "datatrove": (_datatrove(), whole[::SLOW]),
    }  # fmt: skip
    rates, rows = _rates({name: case for name, case in cases.items() if case[0]}, rounds)
    rows += [[f"{name}: not in .peers", "", "", ""] for name, case in cases.items() if not case[0]]
    ours, plain, once, plain_once, *others = rates
    values = {"sign_mb_s": rates[ours]} | {
        f"sign_vs_{name.split(',')[0]}": rates[ours] / rates[name] for name in others
    }
    values |= {"sign_once_mb_s": rates[once], "sign_once_vs_permutations": rates[once] / rates[ours]}
    if "datatrove" in rates:
        values |= {"sign_own_vs_datatrove": rates[ours] / rates["datatrove"],
                   "sign_vs_datatrove": rates[plain] / rates["datatrove"],
                   "sign_once_vs_datatrove": rates[plain_once] / rates["datatrove"]}  # fmt: skip
        some = whole[::SLOW]
        simplified = _peer("datatrove.utils.text").simplify_text
        equal = sum(_words(folds.same([text.encode()])[0]) == _words(simplified(text).encode()) for text in some)
        rows.append([f"texts of {len(some)} with the very words of its normal form", equal, "", ""])
    return values, rows


def _simple_signed(texts: list[bytes], once: bool = False) -> sign.Signed:
    return sign.sign(numbers.same(folds.same(texts)), once=once)


def _words(text: bytes) -> list[str]:
    (folded,) = numbers.same([text])
    return minhash.WORD.findall(folded.decode().lower())


def _signer(work: Callable[[list[bytes]], sign.Signed]) -> Callable[[list[str]], None]:
    return lambda texts: _batched(lambda part: work([text.encode() for text in part]), texts)


def _peer(name: str) -> ModuleType | None:
    if str(PEERS) not in sys.path:
        sys.path.insert(0, str(PEERS))
        with suppress(ImportError):
            importlib.import_module("xxhash")  # datatrove's, which is older than what other packages bring
        sys.path.append(sys.path.pop(0))
    with suppress(ImportError):
        return importlib.import_module(name)
    return None


def _rensa() -> Any:
    rensa = _peer("rensa")
    if rensa is None:
        return None

    def each(texts: list[str]) -> None:
        for text in texts:
            words = WORD.findall(text.lower())
            made = rensa.RMinHash(num_perm=112, seed=1)
            made.update([" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))])
            made.digest()

    return each


def _datatrove() -> Any:
    theirs = _peer("datatrove.pipeline.dedup.minhash")
    if theirs is None:
        return None
    folder = tempfile.mkdtemp()
    config = theirs.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    stage = theirs.MinhashDedupSignature(folder, config=config)
    shutil.rmtree(folder)
    stage.get_signature(stage.get_shingles("their word tokenizer is loaded by its first text"))

    def each(texts: list[str]) -> None:
        for text in texts:
            shingles = stage.get_shingles(text)
            if len(shingles):
                stage.get_signature(shingles)

    return each


def encoding(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """encode_vs_hf, encode_equal: token ids per CPU-second beside the `tokenizers` package, one thread each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = [document.text for document in documents[::16]]
    tokenizer = bpe.train([document.text for document in documents[1::8]], 4096)
    hf: Callable[[list[str]], Any] = lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # noqa: E731
    equal = all(mine == each.ids for mine, each in zip(Encoder(tokenizer).encode(texts), hf(texts), strict=True))
    rates, rows = _rates(
        {"ours": (lambda texts: _batched(Encoder(tokenizer).encode, texts), texts), "tokenizers": (hf, texts)}, rounds
    )
    return {"encode_vs_hf": rates["ours"] / rates["tokenizers"], "encode_equal": equal}, rows


def packing(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """pack_padding, pack_pieces_s, cut_splits: best fit into 2,048 tokens, one for every four bytes of a document."""
    sizes = np.array([1 + len(each.text.encode()) // 4 for each in documents])
    ends, seq = np.cumsum(sizes), 2048
    many = np.cumsum(np.tile(sizes, -(-1_000_000 // len(sizes))))
    rates = []
    for _ in range(rounds):
        began = time.process_time()
        rates.append(len(pack(many, seq).sizes) / 1e6 / (time.process_time() - began))
    whole, begins = sizes <= seq, np.cumsum(sizes) - sizes
    split = (begins // seq != (begins + sizes - 1) // seq)[whole].mean()
    padding = 1 - float(ends[-1]) / (pack(ends, seq).sequences * seq)
    rows: list[Row] = [["million pieces/CPU-s", *(f"{x:.2f}" for x in _spread(rates))],
                       ["padding", f"{padding:.4%}", "", ""],
                       ["documents that fit, split by windows of one stream", f"{split:.1%}", "", ""]]  # fmt: skip
    return {"pack_padding": padding, "pack_pieces_s": statistics.median(rates) * 1e6, "cut_splits": float(split)}, rows


def _rates(
    cases: dict[str, tuple[Callable[[list[str]], Any], list[str]]], rounds: int
) -> tuple[dict[str, float], list[Row]]:
    """MB per CPU-second of each case by name, the cases in turn; all threads of this process are counted."""
    every: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (work, texts) in cases.items():
            began = time.process_time()
            work(texts)
            every[name].append(sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - began))
    rows = [[f"{name}, MB/CPU-s", *(f"{x:.2f}" for x in _spread(values))] for name, values in every.items()]
    return {name: statistics.median(values) for name, values in every.items()}, rows


def _batched(work: Callable[[list[str]], Any], texts: list[str]) -> None:
    for i in range(0, len(texts), 50):
        work(texts[i : i + 50])


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def near_duplicates(_: list[Document], __: Path, ___: int) -> tuple[dict[str, Any], list[Row]]:
    """dedup_pairs, dedup_recall, dedup_precision: the near step against every pair's exact Jaccard similarity.

    dedup_recall_permutations, dedup_precision_permutations: with the signatures of `near: {signing: permutations}`.
    """
    documents = corpus(SHORT)
    pairs = dict(alike(documents))
    values: dict[str, Any] = {"dedup_pairs": len(pairs)}
    rows: list[Row] = [[f"pairs of Jaccard >= {near.LEAST}, every pair compared", len(pairs), "", ""]]
    for signing, end in (("onepass", ""), ("permutations", "_permutations")):
        found, dropped, right = went(documents, pairs, near.configured({"signing": signing}))
        values |= {f"dedup_recall{end}": found / len(pairs) if pairs else 1.0,
                   f"dedup_precision{end}": right / dropped if dropped else 1.0}  # fmt: skip
        rows += [[f"{signing}: pairs of which one went", found, "", ""], ["documents that went", dropped, "", ""],
                 ["of which rightly", right, "", ""]]  # fmt: skip
    return values, rows


def went(documents: list[Document], pairs: Collection[tuple[str, str]], step: Step) -> tuple[int, int, int]:
    """Of a near step: pairs of which it drops one, documents it drops, and those that are in a pair with their twin."""
    twins = dict[str, str]()
    kept = {each.key for each in step(documents, lambda d, why: twins.update({d.key: why.split("same as ", 1)[1]}))}
    right = sum((key, twin) in pairs or (twin, key) in pairs for key, twin in twins.items())
    return sum(not (a in kept and b in kept) for a, b in pairs), len(twins), right


def alike(documents: list[Document]) -> Iterator[tuple[tuple[str, str], float]]:
    """Every pair of at least LEAST, by counting shared 5-grams over all pairs; words by a regular expression."""
    sets = []
    for document in documents:
        words = WORD.findall(re.sub("[A-Z]", lambda m: m[0].lower(), document.text)) or ["0"]
        grams = {hash(tuple(words[i : i + minhash.SHINGLE])) for i in range(max(1, len(words) - 4))}
        sets.append(np.array(sorted(grams), np.int64))
    grams = np.concatenate(sets)
    owner = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    order = np.argsort(grams, kind="stable")
    _, starts, counts = np.unique(grams[order], return_index=True, return_counts=True)
    holders: list[list[int]] = [[] for _ in sets]
    for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        for number in owner[order[start : start + count]].tolist():
            holders[number].append(start)
    ends = dict(zip(starts.tolist(), (starts + counts).tolist(), strict=True))
    for number, shared in enumerate(holders):
        if shared:
            others = np.concatenate([owner[order[start : ends[start]]] for start in shared])
            both = np.bincount(others, minlength=len(sets))
            for other in np.flatnonzero(both[:number]).tolist():
                share = both[other] / (len(sets[number]) + len(sets[other]) - both[other])
                if share >= near.LEAST:
                    yield (documents[other].key, documents[number].key), share
