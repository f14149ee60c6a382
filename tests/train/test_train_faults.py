"""What a job is given wrong, or loses on the way, ends it with an entry of the catalogue that names rank and host."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from provoke import provoke
from train_jobs import ARGV, SLOW, a_job
from train_world import SPEC, plan

from danlu.data import bpe, encode
from danlu.data.document import Document
from danlu.data.loader import Loader
from danlu.launch.nursery import Nursery
from danlu.model.export import export
from danlu.model.fingerprint import fingerprint
from danlu.model.net import Decoder, init
from danlu.nouns import Job, ModelSpec
from danlu.store import checkpoint
from danlu.train import owner
from danlu.train.job import TrainJob

pytestmark = pytest.mark.procs
nursery: Nursery
RANK = r"rank \d on host local, card card\d"  # whoever calls first gets the first place
REAL = (sys.executable, "-m", "danlu.cli.rank")
DOCUMENTS = [Document(f"doc {n}", f"Document {n} counts {n * n} and {n * 31 % 97}.\n" * 3) for n in range(120)]


def setup_module():
    """Anew whenever a process comes to this file: tests of it may run in several, and at more than one time."""
    global nursery
    nursery = Nursery(["danlu.train.rank"])


def teardown_module():
    nursery.close()


def ended(job: TrainJob, code: str, argv=ARGV, spawn=None, **options) -> str:
    """The error that ends the job, which names a rank and leaves no process."""
    started = []

    def noted(each: Job, log: Path | None):
        started.append((spawn or nursery.spawn)(each, log))
        return started[-1]

    with provoke(code) as caught:
        owner.run(job, argv, noted, spares=0, **options)
    assert all(process.poll() is not None for process in started)
    assert "rank" in caught.error.where and "on host local" in caught.error.where, caught.error
    return str(caught.error)


def with_odd(fault: str):
    """Starts ranks, the second of them with a fault."""

    def spawn(each: Job, log: Path | None):
        odd = (sys.executable, str(Path(__file__).with_name("odd_rank.py")), fault)
        return nursery.spawn(replace(each, argv=(*odd, *each.argv[-3:])) if each.name == "train-1" else each, log)

    return spawn


def test_a_rank_of_another_wire_version_is_named(tmp_path):
    said = ended(a_job(tmp_path), "DL-RUN-010", spawn=with_odd("other_wire"))
    assert re.search(f"{RANK} .a caller. sent another wire version", said) and "it speaks" in said


def test_a_rank_with_another_job_is_named(tmp_path):
    said = ended(a_job(tmp_path), "DL-RUN-015", spawn=with_odd("other_job"))
    assert re.search(f"{RANK} has another job than {RANK}", said)


def test_a_rank_with_other_weights_is_named(tmp_path):
    for seed, name in enumerate(("model", "other")):
        saved(SPEC, seed, tmp_path / name)
    job = a_job(tmp_path / "run", weights=tmp_path / "model")
    said = ended(job, "DL-RUN-015", spawn=with_odd("other_weights"))
    assert re.search(f"{RANK} has another model folder than {RANK}", said)
    assert fingerprint(tmp_path / "model") in said and fingerprint(tmp_path / "other") in said


def test_weights_that_are_cut_while_a_rank_reads_them_are_named(tmp_path):
    for name in ("model", "other"):
        saved(SPEC, 0, tmp_path / name)
    job = a_job(tmp_path / "run", weights=tmp_path / "model")
    said = ended(job, "DL-DATA-022", spawn=with_odd("cut_weights"))
    assert "model.safetensors changed while it was read" in said and str(tmp_path / "other") in said


def saved(spec: ModelSpec, seed: int, out: Path) -> None:
    decoder = Decoder(spec)
    init(decoder, seed)
    export({name: each.detach() for name, each in decoder.named_parameters()}, spec, out)


def test_a_message_of_another_shape_is_named(tmp_path):
    said = ended(a_job(tmp_path), "DL-RUN-010", spawn=with_odd("other_shape"))
    assert re.search(f"{RANK} sent (act|grad) of another shape", said) and "was due" in said


@pytest.fixture
def tokens(tmp_path) -> Path:
    folder = tmp_path / "tokens"
    tokenizer = bpe.train((each.text for each in DOCUMENTS), 320)
    held = encode.held_out({each.key: len(each.text) for each in DOCUMENTS})
    encode.encode(DOCUMENTS, held, tokenizer, folder, {}, len(DOCUMENTS), lambda words, share: None)
    return folder


def on_real_tokens(out: Path, folder: Path) -> TrainJob:
    job = replace(
        a_job(out, plan(replace(SPEC, vocab=320), (3, 5), cards=SLOW), save_every=2, steps=500), tokens=folder
    )
    loader = Loader(folder, seq=job.plan.seq, batch=job.batch, seed=job.seed, packing="best_fit")
    return replace(job, loader=loader.state())


@pytest.mark.parametrize("fault", ["cut", "removed", "replaced"])
def test_tokens_that_go_while_a_job_trains_end_it_and_a_snapshot_stays(fault, tmp_path, tokens):
    stream = tokens / "train.bin"

    def strike(step) -> None:
        if step.step != 4:
            return
        if fault == "cut":
            os.truncate(stream, 100)
        elif fault == "removed":
            stream.unlink()
        else:
            (tokens / "new").write_bytes(stream.read_bytes())
            (tokens / "new").replace(stream)

    job = on_real_tokens(tmp_path / "run", tokens)
    said = ended(job, "DL-DATA-065", argv=REAL, on_step=strike)
    assert str(stream) in said
    assert (checkpoint.latest(job.checkpoints) or 0) >= 2


def test_tokens_that_a_rank_does_not_find_are_named(tmp_path, tokens):
    job = on_real_tokens(tmp_path / "run", tokens)
    (tokens / "manifest.json").rename(tokens / "away.json")
    assert str(tokens) in ended(job, "DL-DATA-065", argv=REAL)
    (tokens / "away.json").rename(tokens / "manifest.json")
    other = replace(job, out=tmp_path / "other", loader={**job.loader, "blake2b": "00"})
    assert "'blake2b'" in ended(other, "DL-DATA-067", argv=REAL)


def test_snapshots_that_cannot_be_written_end_the_job(tmp_path):
    job = a_job(tmp_path, save_every=2)
    job.checkpoints.write_text("in the way")
    said = ended(job, "DL-ENV-003")
    assert str(job.checkpoints) in said
