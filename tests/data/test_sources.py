"""Archives as people have them: whole, cut, lying, too large; each item once, whatever is wrong counted and named."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import zipfile
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from provoke import provoke

from danlu.data import gather as gathering
from danlu.data.document import Document
from danlu.data.gather import gather
from danlu.data.read import listing, read
from danlu.data.sources import jsonl, urls
from danlu.store.packs import Store

TEXTS = {f"part/{n}.txt": f"document {n}, line one\nline two of {n}\n" for n in range(20)}


def found(path: Path, share: int = 1 << 30) -> tuple[dict[str, str], Counter[str]]:
    """Documents by the end of their key, and refusals by rule, of the one source at `path`."""
    (source,), refused = listing([path])
    every = [*read(source, share), *refused]
    documents = {each.key.partition("/")[2]: each.text for each in every if isinstance(each, Document)}
    return documents, Counter(each.rule for each in every if not isinstance(each, Document))


def tar(path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, text in TEXTS.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.mark.parametrize(("end", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")])
def test_a_tar_gives_its_members_and_no_link(tmp_path, end, mode):
    assert found(tar(tmp_path / f"a{end}", mode)) == (TEXTS, Counter())


def test_a_tar_that_ends_early_gives_what_came_before(tmp_path):
    path = tar(tmp_path / "a.tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    documents, refused = found(path)
    assert refused["archive"] and documents.items() <= TEXTS.items()


def test_a_zip_gives_its_members_and_a_damaged_one_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("part")
        for name, text in TEXTS.items():
            archive.writestr(name, text)
    assert found(tmp_path / "a.zip") == (TEXTS, Counter())
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"line two of 7\n", b"line two of X\n"))
    documents, refused = found(tmp_path / "a.zip")
    assert refused == {"archive": 1} and len(documents) == len(TEXTS) - 1
    (tmp_path / "a.zip").write_bytes(data[:-30])
    assert found(tmp_path / "a.zip") == ({}, Counter({"archive": 1}))


def test_bombs_are_cut(tmp_path):
    boom = b"boom " * 6_000_000
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.txt", boom)
        archive.writestr("zeros", bytes(30_000_000))
        archive.writestr("small.txt", "a small text")
    documents, refused = found(tmp_path / "b.zip")
    assert "small.txt" in documents and refused == {"cut": 2}
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 30_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert found(tmp_path / "b.tar.gz")[1] == {
        "binary": 1,
        "cut": 1,
    }  # the zeros are not read through to the next member


def test_json_lines_give_their_text_and_bad_ones_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST", 1000)
    rows = [json.dumps({"text": "one"}), '{"text": ', "", json.dumps({"content": "两"}), json.dumps({"title": "no"}),
            "[1]", json.dumps({"text": "x" * 5000}), json.dumps({"text": "last"})]  # fmt: skip
    for path, data in ((tmp_path / "a.jsonl", "\n".join(rows).encode()),
                       (tmp_path / "a.jsonl.gz", gzip.compress("\n".join(rows).encode()))):  # fmt: skip
        path.write_bytes(data)
        documents, refused = found(path)
        assert documents == {"0": "one", "3": "两", "7": "last"}
        assert refused == {"no_json": 1, "no_text": 2, "too_long": 1}


def test_zstd_and_parquet_and_what_is_said_without_their_packages(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert found(tmp_path / "a.parquet")[1] == {"needs_package": 1}


def test_parquet_rows(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"id": [1, 2, 3], "title": ["t"] * 3, "text": ["one", None, "三"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert found(tmp_path / "a.parquet") == ({"0": "one", "2": "三"}, Counter({"no_text": 1}))
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    assert found(tmp_path / "a.parquet") == ({}, Counter({"archive": 1}))


def test_zstd_lines(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    data = zstandard.ZstdCompressor().compress(b'{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert found(tmp_path / "a.jsonl.zst") == ({"0": "one", "1": "two"}, Counter())
    (tmp_path / "a.jsonl.zst").write_bytes(b"no zstd at all")
    assert found(tmp_path / "a.jsonl.zst") == ({}, Counter({"archive": 1}))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # warcio's writer leaves files open
def test_warc_pages(tmp_path):
    writers = pytest.importorskip("warcio.warcwriter")
    headers = pytest.importorskip("warcio.statusandheaders").StatusAndHeaders
    with (tmp_path / "a.warc.gz").open("wb") as file:
        writer = writers.WARCWriter(file, gzip=True)
        for number in range(3):
            http = headers("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.0")
            page = io.BytesIO(b"<p>page %d</p>" % number)
            writer.write_record(
                writer.create_warc_record(f"http://x/{number}", "response", payload=page, http_headers=http)
            )
    documents, refused = found(tmp_path / "a.warc.gz")
    assert list(documents.values()) == [f"<p>page {n}</p>" for n in range(3)] and not refused
    assert all("http://x/" in key for key in documents)
    (source,), _ = listing([tmp_path / "a.warc.gz"])
    assert list(read(source, 1000))[0].meta == {"url": "http://x/0", "type": "text/html"}
    (tmp_path / "a.warc.gz").write_bytes((tmp_path / "a.warc.gz").read_bytes()[:-40])
    assert found(tmp_path / "a.warc.gz")[1]["archive"] == 1


class Site(BaseHTTPRequestHandler):
    """A small server that keeps its visits, asks for patience once, and forbids one page."""

    visits: list[str] = []

    def do_GET(self):
        self.visits.append(self.path)
        code, body = 200, b"the page " + self.path.encode()
        if self.path == "/robots.txt":
            body = b"User-agent: *\nDisallow: /private\n"
        if self.path == "/absent":
            code = 404
        if self.path == "/torn" and self.visits.count("/torn") == 1:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 900\r\n\r\nthe page /to")
            return
        if self.path == "/chunks":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhalf a chunk")
            return
        if self.path == "/packed":
            body = gzip.compress(b"the page /packed")
        if self.path == "/drops":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
            with suppress(OSError):  # until nobody listens
                while True:
                    self.wfile.write(b"drop ")
            return
        if self.path == "/busy" and self.visits.count("/busy") == 1:
            code = 503
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        if code == 503:
            self.send_header("Retry-After", "0")
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_addresses_are_fetched_politely(tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "PAUSE_S", 0.01)
    (tmp_path / "local.txt").write_text("a local file")
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        lines = ["# comment", "", f"{base}/a", f"{base}/private/b", f"{base}/absent", f"{base}/busy", f"{base}/torn",
                 f"{base}/chunks", "local.txt",
                 f"file://{tmp_path}/local.txt", "ftp://x/y", "http://127.0.0.1:1/z", "http://[::x/y", "http://127.0.0.1:x/z",
                 "file:///a%00b", "http:///x", f"{base}/a b"]  # fmt: skip
        (tmp_path / "list.urls").write_text("\n".join(lines))
        (source,), _ = listing([tmp_path / "list.urls"])
        every = list(read(source, 1 << 20))
        server.shutdown()
    texts = [each.text for each in every if isinstance(each, Document)]
    assert texts == ["the page /a", "the page /busy", "the page /torn", "a local file", "a local file"]
    assert Counter(e.rule for e in every if not isinstance(e, Document)) == {"robots": 1, "unreadable": 9}
    assert Site.visits == ["/robots.txt", "/a", "/absent", "/busy", "/busy", "/torn", "/torn", *["/chunks"] * 3]


def test_a_page_without_end_and_a_host_without_answer_end(tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "PAUSE_S", 0.0)
    monkeypatch.setattr(urls, "LONGEST_S", 0.05)
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.urls").write_text(
            "\n".join([f"{base}/drops", f"{base}/packed", *["http://127.0.0.1:1/z"] * 5])
        )
        (source,), _ = listing([tmp_path / "list.urls"])
        drops, packed, *dead = read(source, 1 << 20)
        server.shutdown()
    assert isinstance(packed, Document) and packed.text == "the page /packed"
    whys = [each.why for each in dead if not isinstance(each, Document)]
    assert ["refused" in each for each in whys] == [True] * 3 + [False] * 2 and "3 addresses before" in whys[4]
    assert not isinstance(drops, Document) and "bytes came in" in drops.why


def test_files_and_members_become_records_and_an_interrupted_add_goes_on(tmp_path, monkeypatch):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    tar(tmp_path / "in" / "a.tar", "w")
    for number in range(30):
        (tmp_path / "in" / "deep" / f"{number}.bin").write_bytes(bytes([number]) * 500)
    (tmp_path / "in" / "packed.gz").write_bytes(gzip.compress(b"stays packed"))
    told: list[str] = []

    def stop(words: str, share: float) -> None:
        told.append(words)
        if len(told) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather([tmp_path / "in"], str(tmp_path / "s"), tell=stop, pack_bytes=800)
    done = gather([tmp_path / "in"], str(tmp_path / "s"), tell=lambda words, share: None, pack_bytes=800)
    store = Store(tmp_path / "s")
    truth = {f"in/a.tar/{name}".encode(): text.encode() for name, text in TEXTS.items()}
    truth |= {b"in/deep/%d.bin" % n: bytes([n]) * 500 for n in range(30)}
    found = {record.key: record.value for record in store.scan()}
    assert gzip.decompress(found.pop(b"in/packed.gz")) == b"stays packed" and found == truth
    assert done.records == store.records == len(truth) + 1 and not done.refused
    with provoke("DL-ENV-003"):
        gather([tmp_path / "absent"], str(tmp_path / "s"), tell=lambda words, share: None)
    monkeypatch.setattr(gathering, "LARGEST", 100)
    assert gather([tmp_path / "in" / "deep"], str(tmp_path / "t"), tell=lambda w, s: None).refused == {"too_long": 30}
