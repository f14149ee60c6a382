"""What autograd keeps of a micro-batch, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from danlu.train.optim import AdamW
from danlu.train.shared import SharedAdamW


@contextmanager
def counted(optimizer: AdamW | SharedAdamW) -> Iterator[dict[int, int]]:
    """Bytes that autograd keeps for the backward pass inside the block, by storage; weights do not count."""
    held: dict[int, int] = {}
    weights = {optimizer.flat.untyped_storage().data_ptr(), optimizer.grad.untyped_storage().data_ptr()}
    weights |= {optimizer.used.untyped_storage().data_ptr()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield held
