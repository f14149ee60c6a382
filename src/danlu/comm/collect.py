"""Sums over ranks in a fixed order, so that every rank, and every run, gets the same bits.

The vectors here are a few numbers: everyone sends to everyone, one hop. Rings and islands for large ones come with
uneven data parallelism.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from danlu.comm.header import Tag
from danlu.comm.wire import Message, Wire


def all_sum(wire: Wire, vector: np.ndarray, tag: Tag, sent: float = 0.0) -> tuple[np.ndarray, float]:
    """Sum of an fp64 vector over all ranks of the wire, added in rank order.

    sent  end of the instruction that made the vector, on this rank's clock
    Returns the sum and the moment it was ready (0.0 without paced links). Raises what Wire.take raises.
    """
    share_all(wire, vector, tag, sent)
    return gather_sum(wire, vector, tag)


def share_all(wire: Wire, vector: np.ndarray, tag: Tag, sent: float = 0.0) -> None:
    """Send this rank's part of a sum to everyone; `gather_sum` collects theirs."""
    assert vector.dtype == np.float64
    for peer in wire.peers:
        wire.post(peer, tag, vector, "fp64", vector.shape, sent)


def gather_sum(wire: Wire, vector: np.ndarray, tag: Tag) -> tuple[np.ndarray, float]:
    """Wait for everyone's part and add them in rank order, this rank's own `vector` included."""
    ready, total = 0.0, np.zeros_like(vector)
    for rank in sorted((*wire.peers, wire.rank)):
        if rank == wire.rank:
            total += vector
            continue
        message = wire.take(rank, tag, "fp64", vector.shape)
        total += np.frombuffer(message.body, np.float64).reshape(vector.shape)
        ready = max(ready, message.header.ready)
        wire.recycle(message.body)
    return total, ready


def exchange(
    wire: Wire, peer: int, body: Any, tag: Tag, dtype: str, shape: tuple[int, ...], sent: float = 0.0
) -> Message:
    """Send a tensor to one peer and take its counterpart. Two terms have one sum, whichever end adds them."""
    wire.post(peer, tag, body, dtype, shape, sent)
    return wire.take(peer, tag, dtype, shape)
