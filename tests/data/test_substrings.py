"""Repeated runs of words against all windows compared: the same words go, in any texts and any order."""

from __future__ import annotations

import random
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import minhash, runs
from danlu.data.document import Document
from danlu.data.sign import sign
from danlu.data.steps import substrings


def brute(texts: list[list[str]], length: int) -> list[list[bool]]:
    """Every window of every document, the plain way."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for words in texts:
        gone = [False] * len(words)
        for i in range(len(words) - length + 1):
            window = tuple(words[i : i + length])
            if window in seen:
                gone[i : i + length] = [True] * length
            seen.add(window)
        found.append(gone)
    return found


def ours(texts: list[list[str]], length: int) -> list[list[bool]]:
    seen = runs.Seen(length)
    signed = sign([" ".join(words).encode() for words in texts])
    parts = np.split(signed.flat, signed.starts[1:])
    return [seen.repeated(part)[: len(words)].tolist() for words, part in zip(texts, parts, strict=True)]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), min_size=1, max_size=5), st.integers(6, 14))
def test_periodic_texts_lose_what_all_windows_say(texts, length):
    assert ours(texts, length) == brute(texts, length)


@given(st.integers(0, 2**32), st.integers(6, 30))
def test_copied_passages_are_found_wherever_they_stand(seed, length):
    rng = random.Random(seed)
    passages = [[f"p{rng.randrange(50)}" for _ in range(rng.randrange(1, 60))] for _ in range(5)]
    texts = [sum(rng.choices([*passages, [f"own{rng.random()}" for _ in range(rng.randrange(1, 9))]],
                             k=rng.randrange(1, 9)), []) for _ in range(6)]  # fmt: skip
    texts = [[word.replace(".", "") for word in words] for words in texts]
    assert ours(texts, length) == brute(texts, length)


@given(st.text(st.sampled_from("aB7 \n-.é炼丹，。“”Ａｚ！😀〜カ"), max_size=200), st.randoms())
def test_a_cut_text_has_the_words_that_stay(text, rng):
    words = [found[0] for found in minhash.WORD.finditer(text)]
    gone = np.array([rng.random() < 0.5 for _ in words], bool)
    left = substrings.without(text, gone)
    spaced = re.findall(minhash.WORD, left)
    assert "".join(spaced) == "".join(word for word, is_gone in zip(words, gone, strict=True) if not is_gone)


@given(st.text(max_size=300))
def test_words_of_the_expression_are_those_of_the_shingles(text):
    flat, _ = minhash.shingles([text.encode()])
    assert len(flat) == max(1, len(minhash.WORD.findall(text)) - 4)


def test_the_step_cuts_copies_and_drops_what_is_little_else():
    rng = random.Random(5)
    quote = " ".join(f"word{rng.randrange(10**6)}" for _ in range(60))
    own = [" ".join(f"own{rng.randrange(10**6)}" for _ in range(90)) for _ in range(3)]
    texts = [f"{own[0]}.\n{quote}!\n", f"{own[1]}\n\n{quote.upper()}, and\n{own[2]}\n", f"{quote} short\n"]
    dropped: list[str] = []
    made = substrings.configured({"words": 50})
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    kept = {each.key: each.text for each in made(documents, lambda document, why: dropped.append(why))}
    assert kept == {"0": texts[0], "1": f"{own[1]}\n\nand\n{own[2]}\n"}
    (why,) = dropped
    assert "50 words" in why


def test_options_that_mean_nothing_are_refused():
    for options in ({"words": 3}, {"length": 50}, "fifty"):
        with provoke("DL-CFG-002"):
            substrings.configured(options)
