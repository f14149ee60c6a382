"""Suspicion is a function of what was heard and of the time now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.fault.drill import Drill, parse
from danlu.fault.suspect import RECENT, Watch, forget, heard, silent, slow, stepped


@given(st.dictionaries(st.integers(0, 5), st.floats(0, 100)), st.floats(0, 200), st.floats(0.1, 50))
def test_the_silent_are_those_not_heard_for_longer_than_our_patience(times, now, patience):
    watch = Watch()
    for rank, at in times.items():
        watch = heard(watch, rank, at)
    found = silent(watch, now, patience)
    assert set(found) == {rank for rank, at in times.items() if now - at > patience}
    assert [times[r] for r in found] == sorted(times[r] for r in found)
    for rank in found:
        assert rank not in silent(forget(watch, rank), now, patience)


def test_a_slow_rank_is_judged_by_its_recent_steps_against_the_plan():
    watch = Watch()
    for step in range(2 * RECENT):
        watch = stepped(watch, 0, 1.0)
        watch = stepped(watch, 1, 1.0 if step < RECENT else 2.0)
        watch = stepped(watch, 2, 9.0 if step % RECENT == 0 else 1.0)
    assert slow(watch, {0: 1.0, 1: 1.0, 2: 1.0}, 1.5) == {1: 2.0}
    assert slow(stepped(Watch(), 0, 9.0), {0: 1.0}, 1.5) == {}


def test_a_drill_names_a_stage_and_a_step_of_the_run():
    assert parse("1@20", 3, 40) == Drill(1, 20)
    for wrong in ("1", "3@20", "1@41", "1@0", "-1@2", "a@b", "@"):
        with provoke("DL-CFG-002") as caught:
            parse(wrong, 3, 40)
        assert "stage 0 to 2" in caught.error.why


def test_a_drill_is_refused_by_its_step_before_there_is_a_plan():
    assert parse("7@20", None, 40, start=19) == Drill(7, 20)
    for wrong in ("0@41", "0@19", "0"):
        with provoke("DL-CFG-002") as caught:
            parse(wrong, None, 40, start=19)
        assert "step 20 to 40" in caught.error.why and caught.error.fix == "--kill 0@29"
