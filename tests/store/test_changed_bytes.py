"""A store with a flipped bit or a cut file gives its records, or an error that names the damage: never others."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.errors import DamagedPack, NewerFormat
from danlu.store import keys
from danlu.store.manifest import NAME, load
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer

MERGED = 5  # a merge, which waits for the disk, is tried in one of so many
CURSOR = {"source": "crawl", "file": 3, "item": 40}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, bytes], dict[bytes, bytes]]:
    """Two merged packs, a younger one with a removal, and sorted keys: its folder, its files and its records."""
    folder, truth = tmp_path_factory.mktemp("store"), {b"%d" % n: b"%d " % n * 9 for n in range(90)}
    with Writer(folder) as writer:
        for part in (0, 1):
            for key in list(truth)[part::2]:
                writer.add(key, truth[key])
            writer.commit({})
        merge(folder, range_bytes=3000)
        writer.add(b"7", b"newer")
        writer.remove(b"8")
        writer.commit(CURSOR, done=True)
    truth[b"7"] = b"newer"
    del truth[b"8"]
    store = Store(folder)
    assert list(keys.listed(store)) == sorted(truth) and store.packs == 3
    store.close()
    return folder, {each.name: each.read_bytes() for each in folder.iterdir()}, truth


def readings(folder: Path, truth: dict[bytes, bytes]) -> dict[str, tuple[Callable[[Store], Any], Any]]:
    """Every way to read a store, and what it must give."""
    some = [*truth, b"8", b"absent"]
    return {
        "one by one": (lambda store: [store.get(key) for key in some], [truth.get(key) for key in some]),
        "at once": (lambda store: store.get_many(some), [truth.get(key) for key in some]),
        "in order": (lambda store: {each.key: each.value for each in store.scan()}, truth),
        "sorted": (lambda store: list(keys.listed(store)), sorted(truth)),
        "its cursor": (lambda store: (store.cursor, store.done), (CURSOR, True)),
        "a writer": (lambda store: _cursor(folder), CURSOR),
        "merged": (lambda store: _merged(folder), truth),
    }


def _cursor(folder: Path) -> dict[str, Any]:
    with Writer(folder) as writer:
        return writer.cursor


def _merged(folder: Path) -> dict[bytes, bytes]:
    merge(folder, range_bytes=3000)
    store = Store(folder)
    found = {each.key: each.value for each in store.scan()}
    store.close()
    return found


def read_all(folder: Path, truth: dict[bytes, bytes], merging: bool) -> None:
    every = readings(folder, truth)
    for name, (reading, right) in list(every.items())[: None if merging else -1]:
        with suppress(DamagedPack, NewerFormat):
            store = Store(folder)
            try:
                assert reading(store) == right, name
            finally:
                store.close()


@settings(max_examples=80)
@given(st.randoms(use_true_random=False), st.integers(0, 1 << 16), st.integers(-1, 7))
@example(random.Random(0), 9, 0)  # of a manifest: its version becomes that of one without a checksum
def test_changed_bytes_are_named_and_never_read_as_others(whole, rng, place, bit):
    """bit  which of the byte at `place` is flipped; -1: the file ends there"""
    folder, files, truth = whole
    name = rng.choice(sorted(files))
    was = files[name]
    at = place % max(len(was), 1)
    (folder / name).write_bytes(was[:at] if bit < 0 else was[:at] + bytes([was[at] ^ 1 << bit]) + was[at + 1 :])
    try:
        read_all(folder, truth, merging=place % MERGED == 0)
    finally:
        for each in folder.iterdir():
            if each.name not in files:
                each.unlink()
        for each, data in files.items():
            (folder / each).write_bytes(data)


def test_the_cursor_of_a_changed_manifest_is_refused(whole, tmp_path):
    """Going on from another cursor would leave records out, or take them twice."""
    text = (whole[0] / NAME).read_text()
    assert '"item": 40' in text
    (tmp_path / NAME).write_text(text.replace('"item": 40', '"item": 50'))
    with pytest.raises(DamagedPack) as caught:
        Writer(tmp_path)
    assert "checksum" in caught.value.why


def test_a_manifest_of_the_version_before_is_read(whole, tmp_path):
    folder, files, truth = whole
    text = files[NAME].decode()
    begin, end = text.index('"crc32"'), text.index('"packs"')
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / NAME).write_text((text[:begin] + text[end:]).replace('"pack": 3', '"pack": 2'))
    store = Store(tmp_path)
    assert {each.key: each.value for each in store.scan()} == truth and load(store.home).cursor == CURSOR
    store.close()
