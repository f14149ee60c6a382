"""Batches out of a token file: which sequences stand in a batch is a pure function of the step.

The stream is cut into windows of `seq` tokens; each epoch has every window once, in an order of its own. Nothing is
stored but the seed, so a run resumes at any step with any number of ranks: each takes its rows of the same batch.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.encode import MANIFEST, VERSION
from danlu.data.order import permute
from danlu.errors import DamagedTokens, NewerFormat, OtherTokens, TooFewTokens

FIX = "prepare them again: danlu prep run.yaml"


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a token file says of itself. Raises DamagedTokens if it is missing or incomplete, NewerFormat."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["tokens"] > VERSION:
            raise NewerFormat(
                f"{folder} is a token file of version {manifest['tokens']}",
                where=str(path),
                why=f"this danlu reads version {VERSION}",
                fix="update danlu: git pull",
            )
        width = np.dtype(manifest["dtype"]).itemsize
        for split in manifest["splits"].values():
            size = (folder / split["file"]).stat().st_size
            if size != split["tokens"] * width:
                raise DamagedTokens(
                    f"{split['file']} has the wrong size",
                    where=str(folder),
                    fix=FIX,
                    why=f"it has {size} bytes, {split['tokens']} tokens need {split['tokens'] * width}",
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedTokens("there is no whole token file", where=str(folder), why=str(error), fix=FIX) from error
    return manifest


def verify(folder: Path) -> None:
    """Read every token and compare with the manifest's digest. Raises DamagedTokens."""
    for name, split in manifest_of(folder)["splits"].items():
        digest = blake2b((folder / split["file"]).read_bytes(), digest_size=16).hexdigest()
        if digest != split["blake2b"]:
            raise DamagedTokens(
                f"the {name} tokens are damaged",
                where=str(folder / split["file"]),
                fix=FIX,
                why=f"their digest is {digest}, {split['blake2b']} was written",
            )


class Loader:
    """Owns one split of a token file, mapped into memory.

    windows  sequences in one epoch
    Raises TooFewTokens, DamagedTokens, NewerFormat on opening.
    """

    def __init__(self, folder: Path, *, seq: int, batch: int, seed: int, split: str = "train") -> None:
        """seq, batch  tokens per sequence, sequences per batch; seed  of the order; split  "train" or "held"."""
        self.manifest = manifest_of(folder)
        found = self.manifest["splits"][split]
        self.tokens: int = found["tokens"]
        self.windows = (self.tokens - 1) // seq
        if self.windows < batch:
            raise TooFewTokens(
                f"{self.tokens:,} {split} tokens are fewer than one batch",
                where=str(folder),
                why=f"{batch} sequences of {seq} need {batch * seq + 1:,}",
                fix="give more text, or lower plan.micro_batch, plan.micro_batches or data.seq",
            )
        self._stream = np.memmap(folder / found["file"], np.dtype(self.manifest["dtype"]).newbyteorder("<"), "r")
        self._seq, self._batch, self._seed = seq, batch, seed
        self._state = {"blake2b": found["blake2b"], "split": split, "seq": seq, "batch": batch, "seed": seed}

    def batch_at(self, step: int) -> npt.NDArray[np.int64]:
        """Token ids of step 0, 1, ...: (batch, seq + 1); inputs lack the last column, targets the first."""
        places = np.arange(step * self._batch, (step + 1) * self._batch, dtype=np.uint64)
        epochs, inside = np.divmod(places, np.uint64(self.windows))
        numbers = np.empty(self._batch, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = permute(inside[here], self.windows, (self._seed << 32) + int(epoch))
        rows = numbers[:, None] * self._seq + np.arange(self._seq + 1)
        ids: npt.NDArray[np.int64] = self._stream[rows].astype(np.int64)
        return ids

    def state(self) -> dict[str, Any]:
        """All that a resumed run must share with this one, besides its step; below 1 KB of JSON."""
        return dict(self._state)

    def check(self, state: dict[str, Any]) -> None:
        """Raise OtherTokens unless `state`, from an earlier run's loader, gives the same batches."""
        for name, was in state.items():
            if self._state.get(name) != was:
                raise OtherTokens(
                    f"the data differs in {name!r} from the run that is to be resumed",
                    why=f"it was {was!r}, now it is {self._state.get(name)!r}",
                    fix="go on with the same data section and seed, or start anew: --train.resume false",
                )
