"""Pages of a WARC file: what servers answered, unchunked and unpacked by the package warcio.

warcio takes the end of a file for the end of its records; here each record is held against the length it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import redirect_stderr
from io import BufferedReader, StringIO
from typing import Any

from danlu.data import charset
from danlu.data.sources import MAX_EXPANSION, SPARE, Bounded, Item, Refused, Source, Torn, unpacked

KINDS = ("response", "resource", "conversion")
ALIAS, OTHERS = {"x-gzip": "gzip"}, ("br", "zstd", "compress")  # names of a packing; it may be said and not be done
PIECE = 64 << 10  # bytes of a record that nobody asked for, read at once


class Page(Bounded):
    """The content of a record. Raises Torn where the archive ends before the record does, Bomb, and as Bounded does."""

    def __init__(self, record: Any) -> None:
        self._content = record.content_stream()
        super().__init__(self._content, record.length * MAX_EXPANSION + SPARE)
        self._record = record

    def readinto(self, into: Any) -> int:
        """See RawIOBase."""
        with redirect_stderr(StringIO()):  # what it cannot unpack warcio says there, and leaves out
            count = super().readinto(into)
        if not count:
            _whole(self._record)
            if not getattr(getattr(self._content, "decompressor", None), "eof", True):
                raise Torn("what this page unpacks to ends early")
        return count


def items(source: Source) -> Iterator[Item | Refused]:
    """Each page, named SOURCE/NUMBER ADDRESS: one address may stand there many times."""
    iterator = importlib.import_module("warcio.archiveiterator").ArchiveIterator
    broken = importlib.import_module("warcio.exceptions").ArchiveLoadFailed
    with unpacked(source) as stream:
        archive = iterator(stream, no_record_parse=True)
        archive.INC_RECORD = ""  # its words on standard error; `errors` says the same
        errors = 0
        try:
            for number, record in enumerate(archive):
                if archive.err_count > errors:
                    errors = archive.err_count
                    yield Refused(source.key, "archive", f"record {number - 1} has another length than it names")
                if record.length is None:
                    raise Torn(f"record {number} names no length")
                if record.rec_type in KINDS:
                    yield _item(f"{source.key}/{number:06d}", record, archive.loader)
                else:
                    _whole(record)
        except broken as error:
            raise EOFError(str(error)) from error


def _item(key: str, record: Any, loader: Any) -> Item | Refused:
    address = record.rec_headers.get_header("WARC-Target-URI") or ""
    key = f"{key} {address}"
    try:
        record.http_headers = loader.load_http_headers(record.rec_type, address, record.raw_stream, record.length)
    except EOFError:
        return Refused(key, "archive", "the archive ends before the head of this page")
    headers = record.http_headers or record.rec_headers
    packing = (headers.get_header("Content-Encoding") or "").lower()
    if packing in ALIAS:
        headers.replace_header("Content-Encoding", ALIAS[packing])
    page = BufferedReader(Page(record), PIECE)
    if packing in OTHERS and packing not in _known() and charset.is_binary(page.peek(PIECE)[:PIECE]):
        fix = ": pip install brotli" if packing == "br" else ""
        return Refused(key, "needs_package", f"its content is packed as {packing!r}, which is not unpacked here{fix}")
    return Item(key, page, _meta(address, headers))


def _meta(address: str, headers: Any) -> Mapping[str, Any]:
    return {"url": address, "type": headers.get_header("Content-Type") or ""}


def _known() -> Collection[str]:
    """What warcio unpacks."""
    reader = importlib.import_module("warcio.bufferedreaders").BufferedReader
    return set(reader.get_supported_decompressors())


def _whole(record: Any) -> None:
    """Read what is left of a record. Raises Torn if that is less than its length says."""
    while record.raw_stream.read(PIECE):
        pass
    if record.raw_stream.limit > 0:
        raise Torn(f"a record ends {record.raw_stream.limit} bytes early")
