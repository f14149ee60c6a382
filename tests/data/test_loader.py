"""The loader's order: every window once an epoch, from nothing but a seed and a step."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import bpe, encode, token_file
from danlu.data.document import Document
from danlu.data.loader import Loader
from danlu.data.order import permute
from danlu.data.stream import BLOCK, Stream
from danlu.errors import DamagedTokens, NewerFormat

DOCUMENTS = [Document(f"doc {n}", f"Document {n} counts {n * n} and {n * 31 % 97}.\n" * 3) for n in range(120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = bpe.train((each.text for each in DOCUMENTS), 320)
    held = encode.held_out({each.key: len(each.text) for each in DOCUMENTS})
    encode.encode(DOCUMENTS, held, tokenizer, folder, {}, len(DOCUMENTS), lambda words, share: None)
    return folder


@given(st.integers(1, 3000), st.integers(0, 2**64))
def test_an_order_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size, dtype=np.uint64), size, key).tolist()) == list(range(size))


def test_orders_differ_by_key_and_look_random():
    places = np.arange(10_000, dtype=np.uint64)
    one, two = (permute(places, 10_000, key).astype(float) for key in (1, 2))
    assert (one == two).mean() < 0.01
    assert abs(np.corrcoef(one, places)[0, 1]) < 0.05 and abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


def test_every_window_comes_once_an_epoch(made):
    load = Loader(made, seq=16, batch=4, seed=1)
    stream = np.fromfile(made / "train.bin", "<u2")
    windows = {stream[i * 16 : i * 16 + 17].tobytes(): i for i in range(load.windows)}
    steps = 3 * load.windows // 4
    rows = [row.astype("<u2").tobytes() for step in range(steps) for row in load.batch_at(step)]
    for epoch in range(2):
        seen = [windows[row] for row in rows[epoch * load.windows : (epoch + 1) * load.windows]]
        assert len(set(seen)) == load.windows
    assert rows[: load.windows] != rows[load.windows : 2 * load.windows]


def test_a_batch_is_a_pure_function_of_the_step(made):
    load = Loader(made, seq=16, batch=8, seed=3)
    first = [load.batch_at(step) for step in range(12)]
    again = Loader(made, seq=16, batch=8, seed=3)
    assert all(np.array_equal(first[step], again.batch_at(step)) for step in reversed(range(12)))
    assert first[0].shape == (8, 17) and first[0].dtype == np.int64
    assert not np.array_equal(first[0], Loader(made, seq=16, batch=8, seed=4).batch_at(0))


def test_state_is_small_and_tells_another_run_from_this_one(made):
    load = Loader(made, seq=16, batch=8, seed=3)
    state = json.loads(json.dumps(load.state()))
    assert len(json.dumps(state)) < 1024
    load.check(state)
    with provoke("DL-DATA-067") as caught:
        Loader(made, seq=16, batch=8, seed=4).check(state)
    assert "seed" in caught.error.what


def test_held_out_documents_are_whole_and_never_in_training(made):
    manifest = token_file.manifest_of(made)
    held, train = (manifest["splits"][name]["documents"] for name in ("held", "train"))
    assert held + train == len(DOCUMENTS) and 1 <= held <= len(DOCUMENTS) // 2
    ids = np.fromfile(made / "held.bin", "<u2").tolist()
    assert ids[-1] == manifest["end"] and ids.count(manifest["end"]) == held
    assert Loader(made, seq=8, batch=1, seed=0, split="held").batch_at(0).shape == (1, 9)


@given(st.dictionaries(st.text(max_size=5), st.integers(1, 5000), max_size=30))
def test_some_but_at_most_half_of_the_documents_are_held_out(sizes):
    held = encode.held_out(sizes)
    assert held <= sizes.keys() and (len(sizes) < 2 or 1 <= len(held) <= len(sizes) / 2)
    assert len(held) == len(sizes) // 2 or sum(sizes[key] for key in held) >= encode.LEAST_HELD


def test_of_a_large_corpus_about_two_percent_is_held_out():
    held = encode.held_out({f"doc {number}": 3000 for number in range(5000)})
    assert 70 < len(held) < 130
    assert held == {f"doc {number}" for number in range(5000) if f"doc {number}" in encode.HeldByName()}


def test_the_unigram_entropy_is_that_of_the_counts(made):
    counts = np.bincount(np.fromfile(made / "train.bin", "<u2"))
    share = counts[counts > 0] / counts.sum()
    assert token_file.manifest_of(made)["unigram_entropy"] == pytest.approx(-(share * np.log(share)).sum())


def test_too_few_tokens_say_how_many_are_needed(made):
    with provoke("DL-DATA-066") as caught:
        Loader(made, seq=4096, batch=64, seed=0)
    assert "262,145" in caught.error.why


def copied(made: Path, into: Path) -> Path:
    for path in made.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    return into


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_missing_and_cut_tokens_are_refused(made, tmp_path):
    with provoke("DL-DATA-065"):
        token_file.manifest_of(tmp_path)
    copied(made, tmp_path)
    assert token_file.verify(tmp_path) == []
    for name in ("train.bin", "train.ends", "held.crc"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-2])
        with provoke("DL-DATA-065") as caught:
            Loader(tmp_path, seq=16, batch=1, seed=0)
        assert name in str(caught.error)
        (tmp_path / name).write_bytes(whole)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"tokens": 3,', '"tokens": 7,', 1))
    with provoke("DL-DATA-062"):
        token_file.manifest_of(tmp_path)


@pytest.mark.parametrize("packing", ["cut", "best_fit"])
def test_a_flipped_bit_is_found_by_whoever_reads_it_and_names_its_file(made, tmp_path, packing):
    files = {"train.bin": 4099, "train.ends": 47, "train.crc": 1}  # the last byte of an end: 2^62 tokens in a document
    for name, at in files.items():
        flip(copied(made, tmp_path) / name, at, 6)
        assert [each.partition(":")[0] for each in token_file.verify(tmp_path)][0] == name
        if name == "train.ends" and packing == "cut":
            continue  # its order needs none
        with provoke("DL-DATA-065") as caught:
            load = Loader(tmp_path, seq=16, batch=8, seed=0, packing=packing)
            for step in range(load.windows // 8):
                load.batch_at(step)
        assert name in str(caught.error) and "rm -r" in str(caught.error)
    flip(copied(made, tmp_path) / "tokenizer.json", 100)
    assert "tokenizer.json" in token_file.verify(tmp_path)[0]


def test_any_flipped_bit_of_a_token_manifest_is_refused(made, tmp_path):
    path = copied(made, tmp_path) / "manifest.json"
    text, truth = path.read_bytes(), token_file.manifest_of(tmp_path)
    rng = random.Random(7)
    for _ in range(200):
        flip(path, rng.randrange(len(text)), rng.randrange(8))
        try:
            assert {**token_file.manifest_of(tmp_path), "tokens": 3} == truth  # between two words, or of the version
        except (DamagedTokens, NewerFormat):
            pass
        path.write_bytes(text)


@given(st.lists(st.binary(max_size=3 * BLOCK), max_size=6))
@settings(max_examples=20)
def test_sums_are_those_of_whole_blocks_however_the_bytes_come(pieces):
    sums, data = token_file.Sums(), b"".join(pieces)
    for piece in pieces:
        sums.add(piece)
    assert sums.array().tolist() == [zlib.crc32(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]


def test_tokens_over_several_blocks_are_read_and_a_damaged_block_spoils_no_other(tmp_path):
    ids = np.random.default_rng(3).integers(0, 60_000, 3 * BLOCK // 2 + 77, dtype=np.uint16)
    (tmp_path / "ids").write_bytes(ids.tobytes())
    sums = token_file.Sums()
    sums.add(ids.tobytes())
    flip(tmp_path / "ids", BLOCK + 5)
    stream = Stream(tmp_path / "ids", "uint16", len(ids), sums.array())
    half = BLOCK // 2
    for start, count in ((0, half), (half - 1, 1), (2 * half, half + 77), (len(ids) - 1, 1), (5, 3)):
        assert stream.read(start, count).tolist() == ids[start : start + count].tolist()
    for start, count in ((half - 1, 2), (half + 100, 4), (2 * half - 1, 9), (0, len(ids))):
        with provoke("DL-DATA-065") as caught:
            stream.read(start, count)
        assert "bytes 65536 to 131072" in caught.error.why
