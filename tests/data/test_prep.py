"""Text folders as people have them, and a prep that may be killed at any moment."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pytest
from provoke import provoke

from danlu.cli import prep as command
from danlu.cli import prep_why as why_command
from danlu.data import encode, token_file, why
from danlu.data import prep as prep_module
from danlu.data.ingest import ingest
from danlu.data.prep import prep
from danlu.data.read import PIECE, Refused, Source, default_text, listing, read
from danlu.data.sources import MAX_EXPANSION
from danlu.store.packs import Store


def story(number: int, lines: int = 12) -> str:
    rng = random.Random(number)
    words = ["amber", "river", "stone", "calls", "under", "seven", "quiet", "lamps", "build", "north", "paper", "winds"]
    return "".join(f"{' '.join(rng.choices(words, k=9)).capitalize()}, {line} of {number}.\n" for line in range(lines))


def fill(folder: Path, count: int = 80) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = folder / f"part{number % 5}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.txt").write_text(story(number))
    return folder


def messy(folder: Path) -> Path:
    fill(folder)
    (folder / "picture.png").write_bytes(bytes(range(256)) * 20)
    (folder / "noise").write_bytes(bytes(range(1, 32)) * 30)
    (folder / "latin1.txt").write_bytes(("é" * 300 + " caf\n").encode("latin-1"))
    (folder / "one_bad_byte.txt").write_bytes(story(500).encode() + b"\xff caf\xe9\n")
    (folder / "a\nname.txt").write_text(story(501))
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xffname.txt"))).write_text(story(502))
    (folder / "copy.txt").write_text(story(3))
    (folder / "nearly.txt").write_text(story(4).replace("12 of", "13 of") + "One more line.\n")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to(folder / "absent")
    (folder / "empty.txt").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\0" * 99)
    (folder / "packed.txt.gz").write_bytes(gzip.compress(story(503).encode()))
    (folder / "cut.gz").write_bytes(gzip.compress(os.urandom(9000))[:4000])
    (folder / "bomb.gz").write_bytes(gzip.compress(b"boom " * 10_000_000))
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()
        os.chdir(folder)
        end.bind("socket")
        os.chdir(here)
    return folder


def digest(folder: Path) -> str:
    names = ("train.bin", "held.bin", "tokenizer.json")
    return blake2b(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def run(text: Path, out: Path, limit: int = 10**8):
    return prep([text], out, vocab=400, limit_bytes=limit)


def test_a_messy_folder_is_read_and_everything_else_is_counted(tmp_path):
    made = run(messy(tmp_path / "text"), tmp_path / "out")
    dropped = made.dropped
    assert dropped["binary"] == 2 and dropped["archive"] == 1
    assert (dropped["broken_utf8"], dropped["not_a_file"], dropped["unreadable"]) == (1, 2, 1)
    assert dropped["exact"] >= 1 and dropped["near"] == 1 and dropped["cut"] == 1
    assert made.docs_in == made.docs_kept + sum(dropped.values())
    store = Store(tmp_path / "out" / "store" / "raw")
    keys = {record.key.decode() for record in store.scan()}
    assert {"text/a\nname.txt", "text/bad\\xffname.txt", "text/packed.txt.gz", "text/one_bad_byte.txt"} <= keys
    assert not any("loop" in key for key in keys)
    assert b'{"repaired": 2}\n' in (store.get(b"text/one_bad_byte.txt") or b"")
    figures = made.figures
    assert figures["data.duplicates"] == dropped["exact"] and figures["data.near_duplicates"] == 1
    assert figures["data.dropped.binary"] == 2 and figures["data.vocab"] == 400
    assert token_file.verify(made.tokens) == []


def test_the_same_files_give_the_same_tokens_anywhere(tmp_path):
    one = run(fill(tmp_path / "a" / "text"), tmp_path / "out1")
    two = run(fill(tmp_path / "b" / "text"), tmp_path / "out2")
    assert digest(one.tokens) == digest(two.tokens)


@pytest.mark.parametrize("least", [1, 10**6])
def test_of_many_documents_names_say_who_is_held_out(tmp_path, monkeypatch, least):
    text = fill(tmp_path / "text")
    monkeypatch.setattr(encode, "HELD", 0.3)
    for module in (encode, prep_module):
        monkeypatch.setattr(module, "LEAST_HELD", least)  # with 10**6 others join, and names do not say it
    monkeypatch.setattr(prep_module, "MANY", 10)
    by_name = run(text, tmp_path / "names")
    monkeypatch.setattr(prep_module, "MANY", 10**9)
    assert digest(by_name.tokens) == digest(run(text, tmp_path / "list").tokens)


def test_a_second_call_does_nothing_and_a_changed_file_is_noticed(tmp_path):
    text = fill(tmp_path / "text")
    first = run(text, tmp_path / "out")
    stamp = (first.tokens / "train.bin").stat().st_mtime_ns
    again = run(text, tmp_path / "out")
    assert again.manifest == first.manifest and again.dropped == first.dropped
    assert (first.tokens / "train.bin").stat().st_mtime_ns == stamp
    (text / "part0" / "0.txt").write_text(story(900, 20))
    assert run(text, tmp_path / "out").manifest["made_by"] != first.manifest["made_by"]


def test_other_test_sets_at_the_same_place_clean_anew_and_options_are_refused_before_reading(tmp_path):
    text, tests, out = fill(tmp_path / "text"), tmp_path / "tests", tmp_path / "out"
    steps = [{"decontaminate": {"tests": [str(tests)]}}]
    for refused in (steps, [{"near": {"signing": "permutation"}}]):
        with provoke("DL-CFG-002"):
            prep([text], out, vocab=400, limit_bytes=10**8, steps=refused)
    assert not out.exists()
    tests.mkdir()
    counts = []
    for number in (1, 2):
        shutil.copy(text / f"part{number}" / f"{number}.txt", tests)
        counts.append(prep([text], out, vocab=400, limit_bytes=10**8, steps=steps).dropped["decontaminate"])
    assert counts[1] > counts[0] > 0


def test_a_limit_takes_the_same_sample_every_time(tmp_path):
    text = fill(tmp_path / "text")
    one, two = (ingest([text], tmp_path / name, limit=20_000, tell=lambda words, share: None)[0] for name in "ab")
    assert one == two and 20_000 <= one.bytes_in < 22_000
    keys = [{record.key for record in Store(tmp_path / name).scan()} for name in "ab"]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("line", [b"word " * 40_000, "丹炉".encode() * 60_000, story(1, 4000).encode()])
def test_a_long_file_is_cut_into_pieces_that_join_to_itself(tmp_path, line):
    (tmp_path / "long").write_bytes(line)
    pieces = list(read(Source("long", str(tmp_path / "long"), len(line), 0), 10**9))
    assert "".join(piece.text for piece in pieces) == line.decode()
    assert max(len(piece.text.encode()) for piece in pieces) <= PIECE and len(pieces) >= len(line) // PIECE


def test_no_file_takes_more_than_its_share(tmp_path):
    (tmp_path / "long").write_text(story(1, 5000))
    *pieces, last = read(Source("long", str(tmp_path / "long"), 300_000, 0), 100_000)
    assert isinstance(last, Refused) and last.rule == "cut" and len(pieces) == 2


def test_a_bomb_is_cut_early(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"boom " * 4_000_000))
    size = (tmp_path / "bomb.gz").stat().st_size
    *pieces, last = read(Source("bomb", str(tmp_path / "bomb.gz"), size, 0), 10**9)
    assert isinstance(last, Refused) and len(pieces) * PIECE <= size * MAX_EXPANSION + 3 * PIECE


def test_this_machine_has_text():
    sources, _ = listing(default_text())
    assert sum(source.size for source in sources) > 5_000_000
    assert not any("/site-packages/" in source.key for source in sources)


def test_one_small_text_is_enough(tmp_path):
    (tmp_path / "diary.txt").write_text(story(1, 400))
    made = prep([tmp_path / "diary.txt"], tmp_path / "out", vocab=400, limit_bytes=10**8)
    splits = made.manifest["splits"]
    assert splits["held"]["tokens"] * 15 > splits["train"]["tokens"] > splits["held"]["tokens"] * 5


def test_folders_without_text_say_so(tmp_path):
    out = tmp_path / "out"
    with provoke("DL-DATA-064"):
        run(tmp_path / "absent", out)
    (tmp_path / "empty").mkdir()
    with provoke("DL-DATA-064"):
        run(tmp_path / "empty", out)
    (tmp_path / "empty" / "image").write_bytes(b"\0" * 5000)
    with provoke("DL-DATA-064") as caught:
        run(tmp_path / "empty", out)
    assert "binary 1" in caught.error.why
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "note").write_text("hello\n")
    with provoke("DL-DATA-064") as caught:
        run(tmp_path / "short", out)
    assert "length" in caught.error.why


def test_without_the_tokenizers_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with provoke("DL-ENV-001"):
        run(fill(tmp_path / "text"), tmp_path / "out")


def test_the_command_prints_the_funnel_and_writes_the_figures(tmp_path, capsys):
    text, out = messy(tmp_path / "text"), tmp_path / "out"
    words = ["--out", str(out), "--data.text", f"[{text}]", "--data.vocab", "400", "--data.seq", "16",
             "--plan.micro_batch", "2", "--plan.micro_batches", "2"]  # fmt: skip
    arguments = argparse.Namespace(
        config=None, overrides=words, on="local", address=None, json=tmp_path / "prep.json", report=tmp_path / "p.html"
    )
    assert command.run(arguments) == 0
    printed = capsys.readouterr()
    said = (tmp_path / "p.html").read_text()
    (twin,) = (each["key"] for each in why.drops(out) if each["rule"] == "near")
    assert twin in said and said.count("<svg") == 6 and "http" not in said.split("<svg")[0]
    asked = argparse.Namespace(
        config=None, overrides=["--out", str(out), "--data.text", f"[{text}]"], doc=twin, sample=None, json=None
    )
    assert why_command.run(asked) == 0
    told = capsys.readouterr().out
    assert "dropped by near" in told and "the same as" in told and "gopher_quality.stop_words" in told
    asked.doc = "text/part0/0.txt"
    assert why_command.run(asked) == 0 and "kept" in capsys.readouterr().out
    asked.doc, asked.sample = "near", 2
    assert why_command.run(asked) == 0 and f"== {twin}" in capsys.readouterr().out
    refused = {"text/picture.png": "binary", "text/latin1.txt": "broken_utf8", "text/pipe": "not_a_file",
               "text/cut.gz": "archive", "text/nowhere": "unreadable"}  # fmt: skip
    for name, rule in refused.items():
        asked.doc, asked.sample = name, None
        assert why_command.run(asked) == 0 and f"refused by {rule}: " in capsys.readouterr().out
        asked.doc, asked.sample = rule, 1
        assert why_command.run(asked) == 0 and "text/" in capsys.readouterr().out
        assert f"{rule}: {name}" in said
    asked.doc, asked.sample, asked.overrides = "text/picture.png", None, ["--out", str(out)]
    assert why_command.run(asked) == 0 and "refused by binary: " in capsys.readouterr().out
    asked.doc, asked.sample = "text/a\\nname.txt", None  # as `store ls` prints it
    assert why_command.run(asked) == 0 and "characters" in capsys.readouterr().out
    for rule in ("near", "binary"):
        asked.doc = rule
        with provoke("DL-DATA-064") as caught:
            why_command.run(asked)
        assert f"why {rule} --sample" in caught.error.fix
    asked.doc = "text/nearlx.txt"
    with provoke("DL-DATA-064"):
        why_command.run(asked)
    asked.overrides = ["--out", str(tmp_path / "absent")]
    with provoke("DL-DATA-064"):
        why_command.run(asked)
    assert "- binary" in printed.out and "kept" in printed.out and "encode" in printed.err
    figures = json.loads((tmp_path / "prep.json").read_text())
    assert figures["data.docs_in"] > figures["data.docs_kept"] > 0 and figures["data.unigram_entropy"] > 1
    arguments.overrides = [*words, "--data.seq", "40000"]
    with provoke("DL-DATA-066"):
        command.run(arguments)


PREP = """
import sys
from pathlib import Path
from danlu.data import ingest, clean
from danlu.data.prep import prep
ingest.PACK_BYTES = clean.PACK_BYTES = 3000
print("begin", flush=True)
prep([Path(sys.argv[1])], Path(sys.argv[2]), vocab=400, limit_bytes=10**8)
"""


@pytest.mark.procs
def test_kill_9_at_any_moment_changes_nothing_in_the_end(tmp_path):
    text = fill(tmp_path / "text", 150)
    truth = run(text, tmp_path / "whole")
    seed = random.SystemRandom().randrange(2**32)
    rng, env = random.Random(seed), {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for attempt in range(7):
        with subprocess.Popen([sys.executable, "-c", PREP, str(text), str(tmp_path / "out")], env=env,
                              stdout=subprocess.PIPE) as child:  # fmt: skip
            assert child.stdout and child.stdout.readline()
            try:
                child.wait(rng.uniform(0, 0.3) if attempt < 6 else None)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        if (tmp_path / "out" / "tokens" / "manifest.json").exists():
            assert token_file.verify(tmp_path / "out" / "tokens") == []
    assert digest(tmp_path / "out" / "tokens") == digest(truth.tokens), f"seed {seed}"
    made = run(text, tmp_path / "out")
    assert (made.docs_in, made.dropped) == (truth.docs_in, truth.dropped), f"seed {seed}"
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.procs
def test_ctrl_c_leaves_no_half_file_and_no_traceback(tmp_path):
    text, out = fill(tmp_path / "text", 300), tmp_path / "out"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-m", "danlu.cli", "prep", "--out", str(out), "--data.text", f"[{text}]"]
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        line = child.stderr.readline()
        while line and "vocab" not in line:
            line = child.stderr.readline()
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert "Traceback" not in said and (child.returncode == 130 or "prep" in said)
    assert not list(out.rglob("*.part"))


def test_copies_that_mix_makes_are_counted_as_such(tmp_path):
    steps = ["normalise", {"mix": {"text": 2}}]
    made = prep([fill(tmp_path / "text")], tmp_path / "out", vocab=400, limit_bytes=10**8, steps=steps)
    assert (made.docs_in, made.docs_kept, made.copies) == (80, 160, 80)
