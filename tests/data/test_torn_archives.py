"""An archive cut anywhere: every record that comes out is whole, and the file that lost one is named."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.data.gather import gather
from danlu.data.zst import ends_early
from danlu.store.packs import Store

PAGES = [f"page {n} of a few, {n * 7919} words long\n" * (5 + n) for n in range(6)]
ROWS = [json.dumps({"text": page}).encode() + b"\n" for page in PAGES]
NAMES = ("a.tar", "a.zip", "a.jsonl.zst", "a.parquet", "a.warc", "a.warc.gz")


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number, page in enumerate(PAGES):
            member = tarfile.TarInfo(str(number))
            member.size = len(page)
            archive.addfile(member, io.BytesIO(page.encode()))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, page in enumerate(PAGES):
            archive.writestr(str(number), page)


def lines(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(ROWS)))


def parquet(path: Path) -> None:
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files.write_table(arrow.table({"text": PAGES}), path)


def pages(path: Path) -> None:
    writers = pytest.importorskip("warcio.warcwriter")
    headers = pytest.importorskip("warcio.statusandheaders").StatusAndHeaders
    with path.open("wb") as file:
        writer = writers.WARCWriter(file, gzip=path.suffix == ".gz")
        for number, page in enumerate(PAGES):
            http = headers("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.0")
            body = io.BytesIO(page.encode())
            writer.write_record(writer.create_warc_record(f"http://x/{number}", "response", body, http_headers=http))


WRITERS: dict[str, Callable[[Path], None]] = dict(zip(NAMES, (tar, zipped, lines, parquet, pages, pages), strict=True))


def got(path: Path, store: Path) -> tuple[dict[str, str], Counter[str]]:
    """Records by the end of their key, and refusals by rule, as `danlu store add` has them."""
    done = gather([path], str(store), tell=lambda words, share: None)
    opened = Store(store)
    records = {each.key.decode().partition("/")[2]: each.value.decode() for each in opened.scan()}
    opened.close()
    return records, done.refused


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # warcio's writer leaves files open
@pytest.mark.parametrize("name", NAMES)
def test_an_archive_cut_anywhere_gives_whole_records_and_is_named(tmp_path, name):
    (tmp_path / "in").mkdir()
    WRITERS[name](tmp_path / "in" / name)
    data, (truth, none) = (tmp_path / "in" / name).read_bytes(), got(tmp_path / "in" / name, tmp_path / "whole")
    assert sorted(truth.values()) == sorted(PAGES) and not none
    rng = random.Random(name)
    for number in range(40):
        cut = rng.randrange(1, len(data))
        (tmp_path / "in" / name).write_bytes(data[:cut])
        records, refused = got(tmp_path / "in" / name, tmp_path / f"cut {number}")
        assert records.items() <= truth.items(), cut
        between = name == "a.warc" and data[cut:].lstrip(b"\r\n").startswith(b"WARC/")  # no file says that more came
        assert refused or len(records) == len(truth) or between, cut


@pytest.mark.parametrize(("level", "checksum"), [(1, False), (3, True), (19, True)])
def test_a_zstandard_file_cut_at_any_byte_is_seen(level, checksum):
    zstandard = pytest.importorskip("zstandard")
    packer = zstandard.ZstdCompressor(level=level, write_checksum=checksum)
    stream = packer.compressobj()  # a frame of unknown size, one to be skipped, one of known size
    first = stream.compress(b"".join(ROWS[:3]) + bytes(300_000)) + stream.flush()
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    data = first + skipped + packer.compress(b"".join(ROWS[3:]))
    whole = {0, len(first), len(first + skipped), len(data)}
    assert {n for n in range(len(data) + 1) if not ends_early(io.BytesIO(data[:n]), n)} == whole


def test_a_tar_with_a_damaged_header_is_named_and_what_is_before_stays(tmp_path):
    tar(tmp_path / "a.tar")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    with tarfile.open(tmp_path / "a.tar") as archive:
        data[archive.getmembers()[3].offset + 5] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    records, refused = got(tmp_path / "a.tar", tmp_path / "s")
    assert records == {str(n): PAGES[n] for n in range(3)} and refused == {"archive": 1}


def record(head: str, body: bytes, kind: str = "response", length: int | None = None) -> bytes:
    own = "" if head == "no length" else f"Content-Length: {len(body) if length is None else length}\r\n"
    top = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://x/y\r\n{own}\r\n"
    return top.encode() + body + b"\r\n\r\n"


def test_a_warc_names_each_kind_of_damage_and_goes_on_where_it_can(tmp_path, capfd):
    pytest.importorskip("warcio")
    good = record("", b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\ngood")
    bomb = gzip.compress(bytes(30_000_000))
    packed = record("", b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + bomb)
    cases = {
        "length": (good + record("no length", b"") + good, {"archive": 1}, 1),
        "other": (good + record("", b"HTTP/1.0 200 OK\r\n\r\nlonger", length=20) + good, {"archive": 1}, 3),
        "bomb": (packed + good, {"cut": 1}, 1),
        "request": (good + record("", b"GET / HTTP/1.0\r\n\r\n", "request", 900), {"archive": 1}, 1),
    }
    for name, (data, refusals, kept) in cases.items():
        (tmp_path / f"{name}.warc").write_bytes(data)
        records, refused = got(tmp_path / f"{name}.warc", tmp_path / name)
        assert (dict(refused), len(records)) == (refusals, kept), name
    assert "WARNING" not in capfd.readouterr().err


def test_a_long_page_of_a_warc_comes_whole(tmp_path):
    pytest.importorskip("warcio")
    page = b"a line of a long page\n" * 100_000
    chunked = b"".join(
        b"%x\r\n%b\r\n" % (len(page[n : n + 7000]), page[n : n + 7000]) for n in range(0, len(page), 7000)
    )
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = record("", head + chunked + b"0\r\n\r\n") + record("", b"HTTP/1.1 200 OK\r\n\r\n" + page)
    (tmp_path / "a.warc").write_bytes(data)
    records, refused = got(tmp_path / "a.warc", tmp_path / "s")
    assert [len(each) for each in records.values()] == [len(page)] * 2 and not refused


def test_a_zip_bomb_that_says_its_size_costs_no_other_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(50_000_000))
        archive.writestr("after", PAGES[0])
    assert got(tmp_path / "a.zip", tmp_path / "s") == ({"after": PAGES[0]}, Counter({"cut": 1}))
