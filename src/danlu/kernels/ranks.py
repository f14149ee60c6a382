"""What an op program needs of the processes that share its model; comm/shm.py has it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Ranks(Protocol):
    """This process among `size` that run the same steps, each with its own share of the weights."""

    rank: int
    size: int

    @property
    def handle(self) -> int:
        """Address of the native end (struct danlu_shm), that the engine reduces with."""
        ...

    def all_reduce(self, array: Any) -> None:
        """A float32 array becomes the sum over ranks."""
        ...

    def all_gather(self, part: Any, counts: Sequence[int]) -> Any:
        """The parts of all ranks, one after the other."""
        ...

    def missed(self, status: int, rank: int, waited_s: float) -> None:
        """The native end came back with that status (csrc/core/status.h) about that rank after so many seconds.

        Returns when waiting on may help, else raises what the rank's end means.
        """
        ...
