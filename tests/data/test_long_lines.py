"""Input that never ends a line, or ends before its archive does: memory stays bounded, and what was whole is kept."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.data.document import Document
from danlu.data.read import PIECE, listing, read
from danlu.data.sources import jsonl

LINE = b"word " * 6_000_000  # 30 MB; what is held of it does not grow with it
PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
]


def held(path: Path) -> tuple[int, int, Counter[str]]:
    """Bytes of text that came out, most bytes held at once, and refusals by rule."""
    (source,), _ = listing([path])
    size, refused = 0, Counter[str]()
    tracemalloc.start()
    for each in read(source, 1 << 40):
        if isinstance(each, Document):
            size += len(each.text)
        else:
            refused[each.rule] += 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size, most, refused


def test_a_line_without_end_is_read_in_pieces(tmp_path):
    (tmp_path / "plain").write_bytes(LINE)
    assert held(tmp_path / "plain")[::2] == (len(LINE), Counter())
    assert held(tmp_path / "plain")[1] < 30 * PIECE


def test_a_json_line_without_end_is_refused_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST", 100_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + LINE + b'"}\n{"text": "the next one"}\n')
    size, most, refused = held(tmp_path / "a.jsonl")
    assert (size, refused) == (len("the next one"), {"too_long": 1}) and most < 10 * jsonl.LONGEST


@pytest.mark.parametrize(("end", "pack"), PACKED)
def test_a_packed_file_that_ends_early_gives_its_beginning_and_is_named(tmp_path, end, pack):
    lines = b"".join(b"line %d of a long story %d\n" % (n, n * 7919 % 1000) for n in range(30_000))
    data = pack(lines)
    (tmp_path / f"whole{end}").write_bytes(data)
    assert held(tmp_path / f"whole{end}")[::2] == (len(lines), Counter())
    (tmp_path / f"torn{end}").write_bytes(data[: len(data) * 3 // 4])
    size, _, refused = held(tmp_path / f"torn{end}")
    assert refused == {"archive": 1} and size < len(lines)
    (tmp_path / f"other{end}").write_bytes(b"these are no packed bytes")
    assert held(tmp_path / f"other{end}")[2] == {"archive": 1}


def test_broken_utf8_in_a_member_is_repaired_or_refused_by_its_share(tmp_path):
    (tmp_path / "little.txt.gz").write_bytes(gzip.compress(b"a good line of text\n" * 50 + b"caf\xe9\n"))
    (tmp_path / "much.txt.gz").write_bytes(gzip.compress(b"caf\xe9 \xff\xfe\n" * 50))
    size, _, refused = held(tmp_path / "little.txt.gz")
    assert size == 1005 and not refused
    assert held(tmp_path / "much.txt.gz")[::2] == (0, {"broken_utf8": 1})
