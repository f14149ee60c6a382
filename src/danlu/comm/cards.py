"""Collectives of tensors where they lie: on the native back end inside an island, by the host between leaders.

Sums inside an island are the back end's, in its order; between islands in the order of islands, each chunk on its way
while the next one is summed (comm/crossing.py). Every rank gets the same bits; against the flat order they differ by
rounding, in the tensor's own element type inside an island.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from danlu.comm.crossing import sums
from danlu.comm.native import Native
from danlu.comm.shm import bad_counts
from danlu.comm.sockets import SocketGroup
from danlu.comm.staging import Staging, blank

CHUNK_BYTES = 1 << 20  # of what crosses at a time


class CardGroup:
    """Of `islands` (ranks by island, ascending) this rank is in one; every rank calls the same, in the same order.

    inner    the own island's back end
    leaders  group of the first ranks of all islands, in their order; None on any other rank, and of one island alone
    Raises what Native and SocketGroup raise.
    """

    def __init__(self, rank: int, islands: Sequence[Sequence[int]], inner: Native, leaders: SocketGroup | None) -> None:
        self.rank, self.size = rank, sum(len(each) for each in islands)
        self.islands = tuple(tuple(each) for each in islands)
        self._inner, self._leaders = inner, leaders
        self._home = next(i for i, each in enumerate(self.islands) if rank in each)
        self._staging = Staging(inner.device, CHUNK_BYTES)

    def all_reduce(self, tensor: Tensor) -> None:
        """Tensor becomes the sum over ranks."""
        here = self._here(tensor)
        if not here.numel():
            return
        if len(self.islands) == 1:
            self._inner.all_reduce(here)
        else:
            self._over_islands(_chunks(here))
        _back(here, tensor)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Tensor becomes the one of `root`: to its island, over the leaders, into the other islands."""
        if not 0 <= root < self.size:
            raise bad_counts("broadcast", (root,), tensor.numel(), self.size)
        source = next(i for i, each in enumerate(self.islands) if root in each)
        here = self._here(tensor)
        if self._home == source:
            self._inner.broadcast(here, self.islands[source].index(root))
        if self._leaders is not None:
            self._across(here, source)
        if self._home != source:
            self._inner.broadcast(here, 0)
        _back(here, tensor)

    def all_gather(self, part: Tensor, counts: Sequence[int]) -> Tensor:
        """The flat parts of all ranks, one after the other: a sum of bits, with zeros where another rank's lie."""
        if len(counts) != self.size or min(counts) < 0 or counts[self.rank] != part.numel():
            raise bad_counts("all_gather", counts, part.numel(), self.size)
        whole, start = part.new_zeros(sum(counts)), sum(counts[: self.rank])
        whole[start : start + part.numel()] = part.reshape(-1)
        self.all_reduce(whole.view(torch.uint8))
        return whole

    def reduce_scatter(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """This rank's part of the sum of flat tensors, cut by `counts`."""
        ends = list(accumulate(counts, initial=0))
        if len(counts) != self.size or min(counts) < 0 or ends[-1] != tensor.numel():
            raise bad_counts("reduce_scatter", counts, tensor.numel(), self.size)
        whole = tensor.reshape(-1).clone()
        self.all_reduce(whole)
        return whole[ends[self.rank] : ends[self.rank + 1]]

    def all_to_all(self, tensor: Tensor, sends: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
        """Cut the flat tensor into `sends` numbers by receiver; what came, by sender, and how many of each."""
        if len(sends) != self.size or min(sends) < 0 or sum(sends) != tensor.numel():
            raise bad_counts("all_to_all", sends, tensor.numel(), self.size)
        told = self.all_gather(torch.tensor(sends, device=tensor.device), [self.size] * self.size)
        table = told.view(self.size, self.size).tolist()
        totals = [sum(row) for row in table]
        whole, begins = self.all_gather(tensor, totals), list(accumulate(totals, initial=0))
        starts = [begins[r] + sum(table[r][: self.rank]) for r in range(self.size)]
        counts = tuple(int(row[self.rank]) for row in table)
        return torch.cat([whole[at : at + n] for at, n in zip(starts, counts, strict=True)]), counts

    def abort(self) -> None:
        """Wake a collective that waits."""
        self._inner.abort()
        if self._leaders is not None:
            self._leaders.abort()

    def close(self) -> None:
        """Leave the own island."""
        self._inner.close()

    def _over_islands(self, chunks: Sequence[Tensor]) -> None:
        """Each chunk becomes the sum over all: to the leader, over the leaders, back into the island."""
        if self._leaders is None:
            for chunk in chunks:
                self._inner.reduce(chunk)
            for chunk in chunks:
                self._inner.broadcast(chunk, 0)
            return
        hosts, mine = [blank(chunk) for chunk in chunks], self._staging.down(self._reduced(chunks))
        for chunk, host in zip(chunks, sums(self._leaders, hosts, mine), strict=True):
            self._staging.up(host, chunk)
            self._inner.broadcast(chunk, 0)

    def _reduced(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        for chunk in chunks:
            self._inner.reduce(chunk)
            yield chunk

    def _across(self, here: Tensor, source: int) -> None:
        """The source island's leader's tensor to the other leaders."""
        assert self._leaders is not None
        chunks = _chunks(here)
        hosts = list(self._staging.down(chunks)) if self._home == source else [blank(chunk) for chunk in chunks]
        for chunk, host in zip(chunks, hosts, strict=True):
            self._leaders.broadcast(host, source)
            if self._home != source:
                self._staging.up(host, chunk)

    def _here(self, tensor: Tensor) -> Tensor:
        """Flat on the island's own device: the tensor's own memory, or a copy where it lies elsewhere or has gaps."""
        return tensor.detach().to(self._inner.device).reshape(-1)


def _chunks(flat: Tensor) -> list[Tensor]:
    return list(torch.split(flat, CHUNK_BYTES // flat.element_size())) if flat.numel() else []


def _back(here: Tensor, tensor: Tensor) -> None:
    if here.data_ptr() != tensor.data_ptr() or here.device != tensor.device:
        tensor.detach().copy_(here.view(tensor.shape))
