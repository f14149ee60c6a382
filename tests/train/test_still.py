"""Who stands still: real processes, and every order of looks at one."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.fault.still import GAP_S, STOPPED_S, Look, Watch, look, seen, stands_still


def watched(looks: list[Look]) -> Watch:
    watch = None
    for each in looks:
        watch = seen(watch, each)
    assert watch is not None
    return watch


@given(st.lists(st.tuples(st.floats(0.001, GAP_S / 2), st.sampled_from("RSDTt"), st.booleans()), min_size=1))
def test_only_who_did_nothing_for_all_the_time_stands_still(steps):
    at, used, looks = 0.0, 0, []
    for wait, state, works in steps:
        at, used = at + wait, used + works
        looks.append(Look(at, state, used))
    moves = [each for before, each in zip(looks, looks[1:], strict=False)
             if each.used != before.used or each.state in "RD"]  # fmt: skip
    stood = at - (moves[-1] if moves else looks[0]).at
    for patience in (0.05, 0.3, 2.0):
        limit = min(STOPPED_S, patience) if looks[-1].state == "T" else patience
        assert (stands_still(watched(looks), patience) is not None) == (stood >= limit)


def test_one_who_stood_still_itself_blames_nobody():
    long = [Look(0.0, "S", 1), Look(0.05, "S", 1), Look(100.0, "S", 1)]
    assert stands_still(watched(long), 1.0) is None
    assert stands_still(watched([*long, *(Look(100 + i / 10, "S", 1) for i in range(1, 11))]), 1.0) is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs proc(5)")
def test_a_stopped_process_is_told_from_one_that_computes():
    child = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        deadline, watch = time.monotonic() + 10, seen(None, look(child.pid, time.monotonic()))
        while (watch := seen(watch, look(child.pid, time.monotonic()))).last.used < 5:
            assert time.monotonic() < deadline
        assert stands_still(watch, 0.5) is None
        os.kill(child.pid, signal.SIGSTOP)
        began = time.monotonic()
        while (watch := seen(watch, look(child.pid, time.monotonic()))) and not (why := stands_still(watch, 5.0)):
            assert time.monotonic() < began + 10
        assert "state T" in why and time.monotonic() - began < 2
    finally:
        child.kill()
        child.wait()
    assert look(child.pid, 0.0) is None
