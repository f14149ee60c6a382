"""Collectives of CPU tensors over a group of arrays (comm/group.py): the face that comm/cards.py has for cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from danlu.comm.group import Group
from danlu.comm.numbers import Array
from danlu.errors import BadMessage


class Hosted:
    """A group of arrays, asked by tensors. Raises what the group raises, BadMessage for a tensor on a card."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def all_reduce(self, tensor: Tensor) -> None:
        """Tensor becomes the sum over ranks."""
        with as_array(tensor) as array:
            self._group.all_reduce(array)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Tensor becomes the one of `root`."""
        with as_array(tensor) as array:
            self._group.broadcast(array, root)

    def all_gather(self, part: Tensor, counts: Sequence[int]) -> Tensor:
        """The flat parts of all ranks, one after the other."""
        with as_array(part) as array:
            return as_tensor(self._group.all_gather(array, counts), part.dtype)

    def reduce_scatter(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """This rank's part of the sum of flat tensors, cut by `counts`."""
        with as_array(tensor) as array:
            return as_tensor(self._group.reduce_scatter(array, counts), tensor.dtype)

    def all_to_all(self, tensor: Tensor, sends: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
        """Cut the flat tensor into `sends` numbers by receiver; what came, by sender, and how many of each."""
        with as_array(tensor) as array:
            came, counts = self._group.all_to_all(array, sends)
        return as_tensor(came, tensor.dtype), counts


@contextmanager
def as_array(tensor: Tensor) -> Iterator[Array]:
    """A tensor's numbers as a flat array; what is written there is in the tensor afterwards."""
    if tensor.device.type != "cpu":
        raise BadMessage(
            f"a tensor on {tensor.device} cannot take part",
            why="no rank of this group said that its card has collectives of its own, so it moves host memory",
            fix="danlu.comm.torch_backend.register(native='auto') before init_process_group, or tensor.cpu()",
        )
    flat = tensor.detach().reshape(-1)  # a copy only of a tensor with gaps
    yield bits(flat).numpy()
    if flat.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(flat.view(tensor.shape))


def bits(flat: Tensor) -> Tensor:
    """The same bytes as numbers that numpy has a name for."""
    narrow = {torch.bfloat16: torch.uint16, torch.bool: torch.uint8}
    return flat.view(narrow[flat.dtype]) if flat.dtype in narrow else flat


def as_tensor(array: Array, dtype: torch.dtype) -> Tensor:
    """An array of `bits` as a tensor again, in the same memory."""
    return torch.from_numpy(array).view(dtype)
