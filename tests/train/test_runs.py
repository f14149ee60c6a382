"""What a run leaves behind can be listed, shown, compared, and read by TensorBoard."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke
from test_schedule import plan_of

from danlu.cli import page
from danlu.cli.app import main
from danlu.nouns import Forecast, Replica
from danlu.plan import text
from danlu.train import history, tensorboard


def a_run(folder, steps, wanted=10, loss=5.0):
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(
        text.dumps(replace(plan_of(2, 4, "1f1b"), forecast=Forecast(0.4, 1e4, (0.3, 0.2), (5, 6))))
    )
    (folder / "job.json").write_text(json.dumps({"steps": wanted}))
    lines = [{"step": n, "loss": loss - n / 10, "norm": 1.0, "lr": 1e-3, "seconds": 0.5, "t": 1e9 + n}
             for n in range(1, steps + 1)]  # fmt: skip
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "lo')
    fault = {"v": 1, "t": 1.0, "event": "train.fault", "card": "card1", "during": 3, "restored": 2}
    (folder / "events.jsonl").write_text(json.dumps(fault) + "\n")
    return folder


def test_runs_are_found_listed_and_told_apart(tmp_path, capsys):
    a_run(tmp_path / "a", 10)
    a_run(tmp_path / "deep" / "b", 4, loss=6.0)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "steps.jsonl").write_text("")
    assert main(["runs", "ls", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0].rpartition("/")[2]: line for line in told.splitlines()[1:]}
    assert "done" in rows["a"] and "10/10" in rows["a"] and "4.000" in rows["a"]
    assert "stopped" in rows["b"] and "4/10" in rows["b"] and "unreadable" in rows["torn"]


def test_compare_takes_the_losses_at_the_last_step_all_runs_have(tmp_path, capsys):
    names = [str(a_run(tmp_path / "a", 10)), str(a_run(tmp_path / "b", 4, loss=6.0))]
    page, figures = tmp_path / "page.html", tmp_path / "runs.json"
    assert main(["runs", "compare", *names, "--html", str(page), "--json", str(figures)]) == 0
    told = capsys.readouterr().out
    assert "loss at 4" in told and "4.6000" in told and "5.6000" in told and "1.00x" in told
    html = page.read_text()
    assert html.count("<svg") == 4 and "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    assert json.loads(figures.read_text())["b.step"] == 4


def test_show_tells_about_one_run(tmp_path, capsys):
    assert main(["runs", "show", str(a_run(tmp_path / "a", 10))]) == 0
    told = capsys.readouterr().out
    assert "loss 4.900 -> 4.000" in told and "card1 was lost in step 3" in told and "500 ms a step" in told


def test_a_run_that_writes_is_running(tmp_path):
    found = history.read(a_run(tmp_path / "a", 4))
    assert found.state(1e9 + 5) == "running" and found.state(1e9 + 500) == "stopped"
    assert history.read(a_run(tmp_path / "b", 10)).state(1e9 + 500) == "done"


def test_a_run_that_said_it_stopped_is_believed(tmp_path):
    events = a_run(tmp_path / "a", 4) / "events.jsonl"
    for said, state in (("train.stop", "stopped"), ("train.go", "running")):
        with events.open("a") as log:
            log.write(json.dumps({"v": 1, "t": 2.0, "event": said}) + "\n")
        assert history.read(tmp_path / "a").state(1e9 + 5) == state


def test_all_cards_of_a_run_are_counted(tmp_path, capsys):
    """Two pipelines, the stages of one shared by two cards."""
    run, one = a_run(tmp_path / "a", 4), plan_of(3, 4, "1f1b")
    whole = replace(one.stages[0], start=0, stop=len(one.model.units))
    copies = (Replica((replace(whole, cards=("2",)),), 1),)
    plan = replace(one, stages=(replace(whole, cards=("0", "1"), shares=(2, 2)),), replicas=copies, forecast=None)
    (run / "plan.json").write_text(text.dumps(plan))
    assert history.read(run).cards == 3
    assert main(["runs", "compare", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[1] == "3"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with provoke("DL-CFG-002"):
        history.read(tmp_path)
    assert main(["runs", "show", str(tmp_path)]) == 2
    run = a_run(tmp_path / "a", 4)
    assert main(["runs", "compare", str(run), str(tmp_path / "b")]) == 2  # not a comparison of one


def test_the_checksum_is_crc_32c():
    """The check value of the CRC catalogue, unmasked."""
    masked = tensorboard._masked(b"123456789")
    turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == 0xE3069283


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4), st.integers(0, 1 << 40))
def test_event_files_hold_what_was_measured(tmp_path_factory, values, step):
    folder = tmp_path_factory.mktemp("board")
    board = tensorboard.EventFile(folder)
    board.scalars(step, {f"value/{i}": value for i, value in enumerate(values)})
    board.close()
    (path,) = folder.iterdir()
    records = list(_records(path.read_bytes()))
    assert len(records) == 2 and b"brain.Event:2" in records[0]
    for i, value in enumerate(values):
        named = f"value/{i}".encode()
        assert b"\n" + bytes([len(named)]) + named + b"\x15" + struct.pack("<f", value) in records[1]


def _records(raw):
    """The records of a TFRecord file, their checksums looked at."""
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from("<Q", raw, at)
        head, body = raw[at : at + 8], raw[at + 12 : at + 12 + size]
        assert struct.unpack_from("<I", raw, at + 8)[0] == tensorboard._masked(head)
        assert struct.unpack_from("<I", raw, at + 12 + size)[0] == tensorboard._masked(body)
        yield body
        at += 16 + size


def records(log):
    """What wandb wrote: leveldb's log of records, here within its first block of 32 KiB, each a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at = log.read_bytes()[: 1 << 15], 7
    while at + 7 <= len(data):
        size, kind = struct.unpack_from("<HB", data, at + 4)
        if kind != 1:
            break
        record = Record()
        record.ParseFromString(data[at + 7 : at + 7 + size])
        yield record
        at += 7 + size


def sending(run, **variables):
    """`danlu runs send` in a process of its own: wandb keeps what it once read of the environment."""
    pytest.importorskip("wandb")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    argv = [sys.executable, "-m", "danlu", "runs", "send", str(run), "--project", "tiny"]
    env = {**kept, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.mark.procs
def test_send_keeps_every_step_for_weights_and_biases(tmp_path):
    run = a_run(tmp_path / "a", 10)
    done = sending(run, WANDB_MODE="offline")
    assert done.returncode == 0 and "10 steps to tiny" in done.stderr, done.stderr
    (log,) = run.glob("wandb/offline-run-*/run-*.wandb")
    items = [{item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
              for item in record.history.item} for record in records(log) if record.HasField("history")]  # fmt: skip
    assert [(each["_step"], each["loss"], each["seconds"]) for each in items] == [
        (n, 5.0 - n / 10, 0.5) for n in range(1, 11)
    ]


@pytest.mark.procs
def test_send_without_a_login_says_how_to_get_one(tmp_path):
    done = sending(a_run(tmp_path / "a", 2), NETRC=str(tmp_path / "netrc"))
    assert done.returncode == 2 and "wandb login" in done.stderr, done.stderr


def test_a_slow_first_step_does_not_flatten_the_picture():
    assert page._top([[0.4, 0.01, 0.01, 0.01, 0.02], [0.3]]) == pytest.approx(page.FAR * 0.01)
    assert page._top([[0.02, 0.01, 0.01]]) is page._top([[0.4]]) is page._top([[]]) is None
