"""What has something to read is found among any number of open files."""

from __future__ import annotations

import fcntl
import os
import resource

import pytest

from danlu.ready import ready


def test_a_file_with_a_number_past_select_s_table_is_waited_for():
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1100:
        pytest.skip("this process may not hold so many files")
    end, start = os.pipe()
    far = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 1050)
    try:
        assert ready([far], 0.0) == []
        os.write(start, b"x")
        assert ready([far]) == [far]
    finally:
        for each in (end, start, far):
            os.close(each)


def test_what_can_be_read_and_what_has_ended_are_both_ready_and_the_quiet_are_not():
    pipes = [os.pipe() for _ in range(3)]
    heard, ended, quiet = (open(end, "rb") for end, _ in pipes)
    os.write(pipes[0][1], b"word")
    os.close(pipes[1][1])
    assert set(ready([heard, ended, quiet], 5.0)) == {heard, ended}
    for each in (heard, ended, quiet):
        each.close()
    for _, start in (pipes[0], pipes[2]):
        os.close(start)
