"""Signatures against plain Python: the same shingles, the right similarity, no false duplicate."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data import minhash
from danlu.data.document import Document
from danlu.data.steps import near

WORD = re.compile("[\u3040-\u9fff]|[0-9a-z\u0080-\u1fff\u2040-\u2fff\ua000-\ufeff\uff21-\U0010ffff]+")
text = st.text(st.sampled_from("aB7 \n-.é炼丹，。“”Ａｚ！😀〜カ"), max_size=80)


def grams(text: str) -> list[tuple[str, ...]]:
    """The reference: words as the module says, SHINGLE of them in a row."""
    words = WORD.findall(re.sub("[A-Z]", lambda m: m[0].lower(), text)) or ["0"]
    return [tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))]


@given(st.lists(text, min_size=1, max_size=6))
def test_shingles_are_those_of_plain_python(texts):
    flat, starts = minhash.shingles([each.encode() for each in texts])
    ours = np.split(flat, starts[1:])
    names: dict[int, tuple[str, ...]] = {}
    for each, hashes in zip(texts, ours, strict=True):
        truth = grams(each)
        assert len(truth) == len(hashes), each
        for gram, number in zip(truth, hashes.tolist(), strict=True):
            assert names.setdefault(number, gram) == gram
    assert len(set(names.values())) == len(names)  # one hash per gram, one gram per hash


@pytest.mark.parametrize("made", [minhash.signatures, minhash.once])
def test_the_share_of_equal_minima_is_the_similarity(made):
    rng = random.Random(0)
    words = [f"w{number}" for number in range(3000)]
    for kept in (0.5, 0.8, 0.95):
        pairs = []
        for _ in range(30):
            first = [rng.choice(words) for _ in range(400)]
            cut = int(400 * kept)
            pairs.append((" ".join(first), " ".join([*first[:cut], *(rng.choice(words) for _ in range(400 - cut))])))
        flat, starts = minhash.shingles([each.encode() for pair in pairs for each in pair])
        signatures = made(flat, starts)
        grams_of = [np.unique(part) for part in np.split(flat, starts[1:])]
        errors = []
        for a in range(0, len(signatures), 2):
            both = len(np.intersect1d(grams_of[a], grams_of[a + 1]))
            truth = both / (len(grams_of[a]) + len(grams_of[a + 1]) - both)
            errors.append((signatures[a] == signatures[a + 1]).mean() - truth)
        assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.06, kept


def corpus(rng: random.Random, groups: int) -> list[Document]:
    made = []
    words = [f"{rng.choice('abcdefgh')}{number}" for number in range(2000)]
    for group in range(groups):
        base = [rng.choice(words) for _ in range(rng.randrange(60, 400))]
        for copy in range(rng.randrange(1, 4)):
            changed = list(base)
            for _ in range(rng.randrange(0, 2 + len(base) // 50)):
                changed[rng.randrange(len(changed))] = rng.choice(words)
            made.append(Document(f"{group}.{copy}", " ".join(changed)))
    rng.shuffle(made)
    return made


def similarity(a: Document, b: Document) -> float:
    one, two = set(grams(a.text)), set(grams(b.text))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("signing", ["onepass", "permutations"])
def test_near_duplicates_are_found_and_nothing_else_is_dropped(signing):
    documents = corpus(random.Random(3), 60)
    dropped: dict[str, str] = {}
    step = near.configured({"signing": signing})
    kept = list(step(documents, lambda document, why: dropped.update({document.key: why})))
    assert len(kept) + len(dropped) == len(documents)
    by_key = {document.key: document for document in documents}
    order = [document.key for document in documents]
    for key, why in dropped.items():  # each names an earlier twin that stays and is truly that alike
        twin = by_key[why.rsplit(" ", 1)[-1]]
        assert similarity(by_key[key], twin) >= near.LEAST and twin in kept and order.index(twin.key) < order.index(key)
    pairs = [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :] if similarity(a, b) >= near.LEAST]
    assert len(pairs) <= 0.01 * len(dropped) + 1 and len(dropped) > 20


def test_chinese_near_duplicates_are_found():
    rng = random.Random(1)
    base = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(300))
    documents = [Document("a", base), Document("b", base[:150] + "丹" + base[151:]), Document("c", base[::-1])]
    assert [document.key for document in near.step(documents, lambda document, why: None)] == ["a", "c"]


def plain(shingles: list[int]) -> list[int]:
    """One permutation in bins, in plain Python: the reference of `once`."""
    count, none = minhash.BANDS * minhash.ROWS, 0xFFFFFFFF
    least = [none] * count
    for each in shingles:
        place = (each & none) * count >> 32
        least[place] = min(least[place], each >> 32)
    return [next((least[b] for b in [k, *minhash.ORDER[k].tolist()] if least[b] != none), none) for k in range(count)]


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=150), min_size=1, max_size=4))
def test_one_permutation_is_that_of_plain_python(texts):
    flat = np.array([each for text in texts for each in text], np.uint64)
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    assert minhash.once(flat, starts).tolist() == [plain(text) for text in texts]


def test_every_bin_asks_every_other_one_before_it_gives_up():
    assert (np.sort(minhash.ORDER, axis=1) == np.arange(minhash.BANDS * minhash.ROWS)).all()


def test_pairs_at_the_limit_share_a_band_as_often_as_the_module_says():
    rng = random.Random(4)
    found = {"once": 0, "signatures": 0}
    for number in range(300):
        words = [f"w{number}x{each}" for each in range(200)]
        other = list(words)
        for place in rng.sample(range(8, 192, 10), 4):  # each word takes its five 5-grams along
            other[place] = "other"
        flat, starts = minhash.shingles([" ".join(each).encode() for each in (words, other)])
        a, b = (set(part.tolist()) for part in np.split(flat, starts[1:]))
        assert 0.80 < len(a & b) / len(a | b) < 0.83
        for name in found:
            one, two = minhash.bands(getattr(minhash, name)(flat, starts))
            found[name] += bool((one == two).any())
    assert min(found.values()) > 0.97 * 300
