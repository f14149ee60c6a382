"""The processes of a training job and the control lines to them: starts them, hears them, notices their end.

It decides nothing: `listen` gives back what was said and who died, and the owner acts on it.
"""

from __future__ import annotations

import secrets
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from danlu.comm.mesh import Door
from danlu.errors import LateRank
from danlu.fault import suspect
from danlu.nouns import Job
from danlu.train.control import Line


class Running(Protocol):
    """A started process, as launch gives it."""

    pid: int

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""

    def wait(self, limit_s: float) -> int | None:
        """The same, waited for."""

    def signal(self, number: int) -> None:
        """Send it a signal."""

    def stop(self, grace_s: float = 5.0) -> None:
        """End it for sure."""


Spawn = Callable[[Job, Path | None], Running]


@dataclass(eq=False, slots=True)
class Member:
    """One process: nobody (rank None) until it is given a place."""

    number: int
    host: str
    process: Running
    log: Path
    began: float
    line: Line | None = None
    address: str = ""
    rank: int | None = None
    idle: bool = False
    ahead_s: float = 0.0  # how far its monotonic clock is ahead of ours; 0 on this machine

    @property
    def name(self) -> str:
        """What it is called when it is started, and says of itself."""
        return f"train-{self.number}"

    def say(self, word: str, **fields: Any) -> None:
        """Tell it something; a dead one is found out elsewhere."""
        if self.line is not None:
            self.line.say(word, **fields)


class Crew:
    """Owns the processes and the sockets to them."""

    def __init__(
        self, argv: Sequence[str], logs: Path, spawn: Spawn, *, key: str, patience_s: float, start_s: float,
        interface: str | None = None,
    ) -> None:  # fmt: skip
        """argv  command of a member; the address to call and the member's name are appended.

        interface   address of this machine that members on other hosts call; None when all are on this one
        patience_s  silence after which a member is killed; start_s  longest time from its start to its hello
        """
        self._argv, self._logs, self._spawn = tuple(argv), logs, spawn
        self._key, self._patience_s, self._start_s = key, patience_s, start_s
        self.members: list[Member] = []
        self._door = Door(interface)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ, None)
        self._watch = suspect.Watch()
        self._count = 0

    def start(self, host: str = "local") -> None:
        """Start one more member on a host."""
        log, name = self._logs / f"process-{self._count}.log", f"train-{self._count}"
        process = self._spawn(Job(name, (*self._argv, self._door.address, name), host=host), log)
        self.members.append(Member(self._count, host, process, log, time.monotonic()))
        self._count += 1

    def listen(self, limit_s: float) -> tuple[list[tuple[Member, dict[str, Any]]], list[Member]]:
        """Wait for something to happen: (what was said by whom, who died). Dead ones are no members any more.

        Raises LateRank for a process that does not even say hello.
        """
        said: list[tuple[Member, dict[str, Any]]] = []
        for key, _ in self._selector.select(max(0.0, limit_s)):
            if key.data is None:
                self._greet()
            else:
                said += self._hear(key.data)
        now = time.monotonic()
        for number in suspect.silent(self._watch, now, self._patience_s):
            next(m for m in self.members if m.number == number).process.signal(signal.SIGKILL)
        dead = [member for member in self.members if member.process.poll() is not None]
        for member in dead:
            self._forget(member)
        for member in self.members:
            if member.line is None and now - member.began > self._start_s:
                raise LateRank(
                    "a rank's process did not start",
                    where=f"{member.name} on host {member.host}",
                    why=f"no word from it after {self._start_s:g} s",
                    fix=f"cat {member.log}",
                )
        return said, dead

    def stop(self, *, kindly: bool) -> None:
        """End every process; `kindly` lets them say goodbye first. Sockets are closed."""
        for member in self.members:
            if kindly:
                member.say("end")
            else:
                member.process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 5.0
        for member in self.members:
            member.process.wait(max(0.0, deadline - time.monotonic()))
            member.process.stop()
            if member.line is not None:
                member.line.close()
        self.members = []
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Line):
                key.fileobj.close()
        self._selector.close()
        self._door.close()

    def _greet(self) -> None:
        caller = self._door.accept()
        if caller is not None:
            line = Line(caller)
            self._selector.register(line, selectors.EVENT_READ, line)

    def _hear(self, line: Line) -> list[tuple[Member, dict[str, Any]]]:
        lines = line.hear()
        member = next((m for m in self.members if m.line is line), None)
        if lines is None:
            self._selector.unregister(line)
            line.close()
            if member is not None:
                member.line = None
                member.process.signal(signal.SIGKILL)
                member.process.wait(self._patience_s)
            return []
        for each in lines:
            if each["say"] == "hello" and member is None and secrets.compare_digest(each["key"], self._key):
                member = next((m for m in self.members if m.name == each["name"]), None)
                if member is not None:
                    member.line, member.address, member.idle = line, each["address"], True
                    member.ahead_s = 0.0 if member.host == "local" else each["clock"] - time.monotonic()
        if member is None:
            return []
        self._watch = suspect.heard(self._watch, member.number, time.monotonic())
        return [(member, _ours(each, member.ahead_s)) for each in lines if each["say"] not in ("beat", "hello")]

    def _forget(self, member: Member) -> None:
        self.members.remove(member)
        self._watch = suspect.forget(self._watch, member.number)
        if member.line is not None:
            self._selector.unregister(member.line)
            member.line.close()
            member.line = None


def _ours(message: dict[str, Any], ahead_s: float) -> dict[str, Any]:
    """What a member said, with its moments turned to our clock."""
    if ahead_s and "end" in message:
        message["end"] -= ahead_s
        for span in message.get("spans", ()):
            span[2:4] = span[2] - ahead_s, span[3] - ahead_s
    return message


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log, for an error."""
    try:
        return " | ".join(log.read_text(errors="replace").strip().splitlines()[-lines:]) or "its log is empty"
    except OSError as error:
        print(error, file=sys.stderr)
        return f"its log {log} cannot be read"
