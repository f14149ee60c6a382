"""A document, its record in the store, and the funnel that counts what becomes of every document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, BinaryIO, Protocol

from danlu.store.hashing import hash_many

COPY = "#copy"  # what the name of a document taken more than once has before its number
_quoted = json.encoder.encode_basestring  # a string as json.dumps(ensure_ascii=False) has it, in a tenth of the time
EXAMPLES = 3  # dropped documents remembered per rule


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text with a name; `meta` says where it came from."""

    key: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


class Drop(Protocol):
    """What a step calls for each document it takes out: `why` has the number, `rule` the name of one of several."""

    def __call__(self, document: Document, why: str, rule: str = "") -> None:
        """Count the document and remember it as an example."""


class Step(Protocol):
    """A filter: documents in, documents out, each in turn. One file of danlu/data/steps holds one, named `step`."""

    def __call__(self, documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        """Yield what stays, changed or not; call `drop` for what does not."""


def original(key: str) -> str:
    """The name of the document that a key is a copy of; its own for one that is none."""
    name, mark, number = key.rpartition(COPY)
    return name if mark and number.isdigit() else key


def rule(verdict: Callable[[str], str | None]) -> Step:
    """A step out of a pure verdict on one text: why it must go (with the number), or None if it may stay."""

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            why = verdict(document.text)
            if why is None:
                yield document
            else:
                drop(document, why)

    return step


def to_record(document: Document) -> tuple[bytes, bytes]:
    """Key and value as docs/formats.md has them: one line of JSON, then the text."""
    meta = json.dumps(document.meta, ensure_ascii=False) if document.meta else ""
    return document.key.encode(), f"{meta}\n{document.text}".encode()


def from_record(key: bytes, value: bytes) -> Document:
    """The document that `to_record` wrote."""
    meta, _, text = value.decode().partition("\n")
    return Document(key.decode(), text, json.loads(meta) if meta else {})


def batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """The same documents in lists of about `size` characters; a long document ends its list."""
    batch: list[Document] = []
    gathered = 0
    for document in documents:
        batch.append(document)
        gathered += len(document.text)
        if gathered >= size:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch


def is_listed(key: str, share: float) -> bool:
    """Whether a list of that share of the documents names this one."""
    if share >= 1:
        return True
    digest = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, person=b"dropped").digest()
    return int.from_bytes(digest, "big") < share * 2**64


class Drops:
    """Owns what one pass over documents dropped, in whatever order they came, until it is told in hash order."""

    def __init__(self) -> None:
        self._found: list[tuple[bytes, str, str]] = []

    def drop(self, name: str, key: str, why: str) -> None:
        """As Funnel has it."""
        self._found.append((key.encode(), name, why))

    def into(self, funnel: Funnel) -> dict[str, list[tuple[int, str]]]:
        """Have an empty funnel count all, in hash order; gives the examples it has of each rule, with their hashes."""
        places: dict[str, list[int]] = {}
        hashes = hash_many([key for key, _, _ in self._found]).tolist()
        for place, (key, name, why) in sorted(zip(hashes, self._found, strict=True)):
            funnel.drop(name, key.decode(), why)
            places.setdefault(name, []).append(place)
        return {name: list(zip(places[name], found, strict=False)) for name, found in funnel.examples.items()}


@dataclass
class Funnel:
    """Counts of one pass: documents and bytes in, kept, and dropped by rule, with a few examples of each."""

    docs_in: int = 0
    bytes_in: int = 0
    docs_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    log: BinaryIO | None = field(default=None, compare=False)  # where drops are written too, one JSON object a line
    listed: float = field(default=1.0, compare=False)  # share of documents that the log names, by their hash

    def drop(self, name: str, key: str, why: str) -> None:
        """Count one dropped document."""
        self.dropped[name] += 1
        kept = self.examples.setdefault(name, [])
        if len(kept) < EXAMPLES:
            kept.append(f"{key}: {why}")
        if self.log is not None and is_listed(key, self.listed):
            line = f'{{"key": {_quoted(key)}, "rule": {_quoted(name)}, "why": {_quoted(why)}}}\n'
            self.log.write(line.encode())

    def join(self, other: Funnel) -> None:
        """Add the counts of documents that come after these."""
        self.docs_in += other.docs_in
        self.bytes_in += other.bytes_in
        self.docs_kept += other.docs_kept
        self.dropped.update(other.dropped)
        for name, found in other.examples.items():
            self.examples[name] = [*self.examples.get(name, ()), *found][:EXAMPLES]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"docs_in": self.docs_in, "bytes_in": self.bytes_in, "docs_kept": self.docs_kept,
                "dropped": dict(self.dropped), "examples": self.examples}  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Funnel:
        """The funnel that `as_dict` wrote."""
        return cls(values["docs_in"], values["bytes_in"], values["docs_kept"], Counter(values["dropped"]),
                   {name: list(found) for name, found in values["examples"].items()})  # fmt: skip
