"""The collectives that a kind of chip brings along: a torch.distributed back end over the ranks of one island.

A vendor's file says its name (fleet/vendors): "gloo" moves host memory; "nccl" is NVIDIA's, and AMD's RCCL, which torch
calls so, too; any other ("hccl", "cncl", "mccl", ...) is what that vendor's own torch plug-in registered. Only gloo was
ever run by us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from danlu.errors import NoNative, RankLost


def made(name: str, store: Any, rank: int, size: int, limit_s: float) -> Any:
    """torch's back end of that name over `size` ranks that share a store. Raises NoNative where this torch has none."""
    wait = timedelta(seconds=limit_s)
    plugged = dist.Backend._plugins.get(name.upper())
    if name == "gloo" and dist.is_gloo_available():
        return dist.ProcessGroupGloo(store, rank, size, timeout=wait)
    if name == "nccl" and dist.is_nccl_available():
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = wait
        return dist.ProcessGroupNCCL(store, rank, size, options)
    if plugged is not None and not plugged.extended_api:
        return plugged.creator_fn(store, rank, size, wait)
    known = [each for each in ("gloo", "nccl") if getattr(dist, f"is_{each}_available")()]
    raise NoNative(
        f"this torch has no collectives called {name!r}", where=f"torch {torch.__version__}",
        why=f"it has {', '.join([*known, *map(str.lower, dist.Backend._plugins)])}",
        fix="install the torch of that chip's vendor and import its plug-in first, or register(native='gloo')",
    )  # fmt: skip


class Native:
    """One island's back end: in-place sums and copies of tensors on `device`; members call the same in the same order.

    members  ranks of the job that are in the island, in order
    Every method raises RankLost when the back end gives up: it does not say which of the members was lost.
    """

    def __init__(self, backend: Any, members: Sequence[int], rank: int, device: torch.device) -> None:
        self.members, self.rank, self.size, self.device = tuple(members), rank, len(members), device
        self._backend = backend

    def all_reduce(self, tensor: Tensor) -> None:
        """Tensor becomes the sum over members."""
        self._done(lambda: self._backend.allreduce([tensor], dist.AllreduceOptions()))

    def reduce(self, tensor: Tensor) -> None:
        """The first member's tensor becomes the sum; the others' hold nothing of use."""
        options = dist.ReduceOptions()
        options.rootRank = 0
        self._done(lambda: self._backend.reduce([tensor], options))

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Tensor becomes that of the member number `root`."""
        options = dist.BroadcastOptions()
        options.rootRank = root
        self._done(lambda: self._backend.broadcast([tensor], options))

    def abort(self) -> None:
        """Wake a collective that waits, where the back end can."""
        if hasattr(self._backend, "abort"):
            self._backend.abort()

    def close(self) -> None:
        """Leave; a card's back end gives its memory back."""
        if hasattr(self._backend, "shutdown"):
            self._backend.shutdown()

    def _done(self, call: Callable[[], Any]) -> None:
        try:
            call().wait()
        except RuntimeError as error:
            raise RankLost(
                f"the {self._backend.name()} collectives of an island broke",
                where=f"one of ranks {list(self.members)}",
                why=str(error).splitlines()[0],
                fix="look at these ranks' logs; start the job anew from its last checkpoint",
            ) from error  # fmt: skip
