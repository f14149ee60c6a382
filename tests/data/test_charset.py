"""Text in other encodings than UTF-8 is read where it can be known, and refused where it cannot."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import found
from test_torn_archives import record

from danlu.data.charset import InUtf8, charset_of
from danlu.data.document import Document
from danlu.data.read import PIECE, listing, read

CHINESE = "今天的天气很好，我们在城市里走了一天，看到了很多人和很多地方。这个国家的经济在发展，人们的生活也在变化。\n"
ENGLISH = "It was the best of times, it was the worst of times.\n"
KOREAN = "오늘은 날씨가 매우 좋아서 우리는 하루 종일 도시를 걸었고 많은 사람들과 장소를 보았습니다.\n"
JAPANESE = "今日は天気がとても良いので、私たちは一日中街を歩き、多くの人と場所を見ました。\n"
SURROGATE = '{"text": "half \\ud800 of one", "url": "http://a/\\udc00"}\n'


def texts(path: Path) -> list[str]:
    (source,), _ = listing([path])
    return [each.text if isinstance(each, Document) else each.rule for each in read(source, 1 << 30)]


@pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32", "gb18030"])
@pytest.mark.parametrize("times", [2, 3000])
def test_a_text_is_read_in_its_encoding(tmp_path, name, times):
    """3000 lines are some pieces, and a character of four bytes lies across their edges."""
    text = (CHINESE + "生僻字\U00020bb7也在。" + ENGLISH) * times
    (tmp_path / "text").write_bytes(text.encode(name))
    pieces = texts(tmp_path / "text")
    assert "".join(pieces) == text and all(len(each.encode()) <= PIECE for each in pieces)
    assert (len(pieces) > 1) == (times > 2)


@pytest.mark.parametrize(("text", "name"), [(KOREAN, "euc-kr"), (JAPANESE, "euc-jp"), (CHINESE, "big5hkscs"),
                                            ("Le garçon a été là où la forêt naît. ", "latin-1")])  # fmt: skip
def test_no_other_encoding_is_taken_for_chinese(tmp_path, text, name):
    (tmp_path / "text").write_bytes((text * 20).encode(name, "ignore"))
    assert set(texts(tmp_path / "text")) == {"broken_utf8"}


@pytest.mark.parametrize(("text", "name"), [(KOREAN, "euc-kr"), (JAPANESE, "shift_jis"), (CHINESE, "gb2312")])
def test_a_page_says_its_encoding(tmp_path, text, name):
    page = f'<html><head><meta charset="{name}"></head><body><p>{text * 3}</p></body></html>'
    (tmp_path / "a.html").write_bytes(page.encode(name))
    assert texts(tmp_path / "a.html") == [page]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={name}\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(record("", head.encode() + f"<p>{text}</p>".encode(name)))
    assert texts(tmp_path / "a.warc") == [f"<p>{text}</p>"]


def test_an_encoding_that_a_page_does_not_have_is_not_believed(tmp_path):
    for name in ("utf-16", "rot13", "no-such", "idna", "hex"):
        page = f'<meta charset="{name}">{CHINESE}'
        (tmp_path / "a.html").write_text(page)
        assert texts(tmp_path / "a.html") == [page]
        assert charset_of(page.encode("latin-1", "replace") + b"\xe9 \xe8", {}) is None


@settings(max_examples=200)
@given(st.binary(max_size=5000), st.integers(1, 4096))
def test_any_bytes_come_through_as_they_are_or_in_an_encoding_that_they_are_in(data, count):
    stream = InUtf8(data[:count], io.BytesIO(data[count:]), {})
    out = b"".join(iter(lambda: stream.read(count), b""))
    if stream.charset is None:
        assert out == data.removeprefix(b"\xef\xbb\xbf") if data[:count].startswith(b"\xef\xbb\xbf") else out == data
    else:
        assert stream.charset in ("gb18030", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def test_lines_in_any_state(tmp_path):
    """A byte order mark, bytes that are no UTF-8, half a character in a text and in an address."""
    long = ENGLISH * 20
    lines = b"\xef\xbb\xbf" + json.dumps({"text": "first"}).encode() + b"\r\n" + SURROGATE.encode()
    lines += b'{"text": "' + long.strip().replace("\n", " ").encode() + b' \xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    documents, refused = found(tmp_path / "a.jsonl")
    assert documents["0"] == "first" and documents["1"] == "half ? of one" and documents["2"].endswith(" \ufffd")
    assert not refused
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"text": "first"}).encode("utf-16"))
    assert found(tmp_path / "b.jsonl") == ({}, Counter({"no_json": 1}))


def test_parquet_keeps_what_is_whole_of_a_column(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def rows(column):
        parquet.write_table(arrow.table({"text": column, "url": ["http://a"] * len(column)}), tmp_path / "a.parquet")
        return found(tmp_path / "a.parquet")

    assert rows(arrow.array([b"one", b"\xfc\xfd", None, b"two"])) == (
        {"0": "one", "3": "two"}, Counter({"broken_utf8": 1, "no_text": 1})
    )  # fmt: skip
    assert rows(arrow.array(["one", "two", "one"]).dictionary_encode())[0] == {"0": "one", "1": "two", "2": "one"}
    assert rows(arrow.array([["one"]])) == ({}, Counter({"no_text": 1}))
    twice = arrow.table([["one"], ["two"]], names=["text", "text"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    assert found(tmp_path / "b.parquet")[0] == {"0": "one"}
    (source,), _ = listing([tmp_path / "a.parquet"])
    assert "text (list<" in next(iter(read(source, 1 << 20))).why


@pytest.mark.parametrize("end", [".jsonl.bz2", ".jsonl.xz", ".ndjson.gz", ".JSONL.GZ"])
def test_lines_are_lines_however_they_are_packed(tmp_path, end):
    import bz2
    import gzip
    import lzma

    pack = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}[end.rsplit(".", 1)[1].lower()]
    (tmp_path / f"a{end}").write_bytes(pack(b'{"text": "one"}\n{"text": "two"}\n'))
    assert found(tmp_path / f"a{end}") == ({"0": "one", "1": "two"}, Counter())


def test_texts_of_common_crawl_are_pages(tmp_path):
    import gzip

    data = gzip.compress(record("", b"", "warcinfo")) + gzip.compress(record("", ENGLISH.encode(), "conversion"))
    (tmp_path / "a.warc.wet.gz").write_bytes(data)
    assert list(found(tmp_path / "a.warc.wet.gz")[0].values()) == [ENGLISH]


def test_a_page_packed_in_an_unknown_way_is_named(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\n\r\n"
    data = b"".join(record("", head + body) for body in (b"\x28\xb5\x2f\xfd\0\1\2", ENGLISH.encode()))
    (tmp_path / "a.warc").write_bytes(data)
    documents, refused = found(tmp_path / "a.warc")
    assert list(documents.values()) == [ENGLISH] and refused == Counter({"needs_package": 1})


def test_a_packed_page_that_is_damaged_or_cut_is_named(tmp_path, capfd):
    """warcio gives what came before the damage and says the rest on standard error."""
    import gzip

    text = random.Random(1).randbytes(30_000).hex()  # of more than one block of warcio's
    head, body = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(text.encode())
    bodies = (body, body[:-4], body[:-6] + b"\0" + body[-5:], b"plain")
    (tmp_path / "a.warc").write_bytes(b"".join(record("", head + each) for each in bodies))
    documents, refused = found(tmp_path / "a.warc")
    assert [len(each) for each in documents.values()] == [60_000, 5] and refused == Counter({"archive": 2})
    assert capfd.readouterr().err == ""


def test_a_zip_of_a_version_that_there_is_not_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("file", "text")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 6] = 173
    (tmp_path / "a.zip").write_bytes(data)
    assert found(tmp_path / "a.zip") == ({}, Counter({"archive": 1}))


def test_an_archive_behind_the_end_mark_of_another_is_read_and_rubbish_is_named(tmp_path):
    both = b""
    for name in ("one", "two"):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(name.encode()))
        both += made.getvalue()
    for end, refused in ((b"", 0), (bytes(100), 0), (bytes(5120), 0), (b"rubbish!" * 128, 1)):
        (tmp_path / "a.tar").write_bytes(both + end)
        documents, counted = found(tmp_path / "a.tar")
        assert documents == {"one": "one", "two": "two"} and counted["archive"] == refused


def test_a_changed_number_in_an_extended_header_of_a_tar_is_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("sparse")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "sparse",
                              "GNU.sparse.map": "0,1\x1a,2,3", "GNU.sparse.size": "9"}  # fmt: skip
        archive.addfile(member)
    assert found(tmp_path / "a.tar") == ({}, Counter({"archive": 1}))


def test_a_link_in_a_zip_is_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("file", "text")
    assert found(tmp_path / "a.zip") == ({"file": "text"}, Counter())
