"""The loader's order: every window once an epoch, from nothing but a seed and a step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import bpe, encode, loader
from danlu.data.document import Document
from danlu.data.loader import Loader
from danlu.data.order import permute

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
    manifest = loader.manifest_of(made)
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


def test_the_unigram_entropy_is_that_of_the_counts(made):
    counts = np.bincount(np.fromfile(made / "train.bin", "<u2"))
    share = counts[counts > 0] / counts.sum()
    assert loader.manifest_of(made)["unigram_entropy"] == pytest.approx(-(share * np.log(share)).sum())


def test_too_few_tokens_say_how_many_are_needed(made):
    with provoke("DL-DATA-066") as caught:
        Loader(made, seq=4096, batch=64, seed=0)
    assert "262,145" in caught.error.why


def test_missing_cut_and_flipped_tokens_are_refused(made, tmp_path):
    with provoke("DL-DATA-065"):
        loader.manifest_of(tmp_path)
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    loader.verify(tmp_path)
    whole = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(whole[:-2])
    with provoke("DL-DATA-065"):
        Loader(tmp_path, seq=16, batch=1, seed=0)
    (tmp_path / "train.bin").write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with provoke("DL-DATA-065"):
        loader.verify(tmp_path)
    ends = bytearray((tmp_path / "train.ends").read_bytes())
    ends[len(ends) // 2 | 7] ^= 1 << 6  # a document would be 2^62 tokens long
    (tmp_path / "train.ends").write_bytes(ends)
    with provoke("DL-DATA-065"):
        Loader(tmp_path, seq=16, batch=1, seed=0, packing="best_fit")
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"tokens": 2,', '"tokens": 7,', 1))
    with provoke("DL-DATA-062"):
        loader.manifest_of(tmp_path)
