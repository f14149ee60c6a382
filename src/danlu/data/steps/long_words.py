"""Base64, keys and minified code: runs of ASCII without a blank that no language has. Chinese is no such run."""

from __future__ import annotations

from danlu.data.document import rule

LONG = 60     # characters; longest words and most URLs are shorter
MOST = 0.20   # of all characters


@rule
def step(text: str) -> str | None:
    """Drop texts of which more than MOST lies in runs of LONG or more."""
    share = sum(len(word) for word in text.split() if len(word) >= LONG and word.isascii()) / max(len(text), 1)
    return f"{share:.0%} in words of {LONG} characters or more, limit {MOST:.0%}" if share > MOST else None
