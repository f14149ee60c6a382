"""A stage's snapshots: copied between two steps, written by a thread while the next steps run.

The owner commits a snapshot when every stage's shard is on disk. A shard is not begun before the snapshot ahead of it
is committed, so that two are never half-written at once. The last copies stay in memory: a survivor rewinds from them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from danlu.errors import DanluError, RunExists
from danlu.store import checkpoint
from danlu.train.optim import Copy

KEPT = 2  # copies in memory: the last committed one and the one being written


class Place(NamedTuple):
    """Which shard: of which step, by which rank, in which epoch (the owner ignores those of an epoch that broke)."""

    step: int
    rank: int
    epoch: int


class Saver:
    """Owns the copies and the writing thread of one rank."""

    def __init__(
        self, folder: Path, told: Callable[[Place, dict[str, Any]], None], failed: Callable[[Exception], None]
    ) -> None:
        """told(place, shard record) when a shard is on disk; failed(error) when it could not be written."""
        self._folder, self._told, self._failed = folder, told, failed
        self._copies: dict[int, Copy] = {}
        self._todo: list[tuple[Place, frozenset[str]]] = []
        self._writing = False
        self._awaited: int | None = None
        self._change = threading.Condition()
        threading.Thread(target=self._loop, name="saver", daemon=True).start()

    def keep(self, copy: Copy, place: Place, without: frozenset[str]) -> None:
        """Take a copy and see that it is written; waits while KEPT copies are still on their way.

        without  parameters that another stage saves
        """
        with self._change:
            self._change.wait_for(lambda: len(self._todo) < KEPT)
            self._copies[copy.step] = copy
            self._todo.append((place, without))
            for old in sorted(self._copies)[: -KEPT - 1]:
                del self._copies[old]
            self._change.notify_all()

    def committed(self, step: int) -> None:
        """The snapshot of `step` is whole: the next one may be written."""
        with self._change:
            if self._awaited == step:
                self._awaited = None
            self._change.notify_all()

    @property
    def held_bytes(self) -> int:
        """Bytes of the copies in host memory."""
        with self._change:
            return sum(copy.nbytes for copy in self._copies.values())

    def copy(self, step: int) -> Copy | None:
        """The copy of a step, if it is still in memory."""
        with self._change:
            return self._copies.get(step)

    def drop(self) -> None:
        """The job goes back: what is not being written never will be, and nobody waits to hand in a copy."""
        with self._change:
            self._todo.clear()
            self._awaited = None
            self._change.notify_all()

    def rest(self) -> None:
        """Drop, and return when no shard is being written."""
        self.drop()
        with self._change:
            self._change.wait_for(lambda: not self._writing)
            self._awaited = None

    def _loop(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._todo and self._awaited is None)
                place, without = self._todo.pop(0)
                copy, self._writing = self._copies[place.step], True
                self._awaited = place.step
            try:
                shard = checkpoint.save_shard(self._folder, place.step, place.rank, copy.tensors(without))
                self._told(place, asdict(shard))
            except (DanluError, OSError) as error:
                self._failed(error)
            finally:
                with self._change:
                    self._writing = False
                    self._change.notify_all()


def sweep(folder: Path) -> None:
    """Remove what a snapshot that was broken off has left."""
    whole = {checkpoint.folder_of(folder, step) for step in checkpoint.steps(folder)}
    for place in folder.glob("step-*"):
        if place not in whole:
            shutil.rmtree(place, ignore_errors=True)


def start_of(out: Path, resume: bool) -> int:
    """The step a run in `out` starts from: that of its newest snapshot, or 0.

    Raises RunExists when there are snapshots and nothing was said about going on from them.
    """
    if resume:
        return checkpoint.latest(out / "checkpoints") or 0
    if there := checkpoint.steps(out / "checkpoints"):
        raise RunExists(
            f"{out} already holds a run",
            why=f"its newest snapshot is of step {there[-1]}",
            fix="--train.resume true to go on from it, or another --out",
        )
    return 0
