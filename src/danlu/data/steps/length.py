"""Too short to teach anything. Bytes, not characters: a Chinese character says about as much as three letters."""

from __future__ import annotations

from danlu.data.document import rule

LEAST = 200  # bytes of UTF-8; docstrings and notes below it are stubs and redirects


@rule
def step(text: str) -> str | None:
    """Drop texts of fewer than LEAST bytes."""
    size = len(text.encode())
    return f"{size} bytes, fewer than {LEAST}" if size < LEAST else None
