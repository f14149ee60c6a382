"""Documents into one flat stream of tokens per split, and the manifest that makes it a token file (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from danlu import atomic
from danlu.data import bpe
from danlu.data.document import Document, batches, original
from danlu.data.encoder import Encoder
from danlu.data.ingest import Tell
from danlu.data.token_file import MANIFEST, SPLITS, TOKENIZER, Sums, digest_of, manifest_of, sealed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENDINGS = ("bin", "ends", "crc")
HELD = 0.02  # share of documents, not of positions: a held-out text is never seen in part
LEAST_HELD = 4096  # bytes: ten sequences of 128 tokens, so that a perplexity can be taken of a small corpus too
MANY = 1000  # documents of which never half are below HELD by chance, nor by anything near it
BATCH = 1 << 20  # characters encoded at once: few calls, little memory


def held_out(sizes: Mapping[str, int]) -> frozenset[str]:
    """Documents kept for measuring: those whose name's hash lies in the first HELD of all hashes.

    sizes  bytes of each document by name; where the chosen have fewer than LEAST_HELD, the next ones in hash order join
    Copies of one document count as one, so that none of them is learned when another is held out.
    Never more than half of the documents, so that of two or more at least one is held out.
    """
    places = {key: _place(key) for key in map(original, sizes)}
    chosen: list[str] = []
    gathered = 0
    for key in sorted(places, key=lambda key: (places[key], key))[: len(places) // 2]:
        if places[key] >= HELD * 2**64 and gathered >= LEAST_HELD:
            break
        chosen.append(key)
        gathered += sizes.get(key, 0)
    return frozenset(chosen)


class HeldByName:
    """What `held_out` gives of many documents: those in it say so by their names alone, so that nobody lists them."""

    def __contains__(self, name: object) -> bool:
        return _place(str(name)) < HELD * 2**64


def _place(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"held").digest(), "big")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some documents of a split: their token ids, and where each ends in them, after its end token.

    counts  how often each token of the vocabulary is there
    """

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    ends: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


def pieces(documents: Iterable[Document], held: Container[str], encoder: Encoder) -> Iterator[dict[str, Piece]]:
    """The tokens of documents by split, a batch at a time, in the order given, each followed by the end token."""
    dtype, end = _dtype(encoder.tokenizer), int(encoder.tokenizer.token_to_id(bpe.END) or 0)
    vocab = encoder.tokenizer.get_vocab_size()
    for batch in batches(documents, BATCH):
        ids, ends = encoder.ended([each.text for each in batch], end)
        ids, is_held = ids.astype(dtype), np.array([original(each.key) in held for each in batch])
        sizes = np.diff(ends, prepend=0)
        whose = np.repeat(is_held, sizes)
        chosen = {"train": (ids[~whose], sizes[~is_held]), "held": (ids[whose], sizes[is_held])}
        yield {name: Piece(own, np.cumsum(lengths), np.bincount(own, minlength=vocab))
               for name, (own, lengths) in chosen.items() if len(lengths)}  # fmt: skip


def joined(every: Sequence[Mapping[str, Piece]]) -> dict[str, Piece]:
    """The same documents in one piece of each split that has some."""
    found = {}
    for name in SPLITS:
        own = [each[name] for each in every if name in each]
        starts = np.cumsum([0, *(len(each.ids) for each in own)])
        if own:
            ends = [start + each.ends for start, each in zip(starts, own, strict=False)]
            counts = np.sum([each.counts for each in own], axis=0)
            found[name] = Piece(np.concatenate([each.ids for each in own]), np.concatenate(ends), counts)
    return found


def encode(documents: Iterable[Document], held: Container[str], tokenizer: Tokenizer, folder: Path,
           record: dict[str, Any], total: int, tell: Tell) -> dict[str, Any]:  # fmt: skip
    """Write the token file of documents, in the order their tokens shall have: see `write`."""
    bpe.save(tokenizer, folder)
    return write(pieces(documents, held, Encoder(tokenizer)), tokenizer, folder, record, total, tell)


def write(made: Iterable[Mapping[str, Piece]], tokenizer: Tokenizer, folder: Path, record: dict[str, Any], total: int,
          tell: Tell) -> dict[str, Any]:  # fmt: skip
    """Write streams and ends of documents, then the manifest; until that is there, there is no token file.

    tokenizer  saved in `folder` before
    record     what the manifest keeps besides: where the text came from
    total      how many documents there are, for telling how far it is
    Returns the manifest. Raises DiskFull.
    """
    vocab = tokenizer.get_vocab_size()
    (folder / MANIFEST).unlink(missing_ok=True)
    with ExitStack() as files:
        splits = {}
        for name in SPLITS:
            every = (atomic.replacing(folder / f"{name}.{each}", lasting=False) for each in ENDINGS)
            stream, ends, sums = map(files.enter_context, every)
            splits[name] = _Split(stream, ends, sums, vocab)
        for each in made:
            for name, piece in each.items():
                splits[name].add(piece)
            done = sum(split.documents for split in splits.values())
            tell(f"{sum(split.tokens for split in splits.values()):,} tokens", done / total)
        described = {name: split.finished(name) for name, split in splits.items()}
    atomic.keep([folder, *(folder / f"{name}.{each}" for name in SPLITS for each in ENDINGS)])
    manifest = {
        "dtype": _dtype(tokenizer).name, "vocab": vocab,
        "end": int(tokenizer.token_to_id(bpe.END) or 0),
        "unigram_entropy": splits["train"].entropy(),
        "splits": described, TOKENIZER: digest_of(folder / TOKENIZER), **record,
    }  # fmt: skip
    atomic.write(folder / MANIFEST, sealed(manifest))
    return manifest_of(folder)


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if tokenizer.get_vocab_size() <= 2**16 else "<u4")


class _Split:
    """Owns what is known of one stream while it is written."""

    def __init__(self, file: BinaryIO, ends: BinaryIO, sums: BinaryIO, vocab: int) -> None:
        self._file, self._digest, self._blocks = file, blake2b(digest_size=16), Sums()
        self._ends, self._ends_digest = ends, blake2b(digest_size=16)
        self._sums = sums
        self._counts = np.zeros(vocab, np.int64)
        self.tokens = self.documents = 0

    def add(self, piece: Piece) -> None:
        raw, ends = piece.ids.view(np.uint8).data, (self.tokens + piece.ends).astype("<u8").tobytes()
        self._file.write(raw)
        self._digest.update(raw)
        self._blocks.add(raw)
        self._ends.write(ends)
        self._ends_digest.update(ends)
        self._counts += piece.counts
        self.tokens += len(piece.ids)
        self.documents += len(piece.ends)

    def entropy(self) -> float:
        """Nats per token of the best guess that knows only how frequent each token is."""
        share = self._counts[self._counts > 0] / max(self.tokens, 1)
        return float(-(share * np.log(share)).sum())

    def finished(self, name: str) -> dict[str, Any]:
        """Write the checksums; returns what the manifest says of this split."""
        sums = self._blocks.array().tobytes()
        self._sums.write(sums)
        return {"file": f"{name}.bin", "tokens": self.tokens, "documents": self.documents,
                "blake2b": self._digest.hexdigest(), "ends": f"{name}.ends",
                "ends_blake2b": self._ends_digest.hexdigest(), "crc": f"{name}.crc",
                "crc_blake2b": blake2b(sums, digest_size=16).hexdigest()}  # fmt: skip
