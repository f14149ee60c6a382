"""One form of every text: NFC, line ends, no control characters, no trailing blanks, at most two empty lines."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from danlu.data.document import Document, Drop

_OVERSTRIKE = re.compile(r".\x08")  # typewriter bold of old manuals: a letter, back, the letter again
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
_CHANGED = {**dict.fromkeys(map(chr, [*range(9), *range(14, 32), 0x7F, 0xFEFF, 0x200B]), ""),
            **dict.fromkeys("\r\f\v\x85\u2028\u2029", "\n")}  # fmt: skip
_TABLE = str.maketrans(_CHANGED)
_EMPTY_LINES = re.compile(r"\n{4,}")


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Drops nothing: later steps and the tokenizer see one way of writing the same text."""
    for document in documents:
        yield Document(document.key, normal(document.text), document.meta)


def normal(text: str) -> str:
    """The text in its normal form; normal(normal(text)) == normal(text)."""
    if "\b" in text:
        text = _OVERSTRIKE.sub("", text)
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n")
    if text.isascii():
        text = text.translate(_TABLE)
    else:
        for character, other in _CHANGED.items():  # translate is ten times slower on text beyond ASCII
            if character in text:
                text = text.replace(character, other)
        text = unicodedata.normalize("NFC", text)
    text = "\n".join(map(str.rstrip, text.split("\n")))
    if "\n\n\n\n" in text:  # looking is ten times faster than the expression
        text = _EMPTY_LINES.sub("\n\n\n", text)
    return text.strip("\n") + "\n"
