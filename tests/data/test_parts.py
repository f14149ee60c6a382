"""Cleaning in parts: the same bytes with any number of processes, killed or not, and whoever runs a part."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import spread
from danlu.data import parts, read_parts, reading
from danlu.data.document import Funnel
from danlu.data.ingest import Tell, ingest
from danlu.data.prep import Prepared, prep
from danlu.store.packs import Record, Store

STEPS = ["normalise", "length", {"language": ["en", "und"]}, "gopher_repetition", "exact", "near"]
WORDS = ["amber", "river", "stone", "calls", "under", "seven", "quiet", "lamps", "of", "the", "to", "and"]


def fill(folder: Path, count: int = 60) -> Path:
    folder.mkdir()
    for number in range(count):
        rng = random.Random(number // 2 if number % 20 == 1 else number)
        text = "".join(f"{' '.join(rng.choices(WORDS, k=9))}, {line} of {rng.random()}.\n" for line in range(12))
        (folder / f"{number}.txt").write_text(text if number % 15 else "menu\n" * 90)
    return folder


def done(text: Path, out: Path, workers: int) -> Prepared:
    with spread.executor("local", workers, None) as execute:
        return prep([text], out, vocab=400, limit_bytes=10**8, steps=STEPS, execute=execute, reads=True)


def seen(made: Prepared, out: Path) -> tuple[str, list[str], dict[str, int], dict[str, list[str]]]:
    names = ("train.bin", "held.bin", "tokenizer.json")
    tokens = blake2b(b"".join((made.tokens / name).read_bytes() for name in names)).hexdigest()
    log = sorted((out / "store" / "dropped.jsonl").read_text().splitlines())
    return tokens, log, made.dropped, made.examples


@pytest.mark.procs
def test_any_number_of_processes_makes_the_same_bytes_and_counts(tmp_path, monkeypatch):
    text = fill(tmp_path / "text")
    monkeypatch.setattr(parts, "PART_BYTES", 9000)
    truth = seen(done(text, tmp_path / "one", 1), tmp_path / "one")
    assert truth[2]["gopher_repetition.paragraphs" if "gopher_repetition.paragraphs" in truth[2] else "exact"]
    made = done(text, tmp_path / "two", 2)
    assert seen(made, tmp_path / "two") == truth
    assert not list((tmp_path / "two" / "store").glob("*/*/*/*")), "parts are in the stores, and nowhere else"


@pytest.mark.procs
def test_a_killed_prep_goes_on_with_the_parts_that_are_left(tmp_path):
    text, out = fill(tmp_path / "text", 150), tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from danlu.data import parts; parts.PART_BYTES = 4000\n"
        "sys.path.insert(0, sys.argv[3]); import test_parts\n"
        "test_parts.done(Path(sys.argv[1]), Path(sys.argv[2]), 2)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", code, str(text), str(out), str(Path(__file__).parent)]
    with subprocess.Popen(argv, env=env) as child:
        deadline = time.monotonic() + 60
        while not any(out.glob("store/reading/*/*/made")):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    (job,) = (out / "store" / "reading").iterdir()
    whole = [each for each in job.glob("[0-9]*") if read_parts.is_done(job, int(each.name))]
    kept = {pack.stat().st_ino for each in whole for pack in each.glob("*/*.pack")}
    subprocess.run(argv, env=env, check=True)
    assert kept and kept <= {pack.stat().st_ino for pack in out.glob("store/*/*.pack")}, "done parts are made again"
    assert seen(done(text, out, 2), out) == seen(done(text, tmp_path / "whole", 1), tmp_path / "whole")


def test_a_part_that_fails_says_why_and_where(tmp_path):
    raw(fill(tmp_path / "text"), tmp_path, 10**8, False)
    record = {"source": "test", "steps": [{"language": ["klingon"]}], "compares": []}
    folder = parts.prepare(tmp_path / "jobs", "clean", tmp_path / "raw", record)
    with provoke("DL-RUN-014") as caught, spread.local(2) as execute:
        parts.run(folder, execute, lambda words, share: None)
    assert "klingon" in caught.error.why or "language" in caught.error.why


def test_a_part_that_cannot_be_written_says_why(tmp_path):
    raw(fill(tmp_path / "text"), tmp_path, 10**8, False)
    record = {"source": "test", "steps": ["normalise"], "compares": ["exact"]}
    folder = parts.prepare(tmp_path / "jobs", "clean", tmp_path / "raw", record)
    (parts.place(folder, 0) / "marks.npz").mkdir(parents=True)  # found when the last part is computed and written
    with provoke("DL-RUN-014") as caught, spread.local(2) as execute:
        parts.run(folder, execute, lambda words, share: None)
    assert "marks.npz is in the way why: it is a folder" in caught.error.why


def test_an_executor_that_leaves_parts_out_is_noticed(tmp_path):
    with provoke("DL-RUN-014"):
        prep([fill(tmp_path / "text")], tmp_path / "out", vocab=400, limit_bytes=10**8, steps=STEPS,
             execute=lambda folder, numbers, tell: [])  # fmt: skip


def here(folder: Path, numbers: Iterable[int], tell: Tell) -> Iterator[int]:
    """Makes the parts in this process, of three in a row the last one first."""
    todo = iter(numbers)
    while some := list(islice(todo, 3)):
        for number in reversed(some):
            parts.make(folder, number)
            yield number


def raw(text: Path, out: Path, limit: int, reads: bool) -> tuple[list[Record], Funnel]:
    read = partial(reading.fill, out / "reading", here, STEPS) if reads else None
    funnel, _ = ingest([text], out / "raw", limit=limit, tell=lambda words, share: None, run=read)
    store = Store(out / "raw")
    found = list(store.scan())
    store.close()
    return found, funnel


@pytest.mark.parametrize("limit", [1, 2_000, 9_000, 30_000, 44_000, 10**8])
def test_files_read_in_parts_are_those_that_one_process_reads(tmp_path, monkeypatch, limit):
    text = fill(tmp_path / "text", 40)
    (text / "binary").write_bytes(b"\0" * 5000)
    (text / "packed.txt.gz").write_bytes(gzip.compress(b"of many words\n" * 900))
    (text / "torn.txt.gz").write_bytes(gzip.compress(random.Random(1).randbytes(3000))[:-900])
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    truth, made = raw(text, tmp_path / "one", limit, False), raw(text, tmp_path / "parts", limit, True)
    assert made == truth and (limit > 9000 or truth[1].bytes_in < limit + 13_000)


def whole(text: Path, out: Path, limit: int, execute: parts.Run | None) -> Prepared:
    return prep([text], out, vocab=400, limit_bytes=limit, steps=STEPS, execute=execute, reads=True)


@pytest.mark.parametrize("limit", [9_000, 30_000, 10**8])
def test_what_is_cleaned_as_it_is_read_is_what_one_process_cleans(tmp_path, monkeypatch, limit):
    text = fill(tmp_path / "text", 40)
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    made = whole(text, tmp_path / "parts", limit, here)
    assert seen(made, tmp_path / "parts") == seen(whole(text, tmp_path / "one", limit, None), tmp_path / "one")
    assert not list((tmp_path / "parts" / "store").glob("parts/*")), "all was cleaned as it was read"


def test_a_long_file_is_read_by_one_and_cleaned_by_all(tmp_path, monkeypatch):
    text = fill(tmp_path / "text", 40)
    lines = (f"Line {number} of a long file, {number % 97} and {number % 89}.\n" for number in range(6000))
    (text / "long").write_text("".join(lines))
    (text / "long.a").write_bytes(b"\0" * 99_000)  # one that has no text is of no account
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    jobs: list[tuple[str, int]] = []

    def noted(folder: Path, numbers: Iterable[int], tell: Tell) -> Iterator[int]:
        for number in here(folder, numbers, tell):
            jobs.append((parts.job_of(folder)["does"], number))
            yield number

    made = whole(text, tmp_path / "parts", 10**8, noted)
    assert seen(made, tmp_path / "parts") == seen(whole(text, tmp_path / "one", 10**8, None), tmp_path / "one")
    assert ("clean", 3) in jobs and not list((tmp_path / "parts" / "store").glob("parts/*"))


@pytest.mark.parametrize("fewest", [1, 16])  # 16: a long file among few is not cleaned by the one who reads it
def test_of_two_documents_with_one_name_only_the_later_one_is_cleaned(tmp_path, monkeypatch, fewest):
    text = fill(tmp_path / "text", 20)
    lines = (f"Line {number} of a file with two pieces, of {number % 7}.\n" for number in range(2500))
    (text / "long").write_text("".join(lines))
    (text / "long#1").write_text((text / "3.txt").read_text())  # the name of the other one's second piece
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    monkeypatch.setattr(reading, "FEWEST", fewest)
    made = whole(text, tmp_path / "parts", 10**8, here)
    assert seen(made, tmp_path / "parts") == seen(whole(text, tmp_path / "one", 10**8, None), tmp_path / "one")
    assert list((tmp_path / "parts" / "store").glob("parts/*")), "it was cleaned by ranges of hashes"


@pytest.mark.parametrize("first", [STEPS, STEPS[:2]])
def test_prep_killed_after_reading_takes_what_was_cleaned_by_the_same_steps(tmp_path, monkeypatch, first):
    text, out = fill(tmp_path / "text", 40), tmp_path / "out"
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    run = partial(reading.fill, out / "store" / "reading", here, first)
    ingest([text], out / "store" / "raw", limit=10**8, tell=lambda words, share: None, run=run)
    kept = {pack.stat().st_ino for pack in out.glob("store/reading/*/*/store/*.pack")}
    truth = seen(whole(text, tmp_path / "one", 10**8, None), tmp_path / "one")
    assert seen(whole(text, out, 10**8, here), out) == truth
    assert (kept <= {pack.stat().st_ino for pack in out.glob("store/clean/*.pack")}) == (first == STEPS)


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 400)), max_size=40), st.integers(100, 1000))
def test_ranges_hold_no_more_than_asked_and_leave_nothing_out(items, most):
    places = [(number << 58, size) for number, size in items]

    def weight(low: int, high: int) -> float:
        return sum(size for place, size in places if low <= place < high)

    ranges = parts.cut(weight, lambda done: most)
    edges = [(prefix << 64 - bits, prefix + 1 << 64 - bits) for bits, prefix in ranges]
    assert edges == sorted(edges) and all(one[1] <= two[0] for one, two in pairwise(edges))
    assert sum(weight(*each) for each in edges) == sum(size for _, size in places)
    for low, high in edges:
        inside = {place for place, _ in places if low <= place < high}
        assert weight(low, high) <= most or len(inside) == 1
