"""What stands in a test set must not be learned: documents that share a long run of words with one go.

Brown et al. 2020 (arXiv:2005.14165, appendix C) take 13 words; a Chinese character counts as a word. As many 5-word
shingles in a row as a run has, all of them the test set's, only propose it: they may stand there in other places, as
they often do in Chinese. A document goes if they stand there in a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data import minhash
from danlu.data.document import Document, Drop, Step, batches
from danlu.data.sign import sign
from danlu.errors import BadValue

WORDS = 13
BATCH = 1 << 20  # characters hashed at once
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: neighbours do not cancel


def settled(options: Any) -> dict[str, Any]:
    """The options in full, with a digest of the test sets: other test sets make other text. Raises BadValue."""
    paths, words = _meant(options)
    digest = blake2b(digest_size=16)
    for path in paths:
        for file in _files(path):
            digest.update(blake2b(_bytes(file)).digest())
    return {"tests": [str(path.absolute()) for path in paths], "words": words, "digest": digest.hexdigest()}


def configured(options: Any) -> Step:
    """`decontaminate: {tests: [mmlu.jsonl, folder], words: 13}`. Raises BadValue for a missing or empty test set."""
    paths, words = _meant(options)
    run = words - minhash.SHINGLE + 1
    texts = _shingles([text for path in paths for text in _texts(path)])
    known = _all([each for each in texts if len(each) >= run])  # a shorter text says too little to be found by
    runs = _all([_runs(each, run) for each in texts])

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        for batch in batches(documents, BATCH):
            signed = sign([document.text.encode() for document in batch])
            for document, shingles in zip(batch, np.split(signed.flat, signed.starts[1:]), strict=True):
                longest = _longest(np.isin(shingles, known))
                if longest >= run:
                    longest = _longest(np.isin(_runs(shingles, run), runs)) + run - 1
                if longest >= run:
                    drop(
                        document,
                        f"{longest + minhash.SHINGLE - 1} words in a row stand in a test set, limit {words - 1}",
                    )
                else:
                    yield document

    return step


def _meant(options: Any) -> tuple[list[Path], int]:
    """The test sets, and how many words are a run."""
    given = options if isinstance(options, dict) else {"tests": options}
    words, tests = given.get("words", WORDS), given.get("tests")
    paths = [Path(each).expanduser() for each in ([tests] if isinstance(tests, str) else tests or ())]
    if set(given) - {"tests", "words", "digest"} or not isinstance(words, int) or words < minhash.SHINGLE or not paths:
        raise BadValue("decontaminate needs test sets", why=f"it was given {options!r}; words: from {minhash.SHINGLE}",
                       fix="decontaminate: {tests: [tests/], words: 13}")  # fmt: skip
    return paths, words


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BadValue:
    return BadValue(f"cannot read the test set {file}", why=str(error), fix=f"check it: ls -l {file}")


def _texts(path: Path) -> Iterator[str]:
    """Every text of a test set: a file's, a folder's, each string of a JSON line."""
    for file in _files(path):
        text = _bytes(file).decode(errors="replace")
        if file.suffix != ".jsonl":
            yield text
            continue
        for line in filter(str.strip, text.splitlines()):
            try:
                yield from _strings(json.loads(line))
            except ValueError as error:
                raise _unreadable(file, error) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _shingles(texts: list[str]) -> list[minhash.Hashes]:
    """The shingles of each text of the test sets."""
    if not texts:
        raise BadValue("the test sets are empty", why="no text is in them", fix="check decontaminate.tests")
    signed = sign([text.encode() for text in texts])
    return np.split(signed.flat, signed.starts[1:])


def _all(parts: list[minhash.Hashes]) -> minhash.Hashes:
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def _runs(shingles: minhash.Hashes, run: int) -> minhash.Hashes:
    """A hash of every `run` shingles in a row."""
    found = np.zeros(max(len(shingles) - run + 1, 0), np.uint64)
    for first in range(run if len(found) else 0):
        found = found * _ODD + shingles[first : first + len(found)]
    return found


def _longest(hits: npt.NDArray[np.bool_]) -> int:
    """Length of the longest run of hits."""
    edges = np.flatnonzero(np.diff(hits.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max(initial=0))
