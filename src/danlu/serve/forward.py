"""How a step of the engine is computed: by the decoder's modules on any card, or natively on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from danlu.errors import DanluError
from danlu.kernels.runner import Runner
from danlu.kernels.step import Step
from danlu.model.net import Decoder, Meta
from danlu.nouns import ModelSpec
from danlu.serve.kv import Paged


class Forward(Protocol):
    """Computes steps over KV pages that it writes itself."""

    @property
    def spec(self) -> ModelSpec:
        """The model's numbers."""
        ...

    def __call__(self, step: Step) -> Tensor:
        """Logits (R, V) of the wanted rows; valid until the next step."""
        ...


class Mendable(Protocol):
    """A Forward of several processes, which may be lost while this one stays."""

    def failure(self) -> DanluError | None:
        """Which of them has ended, or None while all run."""
        ...

    def mend(self) -> None:
        """Replace them all; what the pages held is lost. Raises what the first start raised."""
        ...


class Modules:
    """The decoder's torch modules, on the card that holds them."""

    def __init__(self, decoder: Decoder, kv: Paged, device: torch.device | str = "cpu") -> None:
        self.spec, self._decoder, self._kv, self._device = decoder.spec, decoder, kv, torch.device(device)

    def __call__(self, step: Step) -> Tensor:
        """Logits (R, V) of the wanted rows."""
        positions = [i for piece in step.pieces for i in range(piece.start, piece.stop)]
        meta = Meta(self._int64(positions), self._int64(step.wanted))
        logits: Tensor = self._decoder(self._int64(step.tokens), self._kv.at(step.pieces), meta)
        return logits

    def _int64(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


class Native:
    """The op program of the model: a whole step is one native call."""

    def __init__(self, runner: Runner, spec: ModelSpec) -> None:
        self.spec, self._runner = spec, runner

    def __call__(self, step: Step) -> Tensor:
        """Logits (R, V) of the wanted rows; valid until the next step."""
        return self._runner.run(step)
