"""The vocabulary learned natively is the one the tokenizers package learns, to the last merge and id."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu import native
from danlu.data import bpe

pytestmark = pytest.mark.skipif(not native.runs("ref"), reason="no native library")
pieces = st.sampled_from(["a", "b", "ab", "aa", " ", "   ", "-", "=", "--", "1", "é", "炼丹", "\U0001c800",
                          "\U000323b0", "'s", "'", "\n", "\x00", "😀", bpe.END, "the", " of", "\u3000"])  # fmt: skip
texts = st.lists(st.lists(pieces | st.text(max_size=4), max_size=60).map("".join), max_size=5)


@given(texts, st.integers(250, 420))
def test_merges_are_those_of_the_package(texts, vocab):
    assert bpe.train(texts, vocab).to_str() == bpe.by_package(texts, vocab).to_str()


@given(st.integers(0, 1 << 30), st.integers(1, 40), st.integers(258, 330), st.integers(1, 60_000))
@settings(max_examples=12)
def test_rare_pairs_that_are_left_out_change_no_merge(seed, letters, vocab, row):
    """Text that hardly repeats: pairs that stand seldom are not kept, unless it turns out that their turn comes."""
    alphabet = (string.ascii_lowercase + "的一是了ไทย")[:letters]
    text = "".join(random.Random(seed).choices(alphabet, k=60_000))
    rows = [text[begin : begin + row] for begin in range(0, len(text), row)]
    assert bpe.train(rows, vocab).to_str() == bpe.by_package(rows, vocab).to_str()


def test_a_long_learning_text_gives_the_same_merges():
    lines = (
        f"def f_{n % 97}(x{n % 13}):\n    return {n * 7919} != 'don''t' # {'=' * (n % 23)} ünï {chr(0x4E00 + n % 900)}"
        for n in range(6000)
    )
    text = list(lines)
    assert bpe.train(text, 2000).to_str() == bpe.by_package(text, 2000).to_str()


SANITIZED = """
import pathlib, random, sys
from danlu import native
from danlu.data import learn
library = native.open_library(pathlib.Path(sys.argv[1]))
native.library = lambda: library
rng = random.Random(4)
for size in range(60):
    made = ["".join(rng.choices(["a", "b", " ", "ab", "1", "\\U000323b0", "\\n"], k=size)) for _ in range(size % 4)]
    learn.merges([*made, "x" * size], 256 + size, range(1, 257), str.split)
words = " ".join(f"w{number}" for number in range(40_000))
assert len(learn.merges([words], 500, range(1, 257), str.split)) == 500 - 257
"""


@pytest.mark.procs
def test_learning_is_clean_under_sanitizers():
    built = native.build(extra=("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    asked = [native.compiler() or "", "-print-file-name=libasan.so"]
    asan = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(built.path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
