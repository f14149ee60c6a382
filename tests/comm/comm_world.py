"""Real processes joined as the ranks of a job, for the tests of comm."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from itertools import combinations

from danlu.comm.form import form
from danlu.comm.group import Group
from danlu.comm.mesh import Door
from danlu.comm.team import Team
from danlu.comm.wire import Wire
from danlu.nouns import Link

KEY = b"k" * 16


def together(ranks: int, body: Callable[[int], bool], started: Callable[[], object] = lambda: None) -> list[int]:
    """Run body(rank) in a process per rank; 0 where it was true, minus the signal that ended it.

    started  what the parent does once all of them run
    """
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if body(rank) else 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        children.append(child)
    started()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def grouped(
    places: list[bytes | None], body: Callable[[Group, int], bool], *, limit_s: float = 30.0,
    links: Mapping[tuple[int, int], Link] | None = None,
) -> list[int]:  # fmt: skip
    """The same with a group over all ranks; ranks of one place share memory."""
    ranks = len(places)
    pairs = {pair: socket.socketpair() for pair in combinations(range(ranks), 2)}

    def run(rank: int) -> bool:
        lines = {}
        for (low, high), (left, right) in pairs.items():
            for end, owner, peer in ((left, low, high), (right, high, low)):
                if owner == rank:
                    lines[peer] = end
                else:
                    end.close()
        mine = {peer: link for (low, peer), link in (links or {}).items() if low == rank}
        wire = Wire(rank, 1, lines, links=mine, limit_s=limit_s)
        group = form(wire, limit_s=limit_s, place=places[rank])
        fine = body(group, rank)
        group.close()
        wire.close()
        return fine

    return together(ranks, run, lambda: [end.close() for pair in pairs.values() for end in pair])


def teamed(ranks: int, body: Callable[[Team, int], bool], *, limit_s: float = 30.0) -> list[int]:
    """The same with a team, not yet formed."""
    doors = [Door() for _ in range(ranks)]
    addresses = {rank: door.address for rank, door in enumerate(doors)}

    def run(rank: int) -> bool:
        for other, door in enumerate(doors):
            if other != rank:
                door.close()
        team = Team(rank, doors[rank], addresses, KEY, limit_s=limit_s)
        fine = body(team, rank)
        team.close()
        return fine

    return together(ranks, run, lambda: [door.close() for door in doors])
