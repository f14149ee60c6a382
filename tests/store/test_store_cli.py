"""`danlu store` as a person types it."""

from __future__ import annotations

import json

import pytest
from provoke import provoke

from danlu.cli import store as command
from danlu.cli.app import main, parser_of
from danlu.store.packs import Writer


@pytest.fixture
def folder(tmp_path):
    """A store of two packs, in which one key has an older value."""
    with Writer(tmp_path / "store") as writer:
        writer.add(b"a", b"old")
        writer.commit({})
        for key in (b"a", b"two\nlines", "丹炉".encode()):
            writer.add(key, b"value of " + key)
        writer.commit({}, done=True)
    return tmp_path / "store"


def run(*words: object) -> int:
    return command.run(parser_of("store").parse_args([str(word) for word in words]))


def test_it_says_what_is_there(folder, capsysbinary, tmp_path):
    assert run("ls", folder) == 0
    assert sorted(capsysbinary.readouterr().out.decode().splitlines()) == ["a", "two\\nlines", "丹炉"]
    assert run("ls", folder, "--limit", 1) == 0 and len(capsysbinary.readouterr().out.splitlines()) == 1
    assert run("get", folder, "a") == 0 and capsysbinary.readouterr().out == b"value of a"
    assert run("verify", folder) == 0 and b"4 records" in capsysbinary.readouterr().out
    assert run("stat", folder, "--json", tmp_path / "s.json") == 0 and b"to its end" in capsysbinary.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["store.records"] == 4


def test_a_flipped_bit_is_named(folder, capsys):
    path = folder / "000001.pack"
    changed = bytearray(path.read_bytes())
    changed[20] ^= 1
    path.write_bytes(changed)
    with provoke("DL-DATA-063"):
        run("verify", folder)
    assert "000001.pack" in capsys.readouterr().out


def test_what_is_not_there_is_said(folder, tmp_path, capsys):
    with provoke("DL-DATA-069"):
        run("get", folder, "b")
    with provoke("DL-DATA-069"):
        run("get", folder)
    with provoke("DL-DATA-068"):
        run("stat", tmp_path)
    assert main(["store", "stat", str(tmp_path / "absent")]) == 5 and "no such folder" in capsys.readouterr().err
