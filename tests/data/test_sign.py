"""The native pass against numpy: equal to the last bit on any bytes, wherever blocks and texts end."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu import native
from danlu.data import sign

RUNNING = [isa for isa in ("ref", "avx2") if sign.implementation(isa)]
each_isa = pytest.mark.parametrize("isa", RUNNING)
pytestmark = pytest.mark.skipif(not RUNNING, reason="no native library")

# Bytes that decide what their neighbours are, whole characters and torn ones.
PARTS = [b"a", b"Z", b"7", b" ", b"\n", b"\0", b"word", b"x" * 9, b"longer" * 20, b"\xe2", b"\xe2\x80", b"\xe3\x80\x82",
         b"\xef", b"\xef\xbc", b"\xef\xbc\x8c", b"\xef\xbc\xa1", "炼".encode(), "丹炉".encode(), "é".encode(),
         "😀".encode(), b"\xe4", b"\xe4\xb8", b"\xff", b"\x80", b"\xbc", b"\xa1", b"\xa0"]  # fmt: skip
pieces = st.lists(st.sampled_from(PARTS), max_size=60).map(b"".join)
texts = st.lists(st.one_of(st.binary(max_size=200), pieces, st.text(max_size=100).map(str.encode)), max_size=5)


def same(isa: str, texts: list[bytes]) -> None:
    for once in (False, True):
        ours, truth = sign.with_native(isa, texts, once=once), sign.with_numpy(texts, once=once)
        np.testing.assert_array_equal(ours.starts, truth.starts)
        np.testing.assert_array_equal(ours.flat, truth.flat)
        np.testing.assert_array_equal(ours.signatures, truth.signatures)


@each_isa
@given(texts=texts.filter(len))
def test_native_equals_numpy_on_any_bytes(isa, texts):
    same(isa, texts)


@each_isa
def test_native_equals_numpy_on_long_texts(isa):
    rng = random.Random(11)
    made = [b"".join(rng.choices(PARTS, k=rng.randrange(3000))) for _ in range(20)]
    same(isa, [*made, rng.randbytes(50_000), b"", b"y" * 5000])


@given(texts=texts.filter(lambda texts: len(texts) > 1))
def test_a_signature_depends_on_its_text_alone(texts):
    for once in (False, True):
        together = sign.with_numpy(texts, once=once).signatures
        alone = [sign.with_numpy([text], once=once).signatures for text in texts]
        np.testing.assert_array_equal(together, np.concatenate(alone))


@each_isa
def test_no_texts_have_no_signatures(isa):
    nothing = sign.with_native(isa, [])
    assert nothing.signatures.shape == (0, 112) and len(nothing.flat) == len(nothing.starts) == 0


SANITIZED = """
import pathlib, random, sys
from danlu import native
library = native.open_library(pathlib.Path(sys.argv[1]))
native.library = lambda: library
sys.path.insert(0, sys.argv[2])
import test_sign
rng = random.Random(2)
for size in range(140):
    texts = [rng.randbytes(size), b"".join(rng.choices(test_sign.PARTS, k=size)), b"e" * size, b""]
    for isa in test_sign.RUNNING:
        test_sign.same(isa, texts)
"""


@pytest.mark.procs
def test_the_native_pass_is_clean_under_sanitizers():
    built = native.build(extra=("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    asked = [native.compiler() or "", "-print-file-name=libasan.so"]
    asan = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", SANITIZED, str(built.path), os.path.dirname(__file__)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
