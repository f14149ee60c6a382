"""Encoding in parts. A part is one file of token ids, whole or not there."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from danlu import atomic
from danlu.data import bpe, bytelevel, parts
from danlu.data.encode import HeldByName, Piece, joined, pieces
from danlu.data.encoder import Encoder
from danlu.data.ingest import Tell
from danlu.store.packs import Store

FILE = "tokens.npy"
WHAT = ("ids", "ends", "counts")  # of each split
HELD = "held.json"  # names of the documents held out, null where names alone say it


def run(store: Path, home: Path, tokenizer: Path, held: frozenset[str] | HeldByName, execute: parts.Run,
        tell: Tell, remove: Callable[[Path], object]) -> Iterator[Mapping[str, Piece]]:  # fmt: skip
    """The pieces of every part in order; the job stands in `home`. Raises PartFailed, DiskFull.

    tokenizer  folder with its files
    remove     takes the job's folder away after the last one
    """
    names = json.dumps(None if isinstance(held, HeldByName) else sorted(held), ensure_ascii=False).encode()
    spelled = blake2b((tokenizer / bpe.FILE).read_bytes() + names, digest_size=16).hexdigest()
    opened = Store(store)
    record: dict[str, Any] = {"tokenizer": str(tokenizer.resolve()), "spelled": spelled, "packs": opened.names}
    opened.close()
    folder = parts.prepare(home, "encode", store, {**record, "source": opened.cursor["made_by"]})
    atomic.write(folder / HELD, names)
    for each in parts.each(folder, execute, tell):
        yield _loaded(each / FILE)
    remove(folder)


def make(folder: Path, job: parts.Job, number: int) -> parts.Finish:
    """See parts.Kind."""
    if is_done(folder, number):
        return lambda: None
    encoder = _encoder(Path(job["tokenizer"]), job["spelled"])
    names = json.loads((folder / HELD).read_bytes())
    held = HeldByName() if names is None else frozenset[str](names)
    store = parts.store_of(job["store"], folder.name)
    piece = joined(list(pieces(parts.documents(store, job, number), held, encoder)))

    def finish() -> None:
        with atomic.replacing(parts.place(folder, number) / FILE) as file:
            arrays = (getattr(each, what) for each in piece.values() for what in WHAT)
            for array in (np.array(list(piece), np.str_), *arrays):
                np.save(file, array, allow_pickle=False)

    return finish


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return (parts.place(folder, number) / FILE).exists()


def make_ready() -> None:
    """Make what is the same for every tokenizer; what is missing is missed when it is needed."""
    bytelevel.classes()
    with suppress(ImportError):
        importlib.import_module("tokenizers")


@functools.lru_cache(1)
def _encoder(tokenizer: Path, _: str) -> Encoder:
    """One for all parts of a job that a process makes: it remembers the words it met."""
    return Encoder(bpe.load(tokenizer))


def _loaded(path: Path) -> Mapping[str, Piece]:
    with path.open("rb") as file:
        names: Sequence[str] = np.load(file, allow_pickle=False).tolist()
        return {name: Piece(*(np.load(file, allow_pickle=False) for _ in WHAT)) for name in names}
