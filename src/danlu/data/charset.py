"""What bytes are text of another encoding than UTF-8, and the same text in UTF-8.

An encoding is believed when a byte order mark says it, then a page's own declaration (the answer's head, a meta tag, an
XML declaration) where the bytes are no UTF-8; GB 18030 also by its look, since Chinese text was long kept in it and
says so nowhere: nearly all characters are of the 3755 commonest, and the commonest of all are there. Text in EUC-KR has
the same bytes, but not those.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

LOOK = 4096  # bytes that are looked at
BROKEN = b"\xff"  # a byte of no UTF-8, for what the other encoding does not have: it is counted like any broken byte
MARKS = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be", codecs.BOM_UTF16_LE: "utf-16-le",
         codecs.BOM_UTF16_BE: "utf-16-be"}  # fmt: skip  # the longer first: one begins with another
DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949",
         "iso8859-1": "cp1252", "ascii": "cp1252"}  # fmt: skip  # what a name is used for (WHATWG, Encoding Standard)
FEWEST = 10  # characters that say something of a look
COMMON, COMMONEST = 0.9, 0.04  # least shares of a text that looks like GB 18030
FREQUENT = frozenset("的一是了不在有人我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年")  # noqa: RUF001


class InUtf8:
    """A stream, of which `head` was read already, in UTF-8."""

    def __init__(self, head: bytes, stream: BinaryIO, meta: Mapping[str, Any]) -> None:
        self._stream, self._head = stream, head.removeprefix(codecs.BOM_UTF8)
        self.charset = None if head.isascii() else charset_of(head, meta)
        mark = next((each for each in MARKS if head.startswith(each)), b"") if self.charset else b""
        self._head = self._head.removeprefix(mark)
        if self.charset:
            self._decoder = codecs.getincrementaldecoder(self.charset)("replace")

    def read(self, count: int) -> bytes:
        """At least a byte, until the stream ends; at first what was read already."""
        if self.charset is None:
            data, self._head = self._head or self._stream.read(count), b""
            return data
        while True:
            data, self._head = self._head or self._stream.read(count), b""
            text = self._decoder.decode(data, not data)
            if text or not data:
                return text.encode().replace(b"\xef\xbf\xbd", BROKEN)


def charset_of(head: bytes, meta: Mapping[str, Any]) -> str | None:
    """The encoding of a text that begins so, as Python names it; None for UTF-8, and where nobody knows.

    meta  of an item: `type` may be the Content-Type of a page
    """
    for mark, marked in MARKS.items():
        if head.startswith(mark):
            return marked
    look = head[:LOOK]
    if _decoded(look, "utf-8") is not None or b"\0" in look:
        return None
    kind = str(meta.get("type", "")).encode()
    declared = DECLARED.search(kind) or (DECLARED.search(look) if b"<" in look else None)
    name = _named(declared[1].decode()) if declared else None
    if name is not None and _decoded(look, name) is not None:
        return name
    return "gb18030" if _looks_chinese(_decoded(look, "gb18030") or "") else None


def _named(label: str) -> str | None:
    try:
        found = codecs.lookup(label)
        name = WIDER.get(found.name, found.name)
        return None if name.startswith("utf") or not codecs.lookup(name)._is_text_encoding else name
    except LookupError:
        return None


def _decoded(data: bytes, name: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(name)("strict").decode(data)
    except UnicodeDecodeError:
        return None


def _looks_chinese(text: str) -> bool:
    wide = [each for each in text if each > "\x7f"]
    codes = [each.encode("gb2312", "ignore") for each in wide]
    common = sum(bool(code) and (code[0] <= 0xA3 or 0xB0 <= code[0] <= 0xD7) for code in codes)
    frequent = sum(each in FREQUENT for each in wide)
    return len(wide) >= FEWEST and common >= COMMON * len(wide) and frequent >= COMMONEST * len(wide)


def is_binary(head: bytes) -> bool:
    """Whether bytes at the beginning of something are no text in any encoding that is known here."""
    return charset_of(head, {}) is None and (b"\0" in head or _decoded(head, "utf-8") is None)
