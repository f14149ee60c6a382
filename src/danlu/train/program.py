"""A stage's instruction list as the interpreter runs it: the compute stream, with the messages that hang on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.plan.schedule import Instruction


@dataclass(frozen=True, slots=True)
class Work:
    """One compute instruction with the messages it waits for and those that leave when it ends."""

    op: str
    mb: int
    what: str
    peer: int
    waits: tuple[Instruction, ...]
    posts: tuple[Instruction, ...]


def program(instructions: Sequence[Instruction]) -> tuple[Work, ...]:
    """The compute stream of a list, every instruction with the communication that hangs on it."""
    found = []
    for index, each in enumerate(instructions):
        if each.stream != "compute":
            continue
        waits = tuple(instructions[at] for at in each.after if instructions[at].op == "recv")
        posts = tuple(other for other in instructions if other.op == "send" and index in other.after)
        found.append(Work(each.op, each.mb, each.what, each.peer, waits, posts))
    sends = sum(each.op == "send" for each in instructions)
    recvs = sum(each.op == "recv" for each in instructions)
    assert (sends, recvs) == (sum(len(w.posts) for w in found), sum(len(w.waits) for w in found))
    return tuple(found)
