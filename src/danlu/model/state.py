"""What attention remembers between calls, and what a pass must know about its tokens.

Axes of tensors, in all of this room, are letters at the end of a name:

    T tokens of all sequences, flat    R rows whose logits are wanted    D hidden    V vocabulary (of this share)
    H query heads    G key-value heads    K head size    B sequences    S tokens per sequence
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from danlu.kernels import wide


@dataclass(frozen=True, slots=True)
class Meta:
    """What a forward pass must know about its tokens.

    positions_T   int64 position of each token in its own sequence
    rows_R        int64 indices into T of the rows whose logits are wanted, None for all
    """

    positions_T: Tensor
    rows_R: Tensor | None = None


class State(Protocol):
    """What attention remembers. `layer` is the layer's number in the whole model; q and k are already rotated."""

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention of every token over its own sequence up to itself: o_THK."""
        ...

    def before(self, layer: int, number: int, x_TC: Tensor, meta: Meta) -> Tensor:
        """Each token's predecessor in its own sequence, zero before the first: (T, C).

        number  which of a layer's convolutions over time asks; C is its width
        """
        ...


class Causal:
    """State without a memory, for training and scoring: T = batch * seq, sequence by sequence."""

    def __init__(self, batch: int, seq: int) -> None:
        self.batch, self.seq = batch, seq
        self._masks_SS: dict[tuple[int, torch.device], Tensor] = {}

    def meta(self, rows_R: Tensor | None = None, device: str | torch.device = "cpu") -> Meta:
        """The Meta that goes with this state: every sequence starts at position 0."""
        return Meta(torch.arange(self.seq, device=device).repeat(self.batch), rows_R)

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention inside each sequence, over the last `window` tokens (the token itself counts) if there is one."""
        q, k, v = (x.view(self.batch, self.seq, *x.shape[1:]).transpose(1, 2) for x in (q_THK, k_TGK, v_TGK))
        mask = None if window is None or window >= self.seq else self._mask(window, q_THK.device)
        return wide.attention(q, k, v, mask, scale).transpose(1, 2).reshape(q_THK.shape)

    def before(self, layer: int, number: int, x_TC: Tensor, meta: Meta) -> Tensor:
        """The row above; zero where a sequence begins, and at a position 0: a document packed behind another."""
        kept_T = meta.positions_T.ne(0)
        kept_T.view(self.batch, self.seq)[:, 0] = False
        return x_TC.roll(1, 0) * kept_T[:, None]

    def _mask(self, window: int, device: torch.device) -> Tensor:
        if (window, device) not in self._masks_SS:
            row = torch.arange(self.seq, device=device)
            behind = row[:, None] - row[None, :]
            self._masks_SS[window, device] = (behind >= 0) & (behind < window)
        return self._masks_SS[window, device]
