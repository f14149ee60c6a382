"""The rank that serves: it starts the others, tells them every step, and computes its own share of it."""

from __future__ import annotations

import contextlib
import json
import secrets
import select
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
from danlu.comm.shm import Segment, ShmGroup
from danlu.errors import DanluError, RankLost
from danlu.fault.still import Watch, look, seen, stands_still
from danlu.kernels.runner import Runner
from danlu.kernels.step import Step
from danlu.nouns import Job, ModelSpec
from danlu.serve.shared import Part, bind, open_rank
from danlu.serve.steps import dumps, hear, say

START_S = 600.0  # for a rank to call
LEAVE_S = 2.0  # for a rank to leave by itself
LOOK_S = 0.1  # between two looks at a rank that loads
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
    """Owns this rank's runner, the processes of the others and the lines to them. A Forward that can be mended.

    Every other rank is watched while it is waited for (fault/still.py): one that moves has all the time it needs, for a
    step may first have to read its weights from a disk; one that stands still is late after `patience_s`.
    """

    def __init__(
        self, spec: ModelSpec, part: Part, cores: Sequence[tuple[int, ...]], spawn: Spawn, patience_s: float = 1.0
    ) -> None:
        """part  this rank's;  cores  of every rank;  spawn  starts a process that ends with the calling thread

        Raises what serve.shared.open_rank raises, here or in another rank, RankLost for one that ends and LateRank.
        """
        self.spec, self.size, self._cores = spec, len(part.heads), tuple(cores)
        self._part, self._spawn, self._patience_s = part, spawn, patience_s
        self._processes: list[Running] = []
        self._lines: dict[int, socket.socket] = {}
        self._watches: dict[int, Watch] = {}
        self._group: ShmGroup | None = None
        self._runner: Runner | None = None
        self._own_bytes = 0
        self._begin()

    def __call__(self, step: Step) -> Tensor:
        """Logits (R, V) of the wanted rows; valid until the next step. Raises RankLost, LateRank."""
        message = dumps(step)
        assert self._runner is not None
        self._watches.clear()
        try:
            for line in self._lines.values():
                say(line, message)
            return self._runner.run(step)
        except PeerLost as error:
            raise self._lost(error.peer) from error
        except (OSError, Aborted) as error:
            raise self.failure() or self._lost(1) from error

    def mend(self) -> None:
        """End the other ranks and start them again; this one keeps its weights. Raises as the first start does."""
        self._end()
        self._begin()

    def __str__(self) -> str:
        """How it is shared, for people."""
        heads, cores = (":".join(map(str, each)) for each in (self._part.heads, map(len, self._cores)))
        return f"{self.size} processes (heads {heads}, cores {cores})"

    def failure(self) -> RankLost | None:
        """Which rank has ended, or None while all run."""
        dead = [rank for rank, process in enumerate(self._processes, 1) if process.poll() is not None]
        return self._lost(dead[0]) if dead else None

    def close(self) -> None:
        """End the other ranks; they leave by themselves when their line ends."""
        if self._group is not None:
            self._group.abort()
        self._end()

    def _begin(self) -> None:
        """Start the other ranks, meet them, and load this one's share if that was not done before."""
        ranks, door = range(1, self.size), Door()
        try:
            self._start(door, ranks)
            segment = Segment(self.size)
            for rank in ranks:
                say(self._lines[rank], replace(self._part, rank=rank, cores=self._cores[rank]).dumps(segment))
            self._group = self._part.group(segment, self._stands_still)
            if self._runner is None:
                bind(self._cores[0])
                self._runner, self._own_bytes = open_rank(self._part, self._group)
            else:
                self._runner.meet(self._group)
            self.weight_bytes = self._own_bytes + sum(self._ready(rank) for rank in ranks)
            segment.settle()
        except BaseException:
            self.close()
            raise
        finally:
            door.close()

    def _end(self) -> None:
        """Leave the group, so that nobody waits for this rank, and let go of the others."""
        if self._group is not None:
            self._group.close()
        for line in self._lines.values():
            line.close()
        self._lines.clear()
        deadline = time.monotonic() + LEAVE_S
        while time.monotonic() < deadline and any(map(self._may_leave, self._processes)):
            time.sleep(0.005)
        for process in self._processes:
            process.stop(0.5)
        self._processes = []
        self._watches.clear()

    @staticmethod
    def _may_leave(process: Running) -> bool:
        found = look(process.pid, 0.0) if process.poll() is None else None
        return found is not None and found.state not in "Tt"

    def _stands_still(self, rank: int, waited_s: float = 0.0) -> str | None:
        """Why a rank is waited for no longer; asked again and again while it is."""
        pid = self._processes[rank - 1].pid
        if (found := look(pid, time.monotonic())) is None:
            return None  # it is gone, which is seen elsewhere
        self._watches[rank] = seen(self._watches.get(rank), found)
        why = stands_still(self._watches[rank], self._patience_s)
        return why and f"process {pid}: {why} (serve.patience_s)"

    def _start(self, door: Door, ranks: Sequence[int]) -> None:
        """A process and a line for every other rank."""
        key = secrets.token_hex(16)
        for rank in ranks:
            argv = (sys.executable, "-m", "danlu.cli.serve_rank", door.address, str(rank))
            self._processes.append(self._spawn(Job(f"serve-{rank}", argv, env={KEY: key})))
        deadline = time.monotonic() + START_S
        while len(self._lines) < len(ranks):
            late = [rank for rank in ranks if rank not in self._lines]
            if found := self.failure():
                raise found
            if time.monotonic() > deadline:
                raise _late(late[0], f"waited {START_S:g} s for ranks {late}")
            if (line := door.accept()) is None:
                self._give_up(late)
                continue
            said = json.loads(hear(line) or b"{}")
            if secrets.compare_digest(str(said.get("key")), key):
                self._lines[said["rank"]] = line
            else:
                line.close()

    def _ready(self, rank: int) -> int:
        """Bytes of the weights of a rank, once it has them."""
        line = self._lines[rank]
        while not select.select([line], [], [], LOOK_S)[0]:
            self._give_up([rank])
        message = hear(line)
        if message is None:
            raise self._lost(rank)
        said = json.loads(message)
        if "error" in said:
            raise _same(said["error"])
        return int(said["weight_bytes"])

    def _give_up(self, ranks: Sequence[int]) -> None:
        """Raise LateRank for one of `ranks` that stands still while it is waited for."""
        for rank in ranks:
            if why := self._stands_still(rank):
                raise _late(rank, why)

    def _lost(self, rank: int) -> RankLost:
        process = self._processes[rank - 1]
        deadline = time.monotonic() + 0.5  # it closed its end a moment before the kernel says how it ended
        while (code := process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        how = "it left" if code is None else f"it ended with code {code}"
        with contextlib.suppress(ValueError):
            how = f"it was ended by {signal.Signals(-(code or 0)).name}"
        return RankLost(f"rank {rank} of {len(self._processes) + 1} is dead", where=f"process {process.pid}", why=how,
                        fix="dmesg says whether memory ran out; a smaller serve.kv_gib needs less")  # fmt: skip


def _late(rank: int, why: str) -> errors.LateRank:
    return errors.LateRank(f"rank {rank} did not start", why=why, fix="look for what keeps this machine busy")


def _same(said: dict[str, str]) -> DanluError:
    """The error that a rank met, as it met it."""
    kinds = (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, DanluError))
    kind = next((each for each in kinds if each.code == said["code"]), RankLost)
    return kind(said["what"], why=said["why"], fix=said["fix"], where=said["where"])
