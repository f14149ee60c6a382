"""What a person reads while and after a command works: tables, sizes, one progress line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

CALM_S = 5.0  # between two plain lines where no terminal is attached
RATED_S = 2.0  # after which a rate is worth telling


def size(count: float) -> str:
    """Bytes as text: 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """Seconds as text: 850 ms, 12.3 s, 4 min 05 s."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns padded to their widest cell; numbers to the right, text to the left."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *text]) for i in range(len(head))]
    right = [all(_is_number(row[i]) for row in text) and bool(text) for i in range(len(head))]
    lines = [list(head), ["-" * width for width in widths], *text]
    return "\n".join(
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in lines
    )


def cut(text: str, most: int = 90) -> str:
    """Text for a cell: what is longer ends in three dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "-+."


class Progress:
    """One line that shows how far a stage is. On a terminal it rewrites itself, else it prints at a calm rate."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        """stage  the word the line starts with, for example "train"."""
        self._stage = stage
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._last = 0.0
        self._width = 0
        self.began = time.monotonic()
        self._first: tuple[float, float] | None = None  # when the first share was told, and what it was

    def show(self, text: str, *, force: bool = False) -> None:
        """Show `text` now, unless the last one is too recent to be read."""
        now = time.monotonic()
        if not force and now - self._last < (0.1 if self._terminal else CALM_S):
            return
        self._last = now
        line = f"{self._stage:>9}  {text}"
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def part(self, words: str, share: float) -> None:
        """Show words, the share of the stage that is done, and the time the rest takes at the rate since it began.

        share  0 where nobody can say; work that goes on where it was stopped begins with another one
        """
        now, share = time.monotonic(), min(share, 1.0)
        began, first = self._first = self._first or (now, share)
        rest = ""
        if now - began > RATED_S and first < share < 1:
            rest = f", {span((now - began) * (1 - share) / (share - first))} to go"
        self.show(f"{share:4.0%}  {words}{rest}" if share else words)

    def done(self, text: str) -> None:
        """The stage's last word, on a line of its own, with the seconds it took."""
        line = f"{self._stage:>9}  {text}  [{span(time.monotonic() - self.began)}]"
        self._stream.write(("\r" + line.ljust(self._width) if self._terminal else line) + "\n")
        self._stream.flush()


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write one flat JSON object, whole or not at all; no path writes nothing. Raises DiskFull."""
    if path is not None:
        write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file for the user, whole or not at all; `/dev/stdout` and its like are appended to. Raises DiskFull."""
    from danlu import atomic

    if path.parent in (Path("/dev"), Path("/dev/fd")):
        sys.stdout.flush()
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        atomic.write(path.resolve(), text.encode())
