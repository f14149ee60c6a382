"""One JSON object a line; its text is the first of the members TEXT that is a string."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from danlu.data.sources import Item, Refused, Source, unpacked

TEXT = ("text", "content", "raw_content")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECODER = json.JSONDecoder()
LONGEST = 64 << 20  # bytes of a line; a longer one is refused without being held


def items(source: Source) -> Iterator[Item | Refused]:
    """Each line, named SOURCE/NUMBER from 0."""
    with unpacked(source) as stream:
        if stream.peek(2)[:2] in UTF_16:
            yield Refused(source.key, "no_json", "its lines are UTF-16, JSON is UTF-8: iconv -f utf-16 -t utf-8")
            return
        number = 0
        while line := stream.readline(LONGEST):
            key, number = f"{source.key}/{number}", number + 1
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while (more := stream.readline(LONGEST)) and not more.endswith(b"\n"):
                    pass
                yield Refused(key, "too_long", f"the line has over {LONGEST} bytes")
            elif line.strip():
                yield _item(key, line)


def _item(key: str, line: bytes) -> Item | Refused:
    try:
        row = _DECODER.decode(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return Refused(key, "no_json", f"the line is no JSON: {error}")
    text = _text(row) if isinstance(row, dict) else None
    if text is None:
        return Refused(key, "no_text", f"the object has no text in any of: {', '.join(TEXT)}")
    meta = {"url": _whole(row["url"]).decode()} if isinstance(row.get("url"), str) else {}
    return Item(key, BytesIO(_raw(text)), meta)


def _text(row: dict[str, Any]) -> str | None:
    for name in TEXT:
        if isinstance(found := row.get(name), str):
            return found
    return None


def _raw(text: str) -> bytes:
    """Bytes that are no UTF-8 as they stood in the line: whoever reads the text counts them."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an escape such as \\ud800, half of a character
        return _whole(text)


def _whole(text: str) -> bytes:
    return text.encode("utf-8", "replace")
