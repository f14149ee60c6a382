"""From folders to documents, whatever lies there: binaries, broken UTF-8, loops of links, lines of gigabytes."""

from __future__ import annotations

import codecs
import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from danlu.data.charset import InUtf8
from danlu.data.document import Document
from danlu.data.sources import BROKEN, Item, Refused, Source, items, refused
from danlu.store.hashing import hash_of

__all__ = ["Refused", "Source", "default_text", "listing", "read"]

PIECE = 64 << 10  # bytes; a longer file becomes several documents, cut at line ends
MAX_BROKEN = 0.01  # share of characters that are not UTF-8; up to it they are replaced, above it the piece goes
MAX_CONTROL = 0.10  # share of control characters in text; above it the piece is binary
TOLD = 1000  # files between two words on how many were found: a cold folder gives some thousand a second
NO_TEXT = {"__pycache__", ".git", ".hg", ".svn"}  # what programs keep for themselves; not entered, not counted
_CONTROL = bytes(i for i in range(32) if i not in b"\t\n\r\f\b\x1b") + b"\x7f"


def default_text() -> list[Path]:
    """Text that every machine has: the Python library, the documentation and licences of installed packages."""
    library = Path(sysconfig.get_paths()["stdlib"])
    installed = {"site-packages", "dist-packages"} | NO_TEXT
    found = sorted(each for each in library.iterdir() if each.name not in installed)
    documents = (Path("/usr/share") / name for name in ("doc", "common-licenses", "info", "perl"))
    return [*found, *(each for each in documents if each.is_dir())]


def listing(
    roots: Sequence[Path], tell: Callable[[str, float], None] = lambda words, share: None
) -> tuple[list[Source], list[Refused]]:
    """Every file under the roots once, in the order of their key's hash: any prefix of it is a random sample.

    tell  is told how many files there are so far
    Links are followed, but no folder is entered twice. Raises OSError for a root that cannot be looked at.
    """
    found: list[Source] = []
    refused: list[Refused] = []
    seen: set[tuple[int, int]] = set()
    names = [root.resolve().name for root in roots]
    for number, root in enumerate(roots):
        name = names[number] if names.count(names[number]) == 1 else f"{names[number]}#{number}"
        root.stat()
        _walk(str(root), _text(name), seen, found, refused, tell)
    found.sort(key=lambda source: (hash_of(source.key.encode()), source.key))
    return found, refused


def read(source: Source, share: int) -> Iterator[Document | Refused]:
    """The documents of one file, or why it has none. Holds one piece in memory, however long the file is.

    share  bytes after which the rest of the file is left out, counted as one refused piece
    """
    done = 0
    for item in items(source):
        if isinstance(item, Refused):
            yield item
            continue
        try:
            head = item.stream.read(PIECE)
            for number, (piece, document) in enumerate(_whole(item, head) or _in_pieces(item, head)):
                yield document
                if isinstance(document, Refused) and document.rule == "binary":
                    break
                done += len(piece)
                if done > share:
                    why = f"a file's share is {share} bytes; the rest is left out"
                    yield Refused(f"{item.key}#{number + 1}", "cut", why)
                    return
        except BROKEN as error:
            yield refused(source, item.key, error)


def _walk(path: str, key: str, seen: set[tuple[int, int]], found: list[Source], refused: list[Refused],
          tell: Callable[[str, float], None]) -> None:  # fmt: skip
    todo = [(path, key)]
    while todo:
        path, key = todo.pop()
        try:
            state = os.stat(path)
            if S_ISREG(state.st_mode):
                found.append(Source(key, path, state.st_size, state.st_mtime_ns))
                if len(found) % TOLD == 0:
                    tell(f"{len(found):,} files found", 0.0)
            elif not S_ISDIR(state.st_mode):
                refused.append(Refused(key, "not_a_file", "it is a device, a socket or a pipe"))
            elif (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                todo += [(f"{path}/{each}", f"{key}/{_text(each)}") for each in os.listdir(path) if each not in NO_TEXT]
        except OSError as error:
            refused.append(Refused(key, "unreadable", error.strerror or str(error)))


def _text(name: str) -> str:
    """A file name as text; bytes of it that are not UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _whole(item: Item, head: bytes) -> list[tuple[bytes, Document | Refused]]:
    """A file that is one piece of UTF-8, as nearly all are; nothing for another."""
    if len(head) < PIECE and head and not head.startswith(codecs.BOM_UTF8):
        document = _decode(item.key, head, item.meta)
        if isinstance(document, Document) and document.meta is item.meta:
            return [(head, document)]
    return []


def _in_pieces(item: Item, head: bytes) -> Iterator[tuple[bytes, Document | Refused]]:
    stream = InUtf8(head, item.stream, item.meta)
    meta = item.meta if stream.charset is None else {**item.meta, "charset": stream.charset}
    for number, piece in enumerate(_pieces(stream)):
        yield piece, _decode(item.key if number == 0 else f"{item.key}#{number}", piece, meta)


def _pieces(file: InUtf8) -> Iterator[bytes]:
    """Bytes of a file in pieces of about PIECE, each ending at a line end, or else between two characters."""
    rest = b""
    while more := file.read(PIECE - len(rest)):
        rest += more
        while len(rest) >= PIECE:
            piece = rest[:PIECE]
            cut = piece.rfind(b"\n", PIECE // 2) + 1 or _between_characters(piece)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _between_characters(piece: bytes) -> int:
    for cut in range(len(piece) - 1, len(piece) - 4, -1):
        if piece[cut] & 0xC0 != 0x80:
            return cut
    return len(piece)


def _decode(key: str, piece: bytes, meta: Mapping[str, Any]) -> Document | Refused:
    if b"\0" in piece:
        return Refused(key, "binary", "it has zero bytes")
    control = (len(piece) - len(piece.translate(None, _CONTROL))) / len(piece)
    if control > MAX_CONTROL:
        return Refused(key, "binary", f"{control:.0%} of it are control characters")
    try:
        return Document(key, piece.decode(), meta)
    except UnicodeDecodeError:
        text = piece.decode(errors="replace")
    broken = text.count("\ufffd")
    if broken > MAX_BROKEN * len(text):
        return Refused(key, "broken_utf8", f"{broken} of {len(text)} characters are not UTF-8")
    return Document(key, text, {**meta, "repaired": broken})
