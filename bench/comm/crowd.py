"""Processes that measure together: one per rank, each on a core of its own where there are enough."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from danlu.comm.mesh import Door


def crowd(
    ranks: int, body: Callable[[int, Door, dict[int, str]], Any], *, spare: tuple[int, ...] = (),
    place: Callable[[int], int] = lambda rank: rank,
) -> list[Any]:  # fmt: skip
    """Run body(rank, its door, all addresses) in a process per rank; what each returned, in rank order (JSON).

    spare  ranks that may die without an answer; place  which core is a rank's, counted over and over
    """
    doors = [Door() for _ in range(ranks)]
    addresses = {rank: door.address for rank, door in enumerate(doors)}
    cores, running = sorted(os.sched_getaffinity(0)), []
    sys.stdout.flush()
    for rank in range(ranks):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(out)
                for other, door in enumerate(doors):
                    if other != rank:
                        door.close()
                os.sched_setaffinity(0, {cores[place(rank) % len(cores)]})
                with os.fdopen(into, "w") as pipe:
                    json.dump(body(rank, doors[rank], addresses), pipe)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(into)
        running.append((child, out))
    for door in doors:
        door.close()
    answers = []
    for rank, (child, out) in enumerate(running):
        with os.fdopen(out) as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0 or rank in spare, f"rank {rank} ended with {code}"
        answers.append(json.loads(text) if text else None)
    return answers
