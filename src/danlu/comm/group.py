"""What a group of ranks can do together, whatever carries it: shared memory, sockets, or islands of either.

Counts may differ from rank to rank (ragged); every sum is added in the order of ranks. Arrays are contiguous numpy
arrays of a kind in comm/numbers.py; bf16 travels as uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from danlu.comm.numbers import Array


class Group(Protocol):
    """Collectives over `size` ranks, of which this one is `rank`; every rank calls the same, in the same order.

    All of them raise LateRank naming who did not come within the limit, PeerLost when a rank is dead, Aborted after
    `abort`, and BadMessage when ranks call different things. A group that raised
    is of no more use: rebuild it (comm/team.py).
    """

    rank: int
    size: int

    def all_reduce(self, array: Array) -> None:
        """Array becomes the sum over ranks."""

    def reduce_scatter(self, array: Array, counts: Sequence[int]) -> Array:
        """Sum over ranks of the flat array, cut into `counts` elements by rank: this rank's part."""

    def all_gather(self, part: Array, counts: Sequence[int]) -> Array:
        """The parts of all ranks one after the other; rank r gives counts[r] elements."""

    def broadcast(self, array: Array, root: int) -> None:
        """Array becomes the one of `root`."""

    def all_to_all(self, array: Array, sends: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """Cut the flat array into `sends` elements by receiver; what came, by sender, and how many of each."""

    def abort(self) -> None:
        """Wake a collective that waits, from another thread."""

    def close(self) -> None:
        """Give back what the group holds."""
