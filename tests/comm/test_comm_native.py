"""Islands of one kind of chip on the collectives it brings along, joined by their leaders; gloo stands for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from comm_world import together
from provoke import provoke

from danlu.comm.chips import Chip, Chips, accelerator
from danlu.comm.native import Native, made
from danlu.comm.staging import Staging, blank


@pytest.mark.procs
def test_a_plain_ddp_script_trains_over_unlike_islands(tmp_path):
    script = Path(__file__).with_name("ddp_islands.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, ranks in (("one", 2), ("three", 4)):
        first, *rest = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(ranks))
        assert all(torch.equal(a, b) for other in rest for a, b in zip(first, other, strict=True)), name
        exact = one_process(ranks)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(first, exact, strict=True)), name


def one_process(ranks: int) -> list[torch.Tensor]:
    """What the script's ranks learn, learnt by one."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 600), torch.nn.ReLU(), torch.nn.Linear(600, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    batches = [torch.Generator().manual_seed(100 + rank) for rank in range(ranks)]
    for _ in range(4):
        x = torch.cat([torch.randn(16, 64, generator=each) for each in batches])
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), x[:, :8]).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_what_goes_down_in_turns_comes_up_again(kind):
    """Arrays are their own: the buffer that one came through is filled again while it is still in use."""
    parts = [
        torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(size)).to(kind) for size in (5, 1, 9, 7)
    ]
    staging = Staging(torch.device("cpu"), 9 * 8)
    came = list(staging.down(parts))
    for part, array in zip(parts, came, strict=True):
        again, like = torch.zeros_like(part), blank(part)
        staging.up(array, again)
        assert torch.equal(again, part) and like.dtype == array.dtype and like.shape == array.shape
    assert not any(np.shares_memory(a, b) for i, a in enumerate(came) for b in came[i + 1 :])


def test_islands_are_ranks_of_one_chip_and_a_cpu_beside_them_uses_gloo():
    told = (Chip("nccl", "cuda"), Chip("", "cpu"), Chip("nccl", "cuda"), Chip("hccl", "npu"), Chip("", "cpu"))
    assert Chips(None, 0, told, 1.0).islands == ((0, 2), (1, 4), (3,))
    apart = (Chip("nccl", "cuda", "north"), Chip("nccl", "cuda", "south"))
    assert Chips(None, 0, apart, 1.0).islands == ((0,), (1,))


def test_a_torch_without_such_collectives_says_which_it_has():
    with provoke("DL-ENV-081") as caught:
        made("hccl", dist.HashStore(), 0, 1, 1.0)
    assert "'hccl'" in caught.error.what and "gloo" in caught.error.why


def test_another_vendor_s_collectives_are_those_its_plug_in_registered():
    asked = []

    def creator(store, rank: int, size: int, timeout: timedelta):
        asked.append((rank, size, timeout))
        return dist.ProcessGroupGloo(store, rank, size, timeout=timeout)

    dist.Backend.register_backend("testccl", creator, devices=["cpu"])
    native = Native(made("testccl", dist.HashStore(), 0, 1, 3.0), (0,), 0, torch.device("cpu"))
    x = torch.arange(3.0)
    native.all_reduce(x)
    assert x.tolist() == [0, 1, 2] and asked == [(0, 1, timedelta(seconds=3))]


def test_a_machine_without_an_accelerator_brings_none():
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    assert accelerator() == ("cpu", "")


@pytest.mark.procs
def test_a_dead_rank_of_an_island_is_told_not_waited_for(tmp_path):
    def body(rank: int) -> bool:
        store = dist.FileStore(str(tmp_path / "store"), 3)
        native = Native(made("gloo", store, rank, 3, 30.0), (4, 5, 6), rank, torch.device("cpu"))
        x = torch.ones(1000)
        native.all_reduce(x)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with provoke("DL-RUN-012") as caught:
            for _ in range(100):
                native.all_reduce(x)
        return "[4, 5, 6]" in caught.error.where

    assert together(3, body) == [0, -signal.SIGKILL, 0]
