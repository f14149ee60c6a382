"""A DDP script as anyone writes it: python ddp_plain.py FOLDER runs it on two ranks with gloo and with danlu."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from danlu.comm import torch_backend


def train(rank: int, backend: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch_backend.register()
    dist.init_process_group(backend, init_method=f"file://{folder}/{backend}.store", rank=rank, world_size=2)
    torch.manual_seed(rank)  # DDP gives every rank the weights of rank 0
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 300), nn.BatchNorm1d(300), nn.Linear(300, 8)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = torch.Generator().manual_seed(100 + rank)
    for _ in range(8):
        x = torch.randn(16, 64, generator=batches)
        loss = nn.functional.mse_loss(model(x), x[:, :8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save([loss.item(), *(p.detach() for p in model.parameters())], f"{folder}/{backend}-{rank}.pt")
    others(rank, backend)
    dist.destroy_process_group()


def others(rank: int, backend: str) -> None:
    """Each collective torch has a name for, against its meaning."""
    x = torch.arange(6.0) + 10 * rank
    total = x.clone().bfloat16()
    dist.all_reduce(total)
    assert torch.equal(total, (2 * torch.arange(6.0) + 10).bfloat16())
    most = x.clone()
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    assert torch.equal(most, torch.arange(6.0) + 10)
    parts = [torch.empty(6) for _ in range(2)]
    dist.all_gather(parts, x)
    assert torch.equal(torch.cat(parts), torch.cat([torch.arange(6.0), torch.arange(6.0) + 10]))
    whole = torch.empty(12)
    dist.all_gather_into_tensor(whole, x)
    assert torch.equal(whole, torch.cat(parts))
    gaps = torch.zeros(3, 2).T + rank
    dist.broadcast(gaps, 1)
    assert (gaps == 1).all()
    half = torch.empty(3)
    dist.reduce_scatter_tensor(half, x)
    assert torch.equal(half, (2 * torch.arange(6.0) + 10)[3 * rank : 3 * rank + 3])
    came = torch.empty(4 if rank == 0 else 2)
    dist.all_to_all_single(came, x[:3], [2, 2] if rank == 0 else [1, 1], [2, 1])
    assert torch.equal(came, torch.tensor([0.0, 1, 10, 11]) if rank == 0 else torch.tensor([2.0, 12]))
    if rank == 0:
        dist.send(x, 1)
    else:
        dist.recv(x, 0)
        assert torch.equal(x, torch.arange(6.0))
    dist.barrier()


if __name__ == "__main__":
    children = []
    for who in [(rank, backend) for backend in ("gloo", "danlu") for rank in (0, 1)]:
        child = os.fork()
        if child == 0:
            train(*who, sys.argv[1])
            os._exit(0)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
