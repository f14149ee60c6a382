"""Our fast encoder gives the tokenizer's own ids; transformers loads the folder and agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from danlu import native
from danlu.data import bpe
from danlu.data.encoder import Encoder

WORDS = "the don't they'll we've I'm 'quoted' x=1; f(a,b) \t\n\n   indent  def main(): return 0x1F 12 #!/ 炼丹 丹炉 é ß"
TEXT = [f"{WORDS} {number}\n    line {number * 7919}\r\n" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(TEXT, 400)


pieces = st.sampled_from([*WORDS.split(" "), " ", "  ", "\n", "\n\n", "\t", "\r", "\x0b", "'s", "'", "\x00", "\x1c",
                          "\u2028", "\xa0", "\u3000", "\x85", "😀", bpe.END, "<|", "\u0301",
                          "ab" * 40, "丹炉" * 9, "炼" * 60,
                          "\U0001c800", "\U000e0100", "\U000323b0", "²", "Ⅷ", "٣"])  # fmt: skip


@given(st.lists(pieces | st.text(max_size=5), max_size=40))
def test_ids_are_the_tokenizers_own(tokenizer, words):
    text = "".join(words)
    encoder = Encoder(tokenizer)
    (ids,) = encoder.encode([text])
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert encoder.in_python([text]) == [ids]  # what runs without a compiler
    assert encoder.encode([text, text[1:], text])[::2] == [ids, ids]  # also from memory
    assert tokenizer.token_to_id(bpe.END) not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


LETTERS = "丹炉炼的了是在abאבไทย한국😀😁"  # of few bytes, so that tokens end and begin inside of characters


@given(st.lists(st.text(LETTERS, min_size=4, max_size=50), min_size=1, max_size=12), st.integers(260, 420), st.data())
def test_ids_of_rows_without_blanks_are_the_tokenizers_own(learned, vocab, data):
    tokenizer = bpe.train(learned, vocab)
    encoder = Encoder(tokenizer)
    for text in [*learned, *data.draw(st.lists(st.text(LETTERS, min_size=7, max_size=90), max_size=4))]:
        assert encoder.encode([text]) == [tokenizer.encode(text, add_special_tokens=False).ids]


SPELT = st.text("abc", min_size=1, max_size=5)


@given(st.lists(st.tuples(SPELT, SPELT), max_size=14), st.lists(st.text("abc", max_size=40), max_size=6))
def test_merges_in_any_order_give_the_tokenizers_ids(pairs, texts):
    """Also those no text teaches: of parts that come later or never, and two that spell one token."""
    tokenizer = bpe.train([], 257)
    known = json.loads(tokenizer.to_str())
    names = {*"abc", *(a + b for a, b in pairs)}
    merges = [pair for pair in dict.fromkeys(pairs) if names.issuperset(pair)]
    for a, b in merges:
        known["model"]["vocab"].setdefault(a + b, len(known["model"]["vocab"]))
    merges = [pair for pair in merges if known["model"]["vocab"].keys() >= set(pair)]
    tokenizer = Tokenizer.from_str(json.dumps({**known, "model": {**known["model"], "merges": merges}}))
    for text, ids in zip(texts, Encoder(tokenizer).encode(texts), strict=True):
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_the_memory_starts_anew_when_it_is_full(tokenizer, monkeypatch):
    monkeypatch.setattr("danlu.data.encoder.REMEMBERED", 5)
    encoder = Encoder(tokenizer)
    for text in TEXT:
        assert encoder.in_python([text]) == [tokenizer.encode(text, add_special_tokens=False).ids]


def test_a_row_without_blanks_is_encoded_in_seconds(tokenizer):
    text = "".join(map(chr, range(33, 127))) * 3000 + "ab" * 50_000
    (ids,) = Encoder(tokenizer).encode([text])
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_learning_is_deterministic_and_gives_the_size_asked_for(tokenizer):
    assert bpe.train(TEXT, 400).to_str() == bpe.train(TEXT, 400).to_str()
    assert bpe.train(TEXT, 300).get_vocab_size() == 300


def test_transformers_loads_the_folder(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    bpe.save(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token == bpe.END
    assert theirs(TEXT[3])["input_ids"] == Encoder(tokenizer).encode(TEXT[3:4])[0]
    assert theirs.decode(theirs(WORDS)["input_ids"]) == WORDS


SANITIZED = """
import pathlib, random, sys
from danlu import native
from danlu.data import bytelevel, encoder
library = native.open_library(pathlib.Path(sys.argv[1]))
vocab = {each: number for number, each in enumerate(bytelevel.WRITTEN.values())}
pairs = [("a", "b"), ("ab", "ab"), ("e", "\\u0120"), ("abab", "a")]
vocab |= {a + b: 256 + number for number, (a, b) in enumerate(pairs)}
made = encoder._Native(library, {"vocab": vocab, "merges": [list(pair) for pair in pairs]})
rng = random.Random(4)
parts = [b"ab", b"abab", b" ", b"\\n", b"'", b"'s", b"'r", b"7", b"\\xe4", b"\\xe4\\xb8\\xad", b"\\xf4\\x90\\x80\\x80"]
parts += [b"\\xf0\\x9f", b"\\x80"]
for size in range(200):
    made.encode([b"".join(rng.choices(parts, k=size)), rng.randbytes(size), b"", b"ab" * size, b"'", b" "])
for number in range(300_000):
    if number % 1000 == 0:
        words = [b"w%d" % each for each in range(number, number + 1000)]
        ids, _ = made.encode([b" ".join(words)])
        assert bytes(ids.tolist()) == b" ".join(words)
"""


@pytest.mark.procs
def test_the_native_encoder_is_clean_under_sanitizers():
    if not native.runs("ref"):
        pytest.skip("no native library")
    built = native.build(extra=("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    asked = [native.compiler() or "", "-print-file-name=libasan.so"]
    asan = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(built.path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
