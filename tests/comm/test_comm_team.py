"""A team loses ranks to SIGKILL and goes on in the same processes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from comm_world import KEY, teamed
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.comm import header
from danlu.comm.header import SIZE
from danlu.comm.mesh import Door, PeerLost, call, join
from danlu.comm.shm import usable
from danlu.errors import BadMessage, LateRank

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


def test_a_rank_of_another_wire_version_is_refused_by_name():
    """Rank 1 runs a danlu of the next wire version; rank 0 never sees more than its hello."""

    def body(team, rank: int) -> bool:
        if rank == 1:
            header.WIRE += 1
            with provoke("DL-RUN-011"):
                team.form()
            return True
        with provoke("DL-RUN-010") as caught:
            team.form()
        return "rank 1" in caught.error.what and f"speaks {header.WIRE + 1}" in caught.error.why

    assert teamed(2, body, limit_s=1.0) == [0, 0]


@settings(max_examples=12, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=SIZE * 2).map(lambda rest: b"DLMS" + rest))
def test_a_stranger_at_the_door_is_named_or_sent_away(noise):
    """Whatever bytes a caller sends, a rank that waits for another gives up in time, with an entry of the catalogue."""
    door = Door()
    stranger = call(door.address)
    stranger.sendall(noise)
    stranger.close()
    addresses = {0: door.address, 1: "unix:nobody"}
    with pytest.raises((BadMessage, LateRank)) as caught:
        join(door, 0, 1, addresses, KEY, limit_s=0.05, given_up=lambda: False)
    assert "caller" in caught.value.what or caught.value.code == "DL-RUN-011"
    door.close()
