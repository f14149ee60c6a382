"""A model of random weights shared by two processes of one core each: both ends of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from danlu.cli.bench import load
from danlu.comm.mesh import Door, call
from danlu.comm.shm import Segment, ShmGroup
from danlu.kernels.step import Step
from danlu.serve.shared import bind
from danlu.serve.steps import dumps, hear, loads, say
from danlu.shares import cut, in_proportion

FOLLOW = "import sys\nfrom danlu.cli.bench import load\nload('parts/shared_rank').follow(*sys.argv[1:])"


def model(shape: str, tokens: int, group: ShmGroup) -> Any:
    """One rank of a shape of parts/random_model."""
    parts = load("parts/random_model")
    spec = parts.SHAPES[shape]
    shares = cut(spec, in_proportion(spec, (1,) * group.size), 64)
    return parts.Model(spec, parts.DISTINCT.get(shape), tokens=tokens, shares=shares, ranks=group)


def follow(address: str, segment: str, core: str, shape: str, tokens: str) -> None:
    """The second process: computes what it is sent until the line ends."""
    line, place = call(address), Segment(2, segment)
    bind((int(core),))
    group = ShmGroup(place, range(2), 1)
    with torch.inference_mode():
        mine = model(shape, int(tokens), group)
        say(line, b"ready")
        while message := hear(line):
            mine.runner.run(loads(message))
    group.close()


@contextmanager
def shared(shape: str, tokens: int) -> Iterator[Any]:
    """The first process's Model while the second one runs; its steps must be made on one thread, bound to a core."""
    cores, segment, door = sorted(os.sched_getaffinity(0))[:2], Segment(2), Door()
    words = [door.address, segment.address, str(cores[1]), shape, str(tokens)]
    child = subprocess.Popen([sys.executable, "-c", FOLLOW, *words])
    group = ShmGroup(segment, range(2), 0)
    try:
        mine = model(shape, tokens, group)
        while (line := door.accept()) is None:
            assert child.poll() is None, "the second process ended"
        assert hear(line) == b"ready"
        run = mine.runner.run

        def step(what: Step) -> torch.Tensor:
            say(line, dumps(what))
            found: torch.Tensor = run(what)
            return found

        mine.step = step
        yield mine
        line.close()
        child.wait(10)
    finally:
        group.close()
        child.kill()
        child.wait()
        door.close()
