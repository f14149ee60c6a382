"""Batches out of a token file: which sequences stand in a batch is a pure function of the step.

The stream is cut into windows of `seq` tokens, or its documents are packed into sequences (packing.py); each epoch has
every one once, in an order of its own. Nothing is stored but the seed, so a run resumes at any step with any number of
ranks: each takes its rows of the same batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from danlu.data.order import permute
from danlu.data.packing import pack
from danlu.data.stream import Stream
from danlu.data.token_file import manifest_of, small
from danlu.errors import OtherTokens, TooFewTokens

Packing = Literal["cut", "best_fit"]
NO_TARGET = -100  # fills a sequence that is not full: torch's cross_entropy leaves it out; clamp inputs at 0


class Loader:
    """Owns one split of a token file, held open.

    windows  sequences in one epoch
    padding  share of their places that no token fills
    Raises TooFewTokens, DamagedTokens, NewerFormat on opening; later DamagedTokens when the file is cut or removed, and
    by whoever is the first to read of a block that has another checksum than when it was written.
    """

    def __init__(self, folder: Path, *, seq: int, batch: int, seed: int, split: str = "train",
                 packing: Packing = "cut") -> None:  # fmt: skip
        """Open it; `best_fit` costs a sort of all documents, on every opening.

        seq, batch  tokens per sequence, sequences per batch; seed  of the order; split  "train" or "held"
        packing     cut: windows of the stream, one after the other; best_fit: see packing.py
        """
        self.manifest = manifest_of(folder)
        found = self.manifest["splits"][split]
        self.tokens: int = found["tokens"]
        sums = np.frombuffer(small(folder / found["crc"], found["crc_blake2b"]), "<u4") if "crc" in found else None
        self._stream = Stream(folder / found["file"], self.manifest["dtype"], self.tokens, sums)
        self._packed = pack(self._ends(folder, found), seq) if packing == "best_fit" else None
        self.windows = max(0, self.tokens - 1) // seq if self._packed is None else self._packed.sequences
        if self.windows < batch:
            raise TooFewTokens(
                f"{self.tokens:,} {split} tokens are fewer than one batch",
                where=str(folder),
                why=f"{batch} sequences of {seq} need {batch * seq + 1:,}",
                fix="give more text, or lower plan.micro_batch, plan.micro_batches or data.seq",
            )
        self.padding = 0.0 if self._packed is None else 1 - self.tokens / (self.windows * seq)
        self._seq, self._batch, self._seed = seq, batch, seed
        self._state = {"blake2b": found["blake2b"], "split": split, "seq": seq, "batch": batch, "seed": seed,
                       "packing": packing}  # fmt: skip

    def batch_at(self, step: int) -> npt.NDArray[np.int64]:
        """Token ids of step 0, 1, ...: (batch, seq + 1); inputs lack the last column, targets the first.

        Of a packed sequence every token is a target once; the first input is what stands before it in the stream, and
        NO_TARGET fills what is left. Raises DamagedTokens.
        """
        self._stream.check()
        places = np.arange(step * self._batch, (step + 1) * self._batch, dtype=np.uint64)
        epochs, inside = np.divmod(places, np.uint64(self.windows))
        numbers = np.empty(self._batch, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = permute(inside[here], self.windows, (self._seed << 32) + int(epoch))
        if self._packed is not None:
            return np.stack([self._sequence(number) for number in numbers.tolist()])
        return np.stack([self._stream.read(number * self._seq, self._seq + 1) for number in numbers.tolist()])

    def _sequence(self, number: int) -> npt.NDArray[np.int64]:
        assert self._packed is not None
        ids = np.full(self._seq + 1, NO_TARGET, np.int64)
        filled, (first, last) = 1, self._packed.edges[number : number + 2]
        starts, sizes = self._packed.starts[first:last].tolist(), self._packed.sizes[first:last].tolist()
        ids[0] = self._stream.read(starts[0] - 1, 1)[0] if starts[0] else self.manifest["end"]
        for start, size in zip(starts, sizes, strict=True):
            ids[filled : filled + size] = self._stream.read(start, size)
            filled += size
        return ids

    def _ends(self, folder: Path, split: dict[str, Any]) -> npt.NDArray[np.int64]:
        """Where each document ends. A file of version 1 does not say: its tokens are searched for the end token.

        Raises DamagedTokens: one changed end would give lengths that no packing could be made of, or another order.
        """
        if "ends" not in split:
            stream = np.fromfile(folder / split["file"], np.dtype(self.manifest["dtype"]).newbyteorder("<"))
            return np.flatnonzero(stream == self.manifest["end"]) + 1
        return np.frombuffer(small(folder / split["ends"], split["ends_blake2b"]), "<u8").astype(np.int64)

    def state(self) -> dict[str, Any]:
        """All that a resumed run must share with this one, besides its step; below 1 KB of JSON."""
        return dict(self._state)

    def check(self, state: dict[str, Any]) -> None:
        """Raise OtherTokens unless `state`, from an earlier run's loader, gives the same batches."""
        for name, was in {"packing": "cut", **state}.items():  # runs from before there was a choice were cut
            if self._state.get(name) != was:
                raise OtherTokens(
                    f"the data differs in {name!r} from the run that is to be resumed",
                    why=f"it was {was!r}, now it is {self._state.get(name)!r}",
                    fix="go on with the same data section and seed, or start anew: --train.resume false",
                )
