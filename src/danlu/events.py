"""The event log: one JSON object a line, written by every process of a run, read by the report and by people.

The format is `event line` in docs/formats.md. A line is written with one call, so lines of several processes never mix;
a reader skips the torn last line that a killed process may leave.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = 1
fallbacks: Counter[str] = Counter()  # name of the downgrade -> times met in this process; /metrics shows it


class EventLog:
    """Owns one append-only file of events. `path` None keeps nothing."""

    def __init__(self, path: Path | None, **common: Any) -> None:
        """common  fields added to every line, for example room="train", rank=2."""
        self._common = common
        self._fd = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event now; `fields` must be JSON values. Raises OSError when the disk is full."""
        if self._fd < 0:
            return
        line = {"v": VERSION, "t": time.time(), "event": event, **self._common, **fields}
        os.write(self._fd, (json.dumps(line, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Close the file; later events are dropped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Events of a log in order. A torn last line is skipped; a missing file is an empty log."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def fallback(name: str, text: str) -> None:
    """Say once per process that something slower or smaller is used instead, and count every time.

    name  stable, for metrics: "kernel.nf4"; text  what is used instead, and why
    """
    fallbacks[name] += 1
    if fallbacks[name] == 1:
        print(f"warning: {text}", file=sys.stderr)
