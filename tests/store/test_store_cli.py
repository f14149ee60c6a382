"""`danlu store` as a person types it."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import store as command
from danlu.cli.app import main, parser_of
from danlu.data.prep import prep
from danlu.store import keys
from danlu.store.packs import Store, Writer
from danlu.store.shard import Nodes


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
    for name in ("two\nlines", "two\\nlines"):  # as it is, and as ls prints it
        assert run("get", folder, name) == 0 and capsysbinary.readouterr().out == b"value of two\nlines"
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


def test_a_flipped_bit_of_the_sorted_keys_is_named(folder, capsys):
    run("keys", folder)
    changed = bytearray((folder / "keys").read_bytes())
    changed[len(keys.MAGIC) + 2] ^= 1
    (folder / "keys").write_bytes(changed)
    with provoke("DL-DATA-063"):
        run("verify", folder)
    assert "keys: bytes 11 to" in capsys.readouterr().out
    (folder / "keys").unlink()
    assert run("verify", folder) == 0


def test_files_are_added_listed_removed_and_merged(tmp_path, capsysbinary):
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number}.txt").write_text(f"text {number}")
    (tmp_path / "in" / "a\nb").write_text("a name of two lines")
    store = tmp_path / "s"
    assert run("add", tmp_path / "in", "--into", store, "--json", tmp_path / "f.json") == 0
    assert json.loads((tmp_path / "f.json").read_text())["store.added"] == 21
    capsysbinary.readouterr()
    assert run("keys", store, "--prefix", "in/1") == 0
    names = capsysbinary.readouterr().out.decode().splitlines()
    assert names == sorted(["in/1.txt", *(f"in/{n}.txt" for n in range(10, 20))])
    assert run("keys", store) == 0 and b"in/a\\nb\n" in capsysbinary.readouterr().out
    assert run("rm", store, "in/3.txt", "in/4.txt") == 0
    for _ in range(2):  # before the merge, and after it
        with provoke("DL-DATA-069"):
            run("get", store, "in/3.txt")
        with provoke("DL-DATA-069"):
            run("rm", store, "in/5.txt", "in/3.txt")
        capsysbinary.readouterr()
        assert run("keys", store, "--limit", 100) == 0 and len(capsysbinary.readouterr().out.splitlines()) == 19
        assert run("merge", store) == 0
    assert run("get", store, "in/5.txt") == 0 and capsysbinary.readouterr().out.endswith(b"text 5")
    for node in "ab":
        assert run("add", tmp_path / "in", "--into", tmp_path / node, "--node", node, "--nodes", "a,b") == 0
    nodes = Nodes({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert nodes.get_many([b"in/%d.txt" % n for n in range(20)]) == [b"text %d" % n for n in range(20)]
    nodes.close()
    for node in "ab":  # c is gone: what it held goes to those that are left
        run("add", tmp_path / "in", "--into", tmp_path / f"{node}c", "--node", node, "--nodes", "a,b,c")
        run("add", tmp_path / "in", "--into", tmp_path / f"{node}c", "--node", node, "--nodes", "a,b")
    nodes = Nodes({"a": tmp_path / "ac", "b": tmp_path / "bc"})
    assert nodes.get_many([b"in/%d.txt" % n for n in range(20)]) == [b"text %d" % n for n in range(20)]
    nodes.close()
    odd = ("add", tmp_path / "in", "--into", store, "--node", "c", "--nodes", "a,b")
    for words in (("add", tmp_path / "in"), ("rm", store), ("ls",), odd):
        with provoke("DL-CFG-002"):
            run(*words)


@given(st.sets(st.binary(max_size=12), max_size=40), st.binary(max_size=2))
@settings(deadline=None, max_examples=15)
def test_keys_are_listed_in_order_from_any_prefix(tmp_path_factory, names, prefix):
    folder = tmp_path_factory.mktemp("keys") / "s"
    with Writer(folder) as writer:
        for name in names:
            writer.add(name, b"")
        writer.commit({})
    store = Store(folder)
    small = {"RUN": 5, "BLOCK": 20}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(keys, name, value)
        assert list(keys.listed(store)) == sorted(names)
        assert list(keys.listed(store, prefix)) == sorted(name for name in names if name.startswith(prefix))
    store.close()


def test_what_is_not_there_is_said(folder, tmp_path, capsys):
    with provoke("DL-DATA-069"):
        run("get", folder, "b")
    for given_keys in ((), ("a", "b")):
        with provoke("DL-CFG-002") as caught:
            run("get", folder, *given_keys)
        assert f"{len(given_keys)} keys" in str(caught.error)
    with provoke("DL-DATA-068"):
        run("stat", tmp_path)
    with provoke("DL-DATA-068") as caught:
        run("stat", folder / "000000.pack")
    assert caught.error.why == "it is a file"
    assert main(["store", "stat", str(tmp_path / "absent")]) == 5 and "no such folder" in capsys.readouterr().err


def test_a_token_folder_is_checked_and_is_no_store(tmp_path, capsys):
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number}.txt").write_text(
            "\n".join(f"{number} and {n} make {n + number}." for n in range(30))
        )
    made = prep([tmp_path / "text"], tmp_path / "out", vocab=300, limit_bytes=10**8).tokens
    assert run("verify", made) == 0 and "every byte as it was written" in capsys.readouterr().out
    with provoke("DL-DATA-068") as caught:
        run("stat", made)
    assert "it holds tokens" in caught.error.why
    whole, text = (made / "train.bin").read_bytes(), bytearray((made / "train.bin").read_bytes())
    text[100] ^= 1
    (made / "train.bin").write_bytes(text)
    with provoke("DL-DATA-065") as caught:
        run("verify", made)
    assert "train.bin: bytes 0 to" in capsys.readouterr().out and f"rm -r {made} " in caught.error.fix
    shutil.rmtree(made)  # what the error says to do mends it
    assert (
        prep([tmp_path / "text"], tmp_path / "out", vocab=300, limit_bytes=10**8).tokens / "train.bin"
    ).read_bytes() == whole
