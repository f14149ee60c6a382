"""Markup and line noise: too many signs that neither letters nor punctuation of prose need."""

from __future__ import annotations

import string

from danlu.data.document import rule

MOST = 0.20  # of the bytes that are not blank; C code reaches 0.12, a page of HTML tags 0.25
_SIGNS = b"#$%&*+/<=>@\\^_`{|}~[]"
_BLANKS = string.whitespace.encode()


@rule
def step(text: str) -> str | None:
    """Drop texts whose share of signs is above MOST."""
    printed = text.encode().translate(None, _BLANKS)
    share = 1 - len(printed.translate(None, _SIGNS)) / max(len(printed), 1)
    return f"{share:.0%} signs, more than {MOST:.0%}" if share > MOST else None
