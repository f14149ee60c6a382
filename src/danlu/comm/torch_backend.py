"""danlu's groups as a torch.distributed back end, so that a plain script uses them: `init_process_group("danlu")`.

    from danlu.comm import torch_backend
    torch_backend.register()
    torch.distributed.init_process_group("danlu")

torch's store only tells the ranks where each listens; from then on danlu's own messages travel, so ranks may run unlike
torch versions. Collectives are done when the call returns. docs/collectives.md has the road for tensors on cards.
"""

from __future__ import annotations

import os
import secrets
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from danlu.comm.chips import Chip, Chips, accelerator
from danlu.comm.mesh import Door
from danlu.comm.team import Team
from danlu.comm.torch_face import NAME, DanluGroup


def register(native: str = "", island: str = "") -> None:
    """Make "danlu" a back end of torch.distributed; once a process, a second call does nothing.

    native  collectives that this process's chip brings along, for inside its island (comm/native.py): "nccl", "gloo",
            ..., or "auto" for what the vendor's file says of torch's accelerator. Without, danlu moves host memory.
            Once one rank of a job has such, all are in islands: the others with gloo
    island  a name for the ranks that these join; by default the kind of chip. Islands meet through their first ranks,
            over danlu's own messages
    """
    if NAME in dist.Backend.backend_list:
        return
    device, found = accelerator() if native not in ("", "gloo") else ("cpu", native)
    mine = Chip(found if native == "auto" else native, device, island)

    def create(store: Any, rank: int, size: int, timeout: timedelta) -> DanluGroup:
        return _create(store, rank, size, timeout, mine)

    dist.Backend.register_backend(NAME, create, devices=list(dict.fromkeys(("cpu", device))))


def _create(store: Any, rank: int, size: int, timeout: timedelta, chip: Chip) -> DanluGroup:
    store.set(f"danlu/host/{rank}", _network())
    hosts = {store.get(f"danlu/host/{each}") for each in range(size)}
    door = Door(None if len(hosts) == 1 else _interface())
    store.set(f"danlu/door/{rank}", door.address.encode())
    store.set(f"danlu/name/{rank}", socket.gethostname())
    if rank == 0:
        store.set("danlu/key", secrets.token_hex(16))
    addresses = {each: store.get(f"danlu/door/{each}").decode() for each in range(size)}
    key = bytes.fromhex(store.get("danlu/key").decode())
    names = [f"rank {each} on host {store.get(f'danlu/name/{each}').decode()}" for each in range(size)]
    limit_s = timeout.total_seconds()
    team = Team(rank, door, addresses, key, limit_s=limit_s, name=names.__getitem__)
    return DanluGroup(rank, size, team, Chips.met(store, rank, size, chip, limit_s))


def _network() -> bytes:
    """What ranks have in common that hear each other's Unix sockets: two pods of one machine share only its boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes() + os.readlink("/proc/self/ns/net").encode()
    except OSError:
        return secrets.token_bytes(16)


def _interface() -> str:
    """The address of this host that the other hosts reach: the one on the way to the master."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect((os.environ.get("MASTER_ADDR", socket.gethostname()), 1))
        return str(line.getsockname()[0])
