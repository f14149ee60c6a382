"""Menus, logs and boilerplate: the same lines again and again within one text."""

from __future__ import annotations

from danlu.data.document import rule

MOST = 0.30  # of the characters; the Gopher rules take 0.20 for web prose, code and manuals repeat more


@rule
def step(text: str) -> str | None:
    """Drop texts of which more than MOST lies in lines that stood there before, blanks at their ends aside."""
    lines = list(map(str.strip, text.split("\n")))
    total = sum(map(len, lines))
    again = total - sum(map(len, set(lines)))
    return f"{again / total:.0%} in repeated lines, limit {MOST:.0%}" if again > MOST * total else None
