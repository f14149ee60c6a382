"""FSDP2 and DTensor as anyone writes them: python fsdp_plain.py FOLDER runs them on two ranks, with gloo and danlu."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from danlu.comm import torch_backend


def train(rank: int, backend: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch_backend.register()
    dist.init_process_group(backend, init_method=f"file://{folder}/{backend}.store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("copies", "parts"))
    torch.save([*sharded(rank, mesh["parts"]), *parallel(mesh["parts"])], f"{folder}/{backend}-{rank}.pt")
    dist.destroy_process_group()


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8))


def sharded(rank: int, mesh: dist.DeviceMesh) -> list[torch.Tensor]:
    """Weights after some steps of FSDP2 with clipping, other batches on each rank."""
    model = network(301)  # two ranks cut it unevenly
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = torch.Generator().manual_seed(100 + rank)
    for _ in range(4):
        x = torch.randn(16, 64, generator=batches)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), x[:, :8]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return [p.full_tensor().detach() for p in model.parameters()]


def parallel(mesh: dist.DeviceMesh) -> list[torch.Tensor]:
    """Gradients of a layer cut by columns and one cut by rows."""
    model = network(300)  # DTensor takes no other
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    model(torch.ones(4, 64)).square().mean().backward()
    return [p.grad.full_tensor() for p in model.parameters() if p.grad is not None]


if __name__ == "__main__":
    children = []
    for who in [(rank, backend) for backend in ("gloo", "danlu") for rank in (0, 1)]:
        child = os.fork()
        if child == 0:
            train(*who, sys.argv[1])
            os._exit(0)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
