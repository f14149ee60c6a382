"""Best-fit packing: equal to placing pieces one by one; every token stands once; what fits is whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import bpe, encode, token_file
from danlu.data.document import Document
from danlu.data.loader import NO_TARGET, Loader
from danlu.data.packing import pack

TEXTS = [Document(f"d{n}", f"Paper {n} has {n * n % 89} and {n * 31 % 97} words. " * (1 + n % 9)) for n in range(150)]


def one_by_one(sizes: list[int], seq: int) -> int:
    """Sequences that best-fit decreasing needs, a piece at a time."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fits = [room for room in rooms if room >= size]
        if fits:
            rooms.remove(min(fits))
        rooms.append((min(fits) if fits else seq) - size)
    return len(rooms)


@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 70), st.integers(1, 40))
def test_every_token_stands_once_and_what_fits_is_whole(seed, count, longest, seq):
    sizes = np.random.default_rng(seed).integers(1, longest + 1, count).tolist()
    packed = pack(np.cumsum(sizes), seq)
    assert sorted(at for start, size in zip(packed.starts, packed.sizes, strict=True)
                  for at in range(start, start + size)) == list(range(sum(sizes)))  # fmt: skip
    assert max(np.add.reduceat(packed.sizes, packed.edges[:-1])) <= seq and min(np.diff(packed.edges)) > 0
    pieces = set(zip(packed.starts.tolist(), packed.sizes.tolist(), strict=True))
    begins = np.cumsum(sizes) - sizes
    assert pieces >= {(begin, size) for begin, size in zip(begins.tolist(), sizes, strict=True) if size <= seq}
    cut = [piece for size in sizes for piece in [seq] * (size // seq) + [size % seq] * (size % seq > 0)]
    assert packed.sequences == one_by_one(cut, seq)


def test_documents_of_many_lengths_leave_a_thousandth_unfilled():
    sizes = np.random.default_rng(3).lognormal(6, 1.2, 20_000).astype(np.int64) + 2
    packed = pack(np.cumsum(sizes), 2048)
    assert 1 - sizes.sum() / (packed.sequences * 2048) <= 0.001


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = bpe.train((each.text for each in TEXTS), 320)
    encode.encode(TEXTS, frozenset({"d3", "d70"}), tokenizer, folder, {}, len(TEXTS), lambda words, share: None)
    return folder


def test_every_token_is_a_target_once_an_epoch_and_begins_after_its_own_past(tokens):
    load, stream = Loader(tokens, seq=64, batch=1, seed=5, packing="best_fit"), np.fromfile(tokens / "train.bin", "<u2")
    epoch = np.concatenate([load.batch_at(step) for step in range(load.windows)])
    targets = epoch[:, 1:]
    assert np.array_equal(np.bincount(targets[targets != NO_TARGET]), np.bincount(stream))
    assert (epoch[:, 0] != NO_TARGET).all()
    assert load.padding == pytest.approx((targets == NO_TARGET).mean())
    text = stream.tobytes()
    alone = [row[row != NO_TARGET].astype("<u2") for row in epoch if (row == load.manifest["end"]).sum() <= 1]
    assert alone and all(row[1:].tobytes() in text for row in alone)


def test_the_order_is_a_function_of_seed_and_step_and_names_its_packing(tokens):
    one, two = (Loader(tokens, seq=32, batch=4, seed=2, packing="best_fit") for _ in range(2))
    assert all(np.array_equal(one.batch_at(step), two.batch_at(step)) for step in (9, 0, 30))
    cut = Loader(tokens, seq=32, batch=4, seed=2)
    cut.check({name: value for name, value in cut.state().items() if name != "packing"})
    with provoke("DL-DATA-067") as caught:
        one.check({name: value for name, value in one.state().items() if name != "packing"})
    assert "packing" in caught.error.what


@pytest.mark.parametrize("version", [1, 2])
def test_a_token_file_of_a_version_before_packs_alike(tokens, tmp_path, version):
    left = {1: ("crc", "ends"), 2: ("crc",)}[version]
    for path in tokens.iterdir():
        if path.suffix[1:] not in left:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tokens / "manifest.json").read_text()) | {"tokens": version}
    del manifest["crc32"], manifest["tokenizer.json"]
    for split in manifest["splits"].values():
        for each in left:
            del split[each], split[f"{each}_blake2b"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    old, new = (Loader(folder, seq=48, batch=3, seed=1, packing="best_fit") for folder in (tmp_path, tokens))
    assert all(np.array_equal(old.batch_at(step), new.batch_at(step)) for step in range(8))
    assert token_file.verify(tmp_path) == []


def test_ends_that_are_cut_or_flipped_are_refused(tokens, tmp_path):
    for path in tokens.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ends = (tmp_path / "train.ends").read_bytes()
    (tmp_path / "train.ends").write_bytes(ends[:-8])
    with provoke("DL-DATA-065"):
        Loader(tmp_path, seq=16, batch=1, seed=0)
    (tmp_path / "train.ends").write_bytes(bytes([ends[0] ^ 1]) + ends[1:])
    assert token_file.verify(tmp_path) == ["train.ends: it has another digest than when it was written"]
