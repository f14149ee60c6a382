"""A list of addresses, one a line: files of this machine, and pages fetched politely. It follows no links of theirs.

Polite: robots.txt is asked and obeyed, one request at a time, a pause between two to one host, an agent with a name,
and a server that says "later" is left alone for as long as it says.
"""

from __future__ import annotations

import gzip
import http.client
import time
import urllib.error
import urllib.request
import urllib.robotparser
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from danlu.data.sources import Item, Refused, Source

AGENT = "danlu (a list of addresses given by a person; no crawler)"
PAUSE_S = 1.0
PATIENCE_S = 30.0
TRIES = 3
LATER = (429, 503)
LATER_MOST_S = 120.0
LONGEST_S = 120.0  # of a page that comes drop by drop; PATIENCE_S is for each drop
SILENT = 3  # addresses of a host without any answer, after which its others are not asked
PIECE = 64 << 10  # bytes read at once
LARGEST = 64 << 20  # bytes of a page
FAILED = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    http.client.HTTPException,
)  # what a broken server or address raises


class Slow(Exception):
    """A page that does not end."""


class Host:
    """What is known of one server: what it allows, and when it was last asked."""

    def __init__(self, base: str) -> None:
        self.rules = urllib.robotparser.RobotFileParser(f"{base}/robots.txt")
        self.next_s, self.silent = 0.0, 0
        try:
            with _open(f"{base}/robots.txt") as answer:
                self.rules.parse(answer.read(1 << 20).decode("utf-8", "replace").splitlines())
        except urllib.error.HTTPError as error:
            self.rules.parse(["User-agent: *", "Disallow: /"] if error.code in (401, 403) else [])
        except FAILED:
            self.rules.parse([])  # the page itself will say that the server is not there
        pause = self.rules.crawl_delay(AGENT)
        self.pause_s = max(PAUSE_S, float(pause or 0))

    def take_turn(self) -> None:
        """Wait until this host may be asked again."""
        time.sleep(max(0.0, self.next_s - time.monotonic()))
        self.next_s = time.monotonic() + self.pause_s


def items(source: Source) -> Iterator[Item | Refused]:
    """Each address, named as it stands in the list; empty lines and lines after # are passed over."""
    hosts: dict[str, Host] = {}
    with open(source.path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            address = line.strip()
            if address and not address.startswith("#"):
                try:
                    parts = urlsplit(address)
                except ValueError as error:
                    yield Refused(address, "unreadable", f"it is no address: {error}")
                    continue
                if parts.scheme in ("http", "https"):
                    yield _page(address, hosts)
                elif parts.scheme in ("", "file"):
                    yield from _file(address, Path(unquote(parts.path)), Path(source.path).parent)
                else:
                    yield Refused(address, "unreadable", f"{parts.scheme!r} is not fetched; http, https and file are")


def _file(address: str, path: Path, base: Path) -> Iterator[Item | Refused]:
    try:
        with (base / path).open("rb") as file:
            yield Item(address, file)
    except (OSError, ValueError) as error:
        yield Refused(address, "unreadable", getattr(error, "strerror", None) or str(error))


def _page(address: str, hosts: dict[str, Host]) -> Item | Refused:
    base = "{0.scheme}://{0.netloc}".format(urlsplit(address))
    host = hosts[base] if base in hosts else hosts.setdefault(base, Host(base))
    if not host.rules.can_fetch(AGENT, address):
        return Refused(address, "robots", f"{base}/robots.txt does not allow it")
    if host.silent >= SILENT:
        return Refused(address, "unreadable", f"{base} gave no answer to {SILENT} addresses before")
    why, answered = "", False
    for _ in range(TRIES):
        host.take_turn()
        try:
            with _open(address) as answer:
                host.silent, answered = 0, True
                data = _content(answer)
                if len(data) > LARGEST:
                    return Refused(address, "too_long", f"the page has over {LARGEST} bytes")
                return Item(address, BytesIO(data), {"url": address, "type": answer.headers.get("Content-Type", "")})
        except urllib.error.HTTPError as error:
            host.silent, answered, why = 0, True, f"the server answered {error.code}: {error.reason}"
            if error.code not in LATER:
                break
            later = error.headers.get("Retry-After", "")
            host.next_s = time.monotonic() + min(float(later) if later.isdecimal() else PAUSE_S, LATER_MOST_S)
        except FAILED as error:
            why = str(error) or type(error).__name__
        except Slow as error:
            return Refused(address, "unreadable", str(error))
    host.silent += not answered
    return Refused(address, "unreadable", why)


def _content(answer: http.client.HTTPResponse) -> bytes:
    """What a server sends, unpacked where it packs without being asked to; of a page that is too long the beginning."""
    until, data = time.monotonic() + LONGEST_S, bytearray()
    while len(data) <= LARGEST and (part := answer.read1(PIECE)):
        data += part
        if time.monotonic() > until:
            raise Slow(f"{len(data)} bytes came in {LONGEST_S:.0f} s")
    if answer.length and len(data) <= LARGEST:  # of a page whose size was named
        raise http.client.IncompleteRead(bytes(data), answer.length)
    if answer.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip"):
        with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
            return packed.read(LARGEST + 1)
    return bytes(data)


def _open(address: str) -> urllib.request._UrlopenRet:
    asked = urllib.request.Request(address, headers={"User-Agent": AGENT})  # noqa: S310  # the scheme was looked at
    return urllib.request.urlopen(asked, timeout=PATIENCE_S)  # noqa: S310
