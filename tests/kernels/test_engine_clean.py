"""The native engine touches nothing beyond its buffers, in any family and of damaged files: a sanitizer build."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from danlu import native

SANITIZED = """
import pathlib, sys
from danlu import native
library = native.open_library(pathlib.Path(sys.argv[1]))
native.library = lambda: library
sys.path.insert(0, sys.argv[2])
import test_program
for name in test_program.SPECS:
    test_program.test_every_family_in_chunks_and_side_by_side(name, "auto", 2)
for family, precision in test_program.FOUR_BITS:
    test_program.test_4_bit_weights_beside_their_own_values(family, precision)
import damaged
found = damaged.run_all(pathlib.Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
print(sum(found.values()) - found["ran"], found["ran"])
"""


def sanitized(place: str, seconds: float, seed: int) -> tuple[int, int]:
    """How many damaged files were refused by name, and how many ran; anything else fails with the seed."""
    built = native.build(extra=("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    asked = [native.compiler() or "", "-print-file-name=libasan.so"]
    asan = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path)}
    here = os.path.dirname(__file__)
    argv = [sys.executable, "-c", SANITIZED, str(built.path), here, place, str(seconds), str(seed)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed from {seed}: {done.stderr[-3000:]}"
    refused, ran = map(int, done.stdout.split()[-2:])
    return refused, ran


@pytest.mark.procs
@pytest.mark.timeout(900)  # of which a first build takes up to five minutes on a busy machine
def test_the_engine_is_clean_under_sanitizers_on_damaged_files_too(tmp_path):
    refused, ran = sanitized(str(tmp_path), 4, 0)
    assert refused > 10 and ran > 5


@pytest.mark.system
@pytest.mark.procs
@pytest.mark.timeout(900)
def test_minutes_of_damaged_files_of_a_seed_never_seen(tmp_path):
    refused, ran = sanitized(str(tmp_path), 180, random.SystemRandom().randrange(1 << 40))
    assert refused > 100 and ran > 50
