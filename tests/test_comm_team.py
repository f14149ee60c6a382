"""A team loses ranks to SIGKILL and goes on in the same processes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from comm_world import teamed

from danlu.comm.mesh import PeerLost
from danlu.comm.shm import usable

pytestmark = [pytest.mark.procs, pytest.mark.skipif(not usable(), reason="no native library")]


def summed(team, group) -> tuple[object, float]:
    """The group and the sum of 1 + rank over it, rebuilt as often as ranks die."""
    while True:
        array = np.full(3000, 1.0 + team.rank, np.float32)
        try:
            group.all_reduce(array)
            return group, float(array[0])
        except PeerLost:
            group = team.form()


@pytest.mark.parametrize("doomed", [(0,), (3,), (1, 2), (0, 1, 3)])
def test_survivors_form_a_new_group_in_place(doomed):
    def body(team, rank: int) -> bool:
        group, first = summed(team, team.form())
        if rank in doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        left = [r for r in range(4) if r not in doomed]
        wanted, total = sum(1.0 + r for r in left), 0.0
        while total != wanted:  # the dead may leave one after the other
            group, total = summed(team, group)
        return first == 10.0 and team.members == tuple(left) and team.epoch == 1 + len(doomed)

    assert teamed(4, body) == [-signal.SIGKILL if rank in doomed else 0 for rank in range(4)]
