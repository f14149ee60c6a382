"""A DDP script over ranks of unlike islands, each with collectives of its own: python ddp_islands.py FOLDER."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from danlu.comm import torch_backend

# What each rank says of itself: collectives and island. The last rank of "three" is a CPU that says nothing.
JOBS = {"one": [("gloo", "")] * 2, "three": [("gloo", "a"), ("gloo", "b"), ("gloo", "a"), ("", "")]}


def train(name: str, rank: int, folder: str) -> None:
    job = JOBS[name]
    torch.set_num_threads(1)
    torch_backend.register(*job[rank])
    dist.init_process_group("danlu", init_method=f"file://{folder}/{name}.store", rank=rank, world_size=len(job),
                            timeout=timedelta(seconds=60))  # fmt: skip
    torch.manual_seed(rank)  # DDP gives every rank the weights of rank 0
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 600), nn.ReLU(), nn.Linear(600, 8)))
    batches = torch.Generator().manual_seed(100 + rank)
    for _ in range(4):
        x = torch.randn(16, 64, generator=batches)
        model.zero_grad()
        nn.functional.mse_loss(model(x), x[:, :8]).backward()
        with torch.no_grad():
            for parameter in model.parameters():  # torch.optim loads torch's compiler, 2 s of CPU a process
                parameter -= 0.01 * parameter.grad
    torch.save([p.detach() for p in model.parameters()], f"{folder}/{name}-{rank}.pt")
    others(rank, len(job))
    dist.destroy_process_group()


def others(rank: int, ranks: int) -> None:
    """Collectives against their meaning, one of them over more than a chunk, some of them of nothing."""
    far = torch.arange(1_000_000) % 97 + rank
    for kind in (torch.float32, torch.int64, torch.bfloat16):
        total = far[: 10 if kind == torch.bfloat16 else None].to(kind, copy=True)
        own = total.clone()
        dist.all_reduce(total)
        assert torch.equal(total, (own - rank) * ranks + sum(range(ranks))), kind
    dist.all_reduce(torch.zeros(0))
    parts = [torch.empty(6, dtype=torch.bool) for _ in range(ranks)]
    dist.all_gather(parts, torch.arange(6) % (rank + 2) == 0)
    assert all(torch.equal(part, torch.arange(6) % (r + 2) == 0) for r, part in enumerate(parts))
    for root in range(ranks):
        news = far.clone().view(1000, 1000).T
        dist.broadcast(news, root)
        assert torch.equal(news, (torch.arange(1_000_000) % 97 + root).view(1000, 1000).T)
    most = torch.tensor([rank, -rank])
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    assert most.tolist() == [ranks - 1, 0]
    out = torch.empty(2 + rank)
    whole = torch.arange(float(sum(2 + r for r in range(ranks))))
    dist.reduce_scatter(out, list(torch.split(whole, [2 + r for r in range(ranks)])))
    assert torch.equal(out, torch.split(whole, [2 + r for r in range(ranks)])[rank] * ranks)
    sent = torch.arange(sum(range(ranks))) + 100 * rank  # r numbers to rank r
    came = torch.empty(ranks * rank, dtype=torch.int64)
    dist.all_to_all_single(came, sent, [rank] * ranks, list(range(ranks)))
    start = sum(range(rank))
    assert came.tolist() == [start + i + 100 * r for r in range(ranks) for i in range(rank)]
    dist.barrier()


if __name__ == "__main__":
    children = []
    for name, job in JOBS.items():
        for rank in range(len(job)):
            child = os.fork()
            if child == 0:
                train(name, rank, sys.argv[1])
                os._exit(0)
            children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
