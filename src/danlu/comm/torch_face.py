"""torch's face on danlu's groups: the ProcessGroup that DDP, FSDP2, DTensor and plain collectives call."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from danlu.comm.cards import CardGroup
from danlu.comm.chips import Chips
from danlu.comm.header import Tag
from danlu.comm.hosted import Hosted, as_array
from danlu.comm.mesh import PeerLost
from danlu.comm.numbers import name_of
from danlu.comm.team import Team
from danlu.errors import BadMessage, RankLost

NAME = "danlu"
_Base: Any = dist.ProcessGroup  # its stubs name what only the C++ back ends take
_C10D: Any = torch._C._distributed_c10d
_FOLD: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    dist.ReduceOp.MAX: torch.maximum, dist.ReduceOp.MIN: torch.minimum, dist.ReduceOp.PRODUCT: torch.mul,
    dist.ReduceOp.BAND: torch.bitwise_and, dist.ReduceOp.BOR: torch.bitwise_or, dist.ReduceOp.BXOR: torch.bitwise_xor,
}  # fmt: skip


class DanluGroup(_Base):  # type: ignore[misc]
    """torch's face on a Team's group. Calls of one rank may come from several threads, in the same order everywhere."""

    def __init__(self, rank: int, size: int, team: Team, chips: Chips) -> None:
        super().__init__(rank, size)
        self._rank, self._size, self._team = rank, size, team
        group = team.form()
        self._group: Hosted | CardGroup = chips.group(team) or Hosted(group)
        self._lock, self._counts = threading.RLock(), Counter[tuple[str, int, int]]()
        self._name = self._desc = ""

    def getBackendName(self) -> str:
        """For torch."""
        return NAME

    def setGroupName(self, name: str) -> None:
        """torch keeps a group's name in a back end of C++, which this has none of; meshes and FSDP2 ask for it."""
        self._name = name

    def getGroupName(self) -> str:
        """The name that torch gave."""
        return self._name

    def setGroupDesc(self, desc: str) -> None:
        """As with the name."""
        self._desc = desc

    def getGroupDesc(self) -> str:
        """The description that torch gave."""
        return self._desc

    def allreduce(self, tensors: Sequence[Tensor], opts: Any = None) -> Any:
        """Each tensor becomes the reduction over ranks; sums in the order of ranks."""
        operator = _kind(opts)
        with self._one_call():
            for tensor in tensors:
                self._reduce(tensor, operator)
        return _done(tensors)

    def reduce(self, tensors: Sequence[Tensor], opts: Any) -> Any:
        """The same, wanted on one rank only."""
        if self._rank == opts.rootRank:
            return self.allreduce(tensors, opts)
        self.allreduce([tensor.clone() for tensor in tensors], opts)
        return _done(tensors)

    def broadcast(self, tensors: Sequence[Tensor], opts: Any) -> Any:
        """Each tensor becomes the root's."""
        with self._one_call():
            for tensor in tensors:
                self._group.broadcast(tensor, opts.rootRank)
        return _done(tensors)

    def allgather(self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None) -> Any:
        """outputs[i][r] becomes inputs[i] of rank r."""
        with self._one_call():
            for out, mine in zip(outputs, inputs, strict=True):
                for each, came in zip(out, self._gather(mine, [part.numel() for part in out]), strict=True):
                    each.copy_(came.view(each.shape))
        return _done(outputs[0])

    def all_gather_single(self, output: Tensor, mine: Tensor, opts: Any = None) -> Any:
        """`output` becomes the tensors of all ranks, one after the other."""
        with self._one_call():
            output.copy_(torch.cat(self._gather(mine, [mine.numel()] * self._size)).view(output.shape))
        return _done([output])

    def gather(self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any) -> Any:
        """As allgather, wanted on one rank only."""
        kept = outputs if outputs else [[torch.empty_like(inputs[0]) for _ in range(self._size)]]
        return self.allgather(kept, inputs)

    def scatter(self, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], opts: Any) -> Any:
        """outputs[0] becomes the root's inputs[0][this rank]."""
        with self._one_call():
            count, root = outputs[0].numel(), self._rank == opts.rootRank
            mine = torch.cat([each.reshape(-1) for each in inputs[0]]) if root else outputs[0].new_empty(0)
            came, _ = self._group.all_to_all(mine, [count * root] * self._size)
            outputs[0].copy_(came.view(outputs[0].shape))
        return _done(outputs)

    def reduce_scatter(self, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], opts: Any = None) -> Any:
        """outputs[0] becomes the reduction over ranks of inputs[0][this rank]; their sizes may differ by rank."""
        operator = _kind(opts)
        with self._one_call():
            whole = torch.cat([each.reshape(-1) for each in inputs[0]])
            counts = [each.numel() for each in inputs[0]]
            if operator in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
                part = self._group.reduce_scatter(whole, counts)
                part = part / self._size if operator == dist.ReduceOp.AVG else part
            else:
                self._reduce(whole, operator)
                part = torch.split(whole, counts)[self._rank]
            outputs[0].copy_(part.view(outputs[0].shape))
        return _done(outputs)

    def reduce_scatter_single(self, output: Tensor, whole: Tensor, opts: Any = None) -> Any:
        """The same of one tensor, cut into equal parts."""
        return self.reduce_scatter([output], [list(whole.reshape(-1).chunk(self._size))], opts)

    def all_gather_single_coalesced(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None) -> Any:
        """all_gather_single of several tensors; the road by which DTensor and FSDP2 gather."""
        for output, mine in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, mine)
        return _done(outputs)

    def reduce_scatter_single_coalesced(self, outputs: Sequence[Tensor], wholes: Sequence[Tensor], opts: Any) -> Any:
        """The same of reduce_scatter_single."""
        for output, whole in zip(outputs, wholes, strict=True):
            self.reduce_scatter_single(output, whole, opts)
        return _done(outputs)

    def all_to_all_single(
        self, output: Tensor, mine: Tensor, out_splits: Sequence[int], in_splits: Sequence[int], opts: Any = None
    ) -> Any:
        """Rows of `mine`, cut by receiver, become rows of `output`, by sender; no splits means equal ones."""
        row = mine[0].numel() if mine.dim() and len(mine) else 1
        sends = [rows * row for rows in in_splits] if in_splits else [mine.numel() // self._size] * self._size
        with self._one_call():
            came, _ = self._group.all_to_all(mine, sends)
            output.copy_(came.view(output.shape))
        return _done([output])

    def alltoall(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None) -> Any:
        """outputs[r] becomes inputs[this rank] of rank r."""
        mine = torch.cat([each.reshape(-1) for each in inputs])
        with self._one_call():
            came, _ = self._group.all_to_all(mine, [each.numel() for each in inputs])
            parts = torch.split(came, [each.numel() for each in outputs])
            for each, part in zip(outputs, parts, strict=True):
                each.copy_(part.view(each.shape))
        return _done(outputs)

    def barrier(self, opts: Any = None) -> Any:
        """Wait for all ranks."""
        return self.allreduce([torch.zeros(1)])

    # names of torch before 2.13
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single
    allreduce_coalesced = allreduce

    def send(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Any:
        """Send a tensor to a rank."""
        with self._one_call(), as_array(tensors[0].cpu()) as array:
            self._team.wire.post(peer, self._tag("to", peer, tag), array.copy(), name_of(array), array.shape)
        return _done(tensors)

    def recv(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Any:
        """Wait for a tensor from a rank."""
        host = tensors[0].cpu()
        with self._one_call(), as_array(host) as array:
            due = self._tag("from", peer, tag)
            message = self._team.wire.take(peer, due, name_of(array), array.shape)
            array[...] = np.frombuffer(message.body, array.dtype)
        if host is not tensors[0]:
            tensors[0].copy_(host)
        return _done(tensors)

    def shutdown(self) -> None:
        """destroy_process_group: leave for good."""
        if isinstance(self._group, CardGroup):
            self._group.close()
        self._team.close()

    def _tag(self, way: str, peer: int, tag: int) -> Tag:
        self._counts[way, peer, tag] += 1
        return Tag("p2p", self._counts[way, peer, tag], tag)

    def _reduce(self, tensor: Tensor, operator: Any) -> None:
        if operator in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            self._group.all_reduce(tensor)
            if operator == dist.ReduceOp.AVG:
                tensor.div_(self._size)
        elif operator in _FOLD:
            tensor.copy_(
                reduce(_FOLD[operator], self._gather(tensor, [tensor.numel()] * self._size)).view(tensor.shape)
            )
        else:
            raise BadMessage(
                f"the danlu back end has no {operator}",
                why="it reduces by SUM, AVG, MAX, MIN, PRODUCT and the bitwise operations",
                fix="scale the tensor before and after a SUM",
            )

    def _gather(self, mine: Tensor, counts: Sequence[int]) -> list[Tensor]:
        return list(torch.split(self._group.all_gather(mine, counts), list(counts)))

    @contextmanager
    def _one_call(self) -> Any:
        with self._lock:
            try:
                yield
            except PeerLost as lost:
                name = self._team.name
                raise RankLost(
                    f"{name(lost.peer)} died in a collective", where=name(self._rank), why=str(lost),
                    fix="look at that rank's log; start the job anew from its last checkpoint",
                ) from lost  # fmt: skip


def _kind(opts: Any) -> Any:
    """Which reduction: a member of RedOpType, which unlike the ReduceOp around it can be compared from either side."""
    operator = opts.reduceOp if opts is not None else dist.ReduceOp.SUM
    return getattr(operator, "op", operator)


def _done(tensors: Sequence[Tensor]) -> Any:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(list(tensors))
    return _C10D._create_work_from_future(future)
