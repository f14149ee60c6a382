"""Documents into one flat stream of tokens per split, and the manifest that makes it a token file (docs/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
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

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION = 2
MANIFEST = "manifest.json"
FILES = ("train.bin", "train.ends", "held.bin", "held.ends")
HELD = 0.02  # share of documents, not of positions: a held-out text is never seen in part
LEAST_HELD = 4096  # bytes: ten sequences of 128 tokens, so that a perplexity can be taken of a small corpus too
BATCH = 1 << 20  # characters encoded at once: few calls, little memory


def held_out(sizes: Mapping[str, int]) -> frozenset[str]:
    """Documents kept for measuring: those whose name's hash lies in the first HELD of all hashes.

    sizes  bytes of each document by name; where the chosen have fewer than LEAST_HELD, the next ones in hash order join
    Copies of one document count as one, so that none of them is learned when another is held out.
    Never more than half of the documents, so that of two or more at least one is held out.
    """
    places = {
        key: int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"held").digest(), "big")
        for key in map(original, sizes)
    }
    chosen: list[str] = []
    gathered = 0
    for key in sorted(places, key=lambda key: (places[key], key))[: len(places) // 2]:
        if places[key] >= HELD * 2**64 and gathered >= LEAST_HELD:
            break
        chosen.append(key)
        gathered += sizes.get(key, 0)
    return frozenset(chosen)


def encode(documents: Iterable[Document], held: frozenset[str], tokenizer: Tokenizer, folder: Path,
           record: dict[str, Any], total: int, tell: Tell) -> dict[str, Any]:  # fmt: skip
    """Write streams, ends of documents and tokenizer, then the manifest; until that is there, there is no token file.

    documents  in the order their tokens shall have, each followed by the end token
    record     what the manifest keeps besides: where the text came from
    total      how many documents there are, for telling how far it is
    Returns the manifest. Raises DiskFull.
    """
    vocab = tokenizer.get_vocab_size()
    dtype = np.dtype("<u2" if vocab <= 2**16 else "<u4")
    end, encoder = int(tokenizer.token_to_id(bpe.END) or 0), Encoder(tokenizer)
    (folder / MANIFEST).unlink(missing_ok=True)
    bpe.save(tokenizer, folder)
    with ExitStack() as files:
        opened = {name: files.enter_context(atomic.replacing(folder / name)) for name in FILES}
        splits = {name: _Split(opened[f"{name}.bin"], opened[f"{name}.ends"], vocab) for name in ("train", "held")}
        for batch in batches(documents, BATCH):
            for document, ids in zip(batch, encoder.arrays([each.text for each in batch]), strict=True):
                name = "held" if original(document.key) in held else "train"
                splits[name].add(np.append(ids, end).astype(dtype))
            done = sum(split.documents for split in splits.values())
            tell(f"{sum(split.tokens for split in splits.values()):,} tokens", done / total)
    manifest = {
        "tokens": VERSION, "dtype": dtype.name, "vocab": vocab, "end": end,
        "unigram_entropy": splits["train"].entropy(),
        "splits": {name: split.as_dict(name) for name, split in splits.items()}, **record,
    }  # fmt: skip
    atomic.write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


class _Split:
    """Owns what is known of one stream while it is written."""

    def __init__(self, file: BinaryIO, ends: BinaryIO, vocab: int) -> None:
        self._file, self._digest = file, blake2b(digest_size=16)
        self._ends, self._ends_digest = ends, blake2b(digest_size=16)
        self._counts = np.zeros(vocab, np.int64)
        self.tokens = self.documents = 0

    def add(self, ids: npt.NDArray[Any]) -> None:
        raw = ids.tobytes()
        self._file.write(raw)
        self._digest.update(raw)
        self._counts += np.bincount(ids, minlength=len(self._counts))
        self.tokens += len(ids)
        self.documents += 1
        end = self.tokens.to_bytes(8, "little")
        self._ends.write(end)
        self._ends_digest.update(end)

    def entropy(self) -> float:
        """Nats per token of the best guess that knows only how frequent each token is."""
        share = self._counts[self._counts > 0] / max(self.tokens, 1)
        return float(-(share * np.log(share)).sum())

    def as_dict(self, name: str) -> dict[str, Any]:
        return {"file": f"{name}.bin", "tokens": self.tokens, "documents": self.documents,
                "blake2b": self._digest.hexdigest(), "ends": f"{name}.ends",
                "ends_blake2b": self._ends_digest.hexdigest()}  # fmt: skip
