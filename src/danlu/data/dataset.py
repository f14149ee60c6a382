"""The loader for any torch training loop: an IterableDataset whose order depends on seed and step alone.

Every rank gives its rows of each batch; the workers of a DataLoader take steps in turn, so what arrives is the same
with any number of them. Use `DataLoader(dataset, batch_size=None, num_workers=n)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from danlu.data.loader import Loader, Packing
from danlu.errors import BadValue


class TokenBatches(IterableDataset[torch.Tensor]):
    """Batches of one rank, from step `start` on: int64 (batch / ranks, seq + 1), without end.

    seq, batch   tokens of a sequence, sequences of a batch over all ranks
    rank, ranks  which rows of the batch: any split that divides it gives the same batches
    packing      best_fit: documents are not cut, -100 fills what is left of a sequence: clamp the inputs at 0, and
                 cross_entropy leaves such targets out
    Raises BadValue, and what Loader raises.
    """

    def __init__(self, tokens: Path, *, seq: int, batch: int, seed: int, split: str = "train", rank: int = 0,
                 ranks: int = 1, start: int = 0, packing: Packing = "cut") -> None:  # fmt: skip
        if not 0 <= rank < ranks or batch % ranks:
            raise BadValue(
                f"a batch of {batch} cannot be split over {ranks} ranks for rank {rank}",
                why="every rank takes the same number of rows, and ranks count from 0",
                fix=f"give a batch that {ranks} divides, and a rank from 0 to {ranks - 1}",
            )
        self._given: dict[str, Any] = {"seq": seq, "batch": batch, "seed": seed, "split": split,
                                       "packing": packing}  # fmt: skip
        self._tokens, self._rows = tokens, slice(rank * batch // ranks, (rank + 1) * batch // ranks)
        self._start, self._state = start, Loader(tokens, **self._given).state()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Batches in order; in worker w of n those of the steps start + w, start + w + n, ..."""
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        load, step = Loader(self._tokens, **self._given), self._start + number
        while True:
            yield torch.from_numpy(load.batch_at(step)[self._rows].copy())
            step += count

    def state_dict(self, step: int) -> dict[str, Any]:
        """All a resumed run needs, below 1 KB; `step` is the number of batches the training loop has used.

        The loop knows it, the dataset cannot: a DataLoader's workers run ahead of what was used.
        """
        return {"step": step, **self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` says, with any ranks and workers. Raises OtherTokens if the batches would be others."""
        own = dict(state)
        self._start = int(own.pop("step"))
        Loader(self._tokens, **self._given).check(own)
