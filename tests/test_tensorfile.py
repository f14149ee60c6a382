"""Safetensors by mapping: equal to the reference, strict against strangers, whole or absent when written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provoke import provoke
from safetensors.numpy import load_file, save_file

from danlu.errors import BadTensorFile
from danlu.tensorfile import WIDTH, Entry, Writer, read, read_folder, taken, write

ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b.c": np.arange(5, dtype=np.int64),
          "empty": np.zeros((0, 7), np.float16), "scalar": np.array(3, np.uint8)}  # fmt: skip
DTYPES = {"F32": np.float32, "I64": np.int64, "F16": np.float16, "U8": np.uint8}


def array(entry: Entry) -> np.ndarray:
    return np.frombuffer(entry.buffer, DTYPES[entry.dtype]).reshape(entry.shape)


def entries() -> dict[str, Entry]:
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    return {name: Entry(names[each.dtype], each.shape, each) for name, each in ARRAYS.items()}


def raw(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_what_the_reference_writes_is_read(tmp_path):
    save_file(ARRAYS, tmp_path / "x.safetensors", {"format": "pt"})
    found = read(tmp_path / "x.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(array(found[name]), expected)


def test_what_we_write_the_reference_reads(tmp_path):
    write(tmp_path / "x.safetensors", entries(), {"format": "pt"})
    for name, found in load_file(tmp_path / "x.safetensors").items():
        np.testing.assert_array_equal(found, ARRAYS[name])
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


layouts = st.dictionaries(st.text(min_size=1, max_size=9).filter(lambda n: n != "__metadata__"), st.tuples(
    st.sampled_from(sorted(WIDTH)), st.lists(st.integers(0, 4), max_size=3).map(tuple)), max_size=6)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts, data=st.data())
def test_any_tensors_come_back_equal_and_aligned(tmp_path, layout, data):
    path = tmp_path / "x"
    given_bytes = {}
    with Writer(path, layout) as out:
        for name, (dtype, shape) in data.draw(st.permutations(list(layout.items()))):
            size = WIDTH[dtype] * int(np.prod(shape))
            given_bytes[name] = data.draw(st.binary(min_size=size, max_size=size))
            out.put(name, given_bytes[name])
    found = read(path)
    assert {name: (entry.dtype, entry.shape) for name, entry in found.items()} == layout
    assert {name: bytes(entry.buffer) for name, entry in found.items()} == given_bytes
    for entry in found.values():
        if entry.buffer.nbytes:
            assert np.frombuffer(entry.buffer, np.uint8).ctypes.data % WIDTH[entry.dtype] == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupted_file_is_refused_or_still_consistent(tmp_path, data):
    path = tmp_path / "x"
    write(path, entries())
    good = path.read_bytes()
    bad = bytearray(good)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "splice"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad[at] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del bad[at:]
    elif kind == "grow":
        bad += data.draw(st.binary(min_size=1, max_size=40))
    else:
        bad[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    path.unlink()
    path.write_bytes(bad)
    try:
        found = read(path)
    except BadTensorFile as error:
        assert str(path) in str(error)
    else:
        for entry in found.values():
            assert entry.buffer.nbytes == WIDTH[entry.dtype] * int(np.prod(entry.shape))


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(("content", "says"), [
    (b"", "0 bytes"), (b"\x01\x00", "2 bytes"), (b"\xff" * 8 + b"{}", "truncated"),
    (raw(b"[" * 100_000, b""), "unreadable"),
    (raw([], b""), "no mapping"), (raw({"w": F4}, b"abc"), "w ends at byte 4"), (raw({"w": F4}, b"abcde"), "longer"),
    (raw({"w": F4, "v": F4}, b"abcd"), "overlaps"),
    (raw({"w": {**F4, "data_offsets": [4, 8]}}, b"abcdefgh"), "gap"),
    (raw(b'{"w":' + json.dumps(F4).encode() + b',"w":' + json.dumps(F4).encode() + b"}", b"abcd"), "twice"),
    (raw({"w": {**F4, "shape": [-1]}}, b"abcd"), "whole numbers"),
    (raw({"w": {**F4, "dtype": "Q3"}}, b"abcd"), "dtype"),
    (raw({"w": {**F4, "shape": [10**30]}}, b"abcd"), "offsets say 4"), (raw({"w": 3}, b""), "impossible"),
    (raw({"w": {**F4, "dtype": ["F32"]}}, b"abcd"), "dtype"), (raw({"w": {**F4, "shape": [True]}}, b"abcd"), "whole"),
])  # fmt: skip
def test_a_lying_header_is_refused_with_what_is_wrong(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with provoke("DL-DATA-022") as caught:
        read(path)
    assert says in str(caught.error) and "model.safetensors" in str(caught.error)


def test_a_missing_file_is_named(tmp_path):
    with provoke("DL-DATA-022") as caught:
        read_folder(tmp_path)
    assert "model.safetensors" in str(caught.error)


@pytest.mark.parametrize(("weight_map", "says"), [
    ({"a": "one.safetensors", "z": "two.safetensors"}, "two.safetensors"),
    ({"z": "one.safetensors"}, "does not hold z"),
    ({"a": "../one.safetensors"}, "missing"), ([1], "unreadable"), ({"a": 3}, "unreadable"),
])  # fmt: skip
def test_an_index_that_points_nowhere_is_refused(tmp_path, weight_map, says):
    write(tmp_path / "one.safetensors", entries())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with provoke("DL-DATA-022") as caught:
        read_folder(tmp_path)
    assert says in str(caught.error)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    write(path, entries())
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), Writer(path, {"a": ("U8", (3,))}):
        raise KeyboardInterrupt
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["x"]


def write_beyond_the_limit(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with provoke("DL-MEM-002") as caught:
        write(path, {"a": Entry("U8", (9000,), bytes(9000))})
    assert "takes 9,128 bytes" in caught.error.why


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    write(tmp_path / "x", entries())
    before = (tmp_path / "x").read_bytes()
    path = str(tmp_path / "x")
    code = f"import pathlib, test_tensorfile; test_tensorfile.write_beyond_the_limit(pathlib.Path({path!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    assert (tmp_path / "x").read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_file_that_is_removed_or_replaced_is_read_to_its_end(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, entries())
    found = read(path)
    write(path, {"a": Entry("F32", (3, 4), np.ones((3, 4), np.float32))})
    path.unlink()
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(array(taken(found[name])), expected)
    np.testing.assert_array_equal(array(taken(found["a"], (1, 3))), ARRAYS["a"][1:3])
    np.testing.assert_array_equal(array(taken(entries()["a"], (1, 3))), ARRAYS["a"][1:3])


@pytest.mark.parametrize(("fault", "why"), [
    (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes when it was opened"),
    (lambda path: os.truncate(path, 0), "and has 0 now"),
    (lambda path: path.write_bytes(path.read_bytes() + b"more"), "bytes when it was opened"),
    (lambda path: os.utime(path, ns=(0, 1)), "somebody has written to it"),
])  # fmt: skip
def test_a_file_that_changes_while_it_is_read_is_named(fault, why, tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, entries())
    found = read(path)
    fault(path)
    with provoke("DL-DATA-022") as caught:
        taken(found["a"])
    assert caught.error.where == str(path) and why in caught.error.why
