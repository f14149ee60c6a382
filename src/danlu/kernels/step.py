"""One step of an op program: which tokens, of which sequences, over which pages; and the memory it runs in.

Axes: T tokens of the step, R rows whose logits are wanted, G key-value heads, K width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.kernels import kv8


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens start..stop-1 of one sequence, whose keys and values of tokens 0..stop-1 lie in `pages` in order."""

    pages: Sequence[int]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one step computes: tokens of all pieces, flat in their order, and the rows whose logits are wanted."""

    tokens: Sequence[int]
    pieces: Sequence[Piece]
    wanted: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values in pages of `page` tokens: per layer one tensor of each, (slots, G, K), fp32, bf16 or fp16.

    In 8 bits (kernels/kv8.py) they are int8 (slots, G, K + 2), and edges bf16.
    edges  per layer what its convolutions over time look back at: (pages, C) each, empty without any
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    page: int
    edges: Sequence[Sequence[Tensor]] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """What follows from the pieces of a step, as the torch operators need it.

    positions_T  of each token in its own sequence
    slots_T      where its keys and values go
    """

    positions_T: Tensor
    slots_T: Tensor

    @staticmethod
    def of(step: Step, page: int) -> Places:
        """The places of a step over pages of `page` tokens."""
        positions = [i for piece in step.pieces for i in range(piece.start, piece.stop)]
        slots = [slot for piece in step.pieces for slot in slots_of(piece, page)[piece.start : piece.stop]]
        return Places(torch.tensor(positions), torch.tensor(slots))


def width(pages: Tensor) -> int:
    """K of one of a Cache's tensors."""
    return pages.shape[2] - kv8.UNIT_BYTES if pages.dtype == torch.int8 else pages.shape[2]


def slots_of(piece: Piece, page: int) -> list[int]:
    """Slot of every token of a piece's sequence up to its end."""
    return [piece.pages[i // page] * page + i % page for i in range(piece.stop)]
