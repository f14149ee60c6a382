"""The rank that serves: it starts the others, tells them every step, and computes its own share of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from danlu import errors
from danlu.comm.mesh import Aborted, Door, PeerLost
from danlu.comm.shm import Segment
from danlu.errors import DanluError, RankLost
from danlu.kernels.step import Step
from danlu.nouns import Job, ModelSpec
from danlu.serve.shared import Part, bind, open_rank
from danlu.serve.steps import dumps, hear, say

START_S = 600.0  # for a rank to load its share, from a slow disk
KEY = "DANLU_RANK_KEY"  # the environment's name of the secret that a rank shows


class Running(Protocol):
    """A process of a rank, as danlu/launch has them."""

    pid: int

    def poll(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""

    def stop(self, grace_s: float = 5.0) -> None:
        """End it, by force if it must be."""


Spawn = Callable[[Job], Running]


class Lead:
    """Owns this rank's runner, the processes of the others and the lines to them. A Forward of serve/forward.py."""

    def __init__(self, spec: ModelSpec, part: Part, cores: Sequence[tuple[int, ...]], spawn: Spawn) -> None:
        """part  this rank's;  cores  of every rank;  spawn  starts a process that ends with the calling thread

        Raises what serve.shared.open_rank raises, here or in another rank, and RankLost for one that ends.
        """
        self.spec, self.size, self._cores = spec, len(part.heads), tuple(cores)
        self._heads = part.heads
        self._processes: list[Running] = []
        self._lines: dict[int, socket.socket] = {}
        ranks, door = range(1, len(part.heads)), Door()
        try:
            self._start(door, ranks, spawn)
            segment = Segment(len(part.heads))
            for rank in ranks:
                say(self._lines[rank], replace(part, rank=rank, cores=cores[rank]).dumps(segment))
            bind(cores[0])
            self._group = part.group(segment)
            self._runner, own = open_rank(part, self._group)
            self.weight_bytes = own + sum(self._ready(rank) for rank in ranks)
            segment.settle()
        except BaseException:
            self.close()
            raise
        finally:
            door.close()

    def __call__(self, step: Step) -> Tensor:
        """Logits (R, V) of the wanted rows; valid until the next step. Raises RankLost, LateRank."""
        message = dumps(step)
        try:
            for line in self._lines.values():
                say(line, message)
            return self._runner.run(step)
        except PeerLost as error:
            raise self._lost(error.peer) from error
        except (OSError, Aborted) as error:
            raise self.failure() or self._lost(1) from error

    def __str__(self) -> str:
        """How it is shared, for people."""
        heads, cores = (":".join(map(str, each)) for each in (self._heads, map(len, self._cores)))
        return f"{self.size} processes (heads {heads}, cores {cores})"

    def failure(self) -> RankLost | None:
        """Which rank has ended, or None while all run."""
        dead = [rank for rank, process in enumerate(self._processes, 1) if process.poll() is not None]
        return self._lost(dead[0]) if dead else None

    def close(self) -> None:
        """End the other ranks; they leave by themselves when their line ends."""
        if hasattr(self, "_group"):
            self._group.abort()
        for line in self._lines.values():
            line.close()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and any(process.poll() is None for process in self._processes):
            time.sleep(0.005)
        for process in self._processes:
            process.stop(0.5)

    def _start(self, door: Door, ranks: Sequence[int], spawn: Spawn) -> None:
        """A process and a line for every other rank."""
        key = secrets.token_hex(16)
        for rank in ranks:
            argv = (sys.executable, "-m", "danlu.cli.serve_rank", door.address, str(rank))
            self._processes.append(spawn(Job(f"serve-{rank}", argv, env={KEY: key})))
        deadline = time.monotonic() + START_S
        while len(self._lines) < len(ranks):
            if found := self.failure():
                raise found
            if time.monotonic() > deadline:
                late = [rank for rank in ranks if rank not in self._lines]
                raise errors.LateRank(f"rank {late[0]} did not start", why=f"waited {START_S:g} s for ranks {late}",
                                      fix="look for what keeps this machine busy")  # fmt: skip
            if (line := door.accept()) is None:
                continue
            said = json.loads(hear(line) or b"{}")
            if secrets.compare_digest(str(said.get("key")), key):
                self._lines[said["rank"]] = line
            else:
                line.close()

    def _ready(self, rank: int) -> int:
        """Bytes of the weights of a rank, once it has them."""
        message = hear(self._lines[rank])
        if message is None:
            raise self._lost(rank)
        said = json.loads(message)
        if "error" in said:
            raise _same(said["error"])
        return int(said["weight_bytes"])

    def _lost(self, rank: int) -> RankLost:
        process = self._processes[rank - 1]
        deadline = time.monotonic() + 0.5  # it closed its end a moment before the kernel says how it ended
        while (code := process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        how = "it left" if code is None else f"it ended with code {code}"
        with contextlib.suppress(ValueError):
            how = f"it was ended by {signal.Signals(-(code or 0)).name}"
        return RankLost(f"rank {rank} of {len(self._processes) + 1} is dead", where=f"process {process.pid}", why=how,
                        fix=f"start the server again (process {os.getpid()} cannot go on without it); dmesg says "
                        "whether memory ran out")  # fmt: skip


def _same(said: dict[str, str]) -> DanluError:
    """The error that a rank met, as it met it."""
    kinds = (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, DanluError))
    kind = next((each for each in kinds if each.code == said["code"]), RankLost)
    return kind(said["what"], why=said["why"], fix=said["fix"], where=said["where"])
