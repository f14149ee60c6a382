"""Tables of numbers, dumps and drawings: too few letters among what is printed."""

from __future__ import annotations

import string

from danlu.data.document import rule

LEAST = 0.5  # of the bytes that are not blank; prose has about 0.95, code 0.75, an encoding table 0.3
_BLANKS = string.whitespace.encode()
_NO_LETTERS = (string.digits + string.punctuation).encode()  # every byte of another script counts as a letter


@rule
def step(text: str) -> str | None:
    """Drop texts whose share of letters is below LEAST."""
    printed = text.encode().translate(None, _BLANKS)
    share = len(printed.translate(None, _NO_LETTERS)) / max(len(printed), 1)
    return f"{share:.0%} letters, fewer than {LEAST:.0%}" if share < LEAST else None
