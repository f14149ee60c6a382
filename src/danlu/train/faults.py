"""The faults a run got over, what each has cost, and the errors that ended it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from danlu.errors import DanluError, RankLost
from danlu.train.result import Fault


class Faults:
    """Owns the faults of a run, in order; what they have cost becomes known with the steps behind them."""

    def __init__(self) -> None:
        self._found: list[tuple[Fault, float]] = []

    @property
    def found(self) -> tuple[Fault, ...]:
        """All of them."""
        return tuple(fault for fault, _ in self._found)

    def add(self, fault: Fault, struck: float) -> None:
        """One more, that happened at the moment `struck`."""
        self._found.append((fault, struck))

    def stepped(self, number: int, ended: float) -> None:
        """A step is done: fill in what the faults so far have cost."""
        for index, (fault, struck) in enumerate(self._found):
            if not fault.recovery_s:
                fault = replace(fault, recovery_s=ended - struck)
            if not fault.caught_up_s and number > fault.restored + fault.recomputed:
                fault = replace(fault, caught_up_s=ended - struck)
            self._found[index] = fault, struck


def as_error(message: dict[str, Any], who: str) -> DanluError:
    """The error a rank reported, as the entry of the catalogue that it is."""
    todo = [DanluError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.code == message["code"]:
            where = f"{who}: {message['where']}" if message["where"] else who
            return kind(message["what"], why=message["why"], fix=message["fix"], where=where)
    return RankLost(message["what"], where=who, why=message["why"], fix=message["fix"])
