"""The whole way from text folders to a token file: read, clean, learn a vocabulary, encode.

Each stage ends in a manifest that names what it was made from, so a call that was killed goes on at the first
unfinished stage, and a call with nothing new to do does nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data import bpe, clean_parts, encode_parts, parts, reading
from danlu.data.clean import STEPS, Before, Spec, clean, settled
from danlu.data.document import Document, from_record, original
from danlu.data.encode import LEAST_HELD, MANY, HeldByName, Piece, held_out, pieces, write
from danlu.data.encoder import Encoder
from danlu.data.ingest import Tell, ingest
from danlu.data.read import default_text
from danlu.data.token_file import manifest_of
from danlu.errors import DamagedTokens
from danlu.store.packs import Store

VERSION = 2
Held = frozenset[str] | HeldByName
Encode = Callable[[Path, Path, Held, Tell], Iterator[Mapping[str, Piece]]]
Remove = Callable[[Path], object]
SAMPLE = 1_000  # characters per token of the vocabulary to learn it from: the first in hash order, so a random sample
# What a Chinese or Japanese character counts in it besides. Without blanks hardly a "word" stands twice, and learning
# takes its time for the different ones: with a third of the text it takes a third, and 0 to 0.4% more tokens.
DENSE = 10


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prep` made, and the funnel: every document read is kept or dropped by exactly one rule."""

    tokens: Path
    docs_in: int
    docs_kept: int
    bytes_in: int
    dropped: dict[str, int]
    examples: dict[str, list[str]]
    manifest: dict[str, Any]
    seconds: float
    sequences: int = 0  # of an epoch, as the run packs them
    padding: float = 0.0  # share of their places that no token fills

    @property
    def copies(self) -> int:
        """Documents kept that are copies of another one: `mix` takes some more than once."""
        return self.docs_kept + sum(self.dropped.values()) - self.docs_in

    @property
    def figures(self) -> dict[str, float]:
        """Flat JSON: data.docs_in, data.tokens, data.dropped.RULE, ..."""
        splits = self.manifest["splits"]
        values: dict[str, float] = {
            "docs_in": self.docs_in, "docs_kept": self.docs_kept, "bytes_in": self.bytes_in,
            "duplicates": self.dropped.get("exact", 0), "near_duplicates": self.dropped.get("near", 0),
            "tokens": splits["train"]["tokens"], "held_tokens": splits["held"]["tokens"],
            "vocab": self.manifest["vocab"], "unigram_entropy": self.manifest["unigram_entropy"],
            "seconds": self.seconds, "sequences": self.sequences, "padding": self.padding,
            **{f"dropped.{name}": count for name, count in self.dropped.items()},
        }  # fmt: skip
        return {f"data.{name}": value for name, value in values.items()}


def prep(text: Sequence[Path], out: Path, *, vocab: int, limit_bytes: int, steps: Sequence[Spec] = STEPS,
         execute: parts.Run | None = None, reads: bool = False,
         tell: Callable[[str], Tell] = lambda stage: lambda words, share: None) -> Prepared:  # fmt: skip
    """Prepare the text in OUT/store and OUT/tokens.

    text         folders and files; empty means the documents every machine has (`default_text`)
    limit_bytes  reading stops after so many; with the same files always at the same ones
    steps        what cleans, in this order: names of danlu/data/steps, or {name: options}
    execute      runs what looks at one document alone in parts, each in a process of its own; None: this one does all
    reads        whether the processes of `execute` see the files too, so that they read them in parts
    tell         given a stage's name, what to call with its progress
    The tokens depend on names and bytes of the files alone.
    Raises NoText, StoreInUse, DiskFull, MissingPackage, DamagedPack, UnknownPlugin, BadValue, PartFailed.
    """
    began = time.monotonic()
    steps = settled(steps)
    jobs, some = out / "store" / "parts", out / "store" / "reading"
    with _removing() as remove:
        read = partial(reading.fill, some, execute, steps) if execute and reads else None
        found, source = ingest(text or default_text(), out / "store" / "raw", limit=limit_bytes, tell=tell("read"),
                               run=read)  # fmt: skip
        parted = None if execute is None else partial(_parted, jobs, some, source, steps, execute)
        cleaning = clean(out / "store" / "raw", out / "store" / "clean", source=source, steps=steps, tell=tell("clean"),
                         run=parted)  # fmt: skip
        remove(some)  # its packs are in the stores by a second name
        made_by = {"source": source, "steps": list(steps), "vocab": vocab, "sample": [SAMPLE, DENSE],
                   "version": VERSION}  # fmt: skip
        encoded = None if execute is None else partial(_encoded_parts, jobs, execute, remove)
        manifest = _encoded(out / "store" / "clean", out / "tokens", made_by, vocab, encoded, tell)
    return Prepared(
        out / "tokens", found.docs_in, cleaning.docs_kept, found.bytes_in, dict(found.dropped + cleaning.dropped),
        found.examples | cleaning.examples, manifest, time.monotonic() - began,
    )  # fmt: skip


@contextmanager
def _removing() -> Iterator[Remove]:
    """Takes folders away beside other work: the disk may still be busy with what was written before."""
    with ThreadPoolExecutor(1, "remove") as beside:
        yield lambda folder: beside.submit(shutil.rmtree, folder, ignore_errors=True)


def _parted(jobs: Path, some: Path, source: str, steps: Sequence[Spec], execute: parts.Run, raw: Path,
            tell: Tell) -> Before:  # fmt: skip
    if folders := reading.cleaned(some, source, steps, execute, tell):
        return clean_parts.before(folders, some, steps, execute, tell)
    return clean_parts.run(raw, jobs, source, steps, execute, tell)


def _encoded_parts(jobs: Path, execute: parts.Run, remove: Remove, store: Path, tokenizer: Path, held: Held,
                   tell: Tell) -> Iterator[Mapping[str, Piece]]:  # fmt: skip
    return encode_parts.run(store, jobs, tokenizer, held, execute, tell, remove)


def _encoded(clean_store: Path, folder: Path, made_by: dict[str, Any], vocab: int, run: Encode | None,
             tell: Callable[[str], Tell]) -> dict[str, Any]:  # fmt: skip
    try:
        manifest = manifest_of(folder)
        if manifest.get("made_by") == made_by:
            return manifest
    except DamagedTokens:
        pass  # not there yet, or cut short: it is made now
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(clean_store)
    tell("vocab")(f"learning {vocab:,} tokens", 0.0)
    tokenizer = bpe.train(_sample(store, SAMPLE * vocab), vocab)
    bpe.save(tokenizer, folder)
    held = _held(store)
    told = tell("encode")
    if run is not None and _kept(store) > 1:
        made = run(clean_store, folder, held, told)
    else:
        made = pieces(_documents(store), held, Encoder(tokenizer))
    manifest = write(made, tokenizer, folder, {"made_by": made_by}, _kept(store), told)
    store.close()
    return manifest


def _kept(store: Store) -> int:
    """How many documents cleaning left; its packs may hold others too, removed by name."""
    return int(store.cursor["funnel"]["docs_kept"])


def _held(store: Store) -> Held:
    """`held_out` of a store: by name where so many are held out that no other document can join."""
    if _kept(store) >= MANY:
        rule, gathered = HeldByName(), 0
        for record in store.scan():
            key = record.key.decode()
            gathered += len(record.value) - record.value.index(b"\n") - 1 if key == original(key) in rule else 0
            if gathered >= LEAST_HELD:
                return rule
    return held_out(_Sizes(store))


class _Sizes(Mapping[str, int]):
    """Bytes of every document's text, by name; only that of a document whose size is asked for is looked at."""

    def __init__(self, store: Store) -> None:
        self._store, self._few = store, {}
        if _kept(store) == 1:
            self._few = {document.key: len(document.text.encode()) for document in _documents(store)}

    def __iter__(self) -> Iterator[str]:
        if self._few:
            yield from self._few
            return
        for batch in self._store.batches():
            found = batch.present()
            yield from (found.key(number).decode() for number in range(len(found)))

    def __len__(self) -> int:
        return len(self._few) or _kept(self._store)

    def __getitem__(self, name: str) -> int:
        value = None if self._few else self._store.get(name.encode())
        return self._few[name] if value is None else len(value) - value.index(b"\n") - 1


def _documents(store: Store) -> Iterator[Document]:
    for record in store.scan():
        document = from_record(record.key, record.value)
        if _kept(store) > 1:
            yield document
        else:  # of a single text, the last part is held out
            cut = document.text.rfind("\n", 0, len(document.text) * 9 // 10) + 1 or len(document.text) * 9 // 10
            yield replace(document, text=document.text[:cut])
            yield replace(document, key=f"{document.key}#rest", text=document.text[cut:])


def _sample(store: Store, left: int) -> Iterator[str]:
    for document in _documents(store):
        yield document.text
        raw = np.frombuffer(document.text.encode(), np.uint8)
        left -= len(document.text) + DENSE * int(np.count_nonzero((raw >= 0xE3) & (raw <= 0xE9)))  # U+3000 to U+9FFF
        if left <= 0:
            return
