"""Which files have something to read. `select.select` refuses numbers past 1,023, and a server may hold more."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasFileno(Protocol):
    """A pipe, a socket, or what owns one."""

    def fileno(self) -> int:
        """The number the system knows it by."""
        ...


File = TypeVar("File", bound=HasFileno | int)


def ready(files: Iterable[File], limit_s: float | None = None) -> list[File]:
    """Those of `files` that can be read or have ended, waited for at most `limit_s` seconds; None waits without end."""
    watch, known = select.poll(), {}
    for file in files:
        number = file if isinstance(file, int) else file.fileno()
        known[number] = file
        watch.register(number, select.POLLIN)
    return [known[number] for number, _ in watch.poll(None if limit_s is None else limit_s * 1e3)]
