"""Base64, keys and minified code: runs of ASCII without a blank that no language has. Chinese is no such run."""

from __future__ import annotations

import numpy as np

from danlu.data.document import rule

LONG = 60  # bytes; longest words and most URLs are shorter
MOST = 0.20  # of all bytes


@rule
def step(text: str) -> str | None:
    """Drop texts of which more than MOST lies in runs of LONG or more."""
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.flatnonzero((data <= ord(" ")) | (data >= 0x7F))
    runs = np.diff(ends, prepend=-1, append=len(data)) - 1
    share = runs[runs >= LONG].sum() / max(len(data), 1)
    return f"{share:.0%} in words of {LONG} characters or more, limit {MOST:.0%}" if share > MOST else None
