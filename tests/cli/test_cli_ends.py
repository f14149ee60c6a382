"""How a command ends when something is wrong: an entry of the catalogue, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from provoke import provoke

from danlu.cli import app, config, output, unforeseen

DANLU = [sys.executable, "-m", "danlu.cli"]


def danlu(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DANLU, *words], capture_output=True, text=True, check=False, **options)  # type: ignore


def raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as error:
        return error


def test_a_fault_of_ours_is_one_entry_and_its_traceback_is_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(args: object) -> int:
        return [].index(args)

    monkeypatch.setattr("danlu.cli.version.run", broken)
    assert app.main(["version"]) == 70
    said = capsys.readouterr().err
    (file,) = tmp_path.glob("danlu-bug-*.txt")
    assert "DL-BUG-001" in said and str(file) in said and "Traceback" not in said
    assert "danlu version" in file.read_text() and "in broken" in file.read_text()
    with provoke("DL-BUG-001"):
        raise unforeseen.entry_of(raised(ValueError("x")), [])


def test_a_traceback_that_no_file_can_take_goes_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with provoke("DL-BUG-001"):
        raise unforeseen.entry_of(raised(ValueError("lost?")), [])
    assert "ValueError: lost?" in capsys.readouterr().err


def test_what_the_system_refuses_names_the_path(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = danlu("version", "--json", str(blocker / "under" / "v.json"))
    assert done.returncode == 3 and "DL-ENV-003" in done.stderr and str(blocker) in done.stderr
    with provoke("DL-ENV-003"):
        raise unforeseen.entry_of(PermissionError(13, "Permission denied", "x"), [])


def test_an_absent_package_names_the_extra_that_brings_it():
    error = unforeseen.entry_of(ModuleNotFoundError("No module named 'torch'", name="torch"), [])
    assert error.code == "DL-ENV-001" and error.fix in ("pip install 'danlu[torch]'", "pip install torch")
    assert unforeseen.entry_of(ModuleNotFoundError("no", name="danlu.x"), []).code == "DL-BUG-001"


def test_a_full_disk_behind_standard_output_is_said():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*DANLU, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4 and done.stderr.startswith("DL-MEM-002") and "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error_but_another_broken_pipe_is():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*DANLU, "version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert not unforeseen.reader_left(BrokenPipeError(32, "a socket of ours"))


def test_json_goes_to_standard_output_too_and_leaves_the_device_alone(tmp_path):
    with (tmp_path / "out").open("w") as out:
        subprocess.run([*DANLU, "version", "--json", "/dev/stdout"], stdout=out, check=True)
    text = (tmp_path / "out").read_text()
    assert json.loads(text[text.index("{") :])["danlu"] and text.startswith("danlu")
    assert not Path("/dev/stdout").is_file() or Path("/dev/stdout").is_symlink()


def test_json_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    output.write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_through_its_cleaning_up(number, tmp_path):
    """A config that comes through a pipe which nobody fills: the command waits, surely, once the pipe is open."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen([*DANLU, "config", "check", str(pipe)], stderr=subprocess.PIPE, text=True)
    with pipe.open("w"):
        child.send_signal(number)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 128 + number and "stopped by" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {steps: 1, steps: 2}\n", "twice"),
        ("out: 2026-99-99\n", "month"),
        ("train: {lr: .inf}\n", "finite"),
        ("train:\n", "section"),
        ("fleet: {emulate: []}\n", "at least 1"),
        ("fleet: {emulate: [1, 0]}\n", "greater than 0"),
    ],
)
def test_text_that_cannot_be_meant_is_refused_at_once(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    done = danlu("config", "check", str(path))
    assert done.returncode == 2 and words in done.stderr and "run.yaml" in done.stderr


def test_a_switch_stands_alone_and_other_keys_do_not():
    assert config.parse_overrides(["--train.resume", "--train.steps", "5"]) == {"train.resume": True, "train.steps": 5}
    with provoke("DL-CFG-002"):
        config.parse_overrides(["--train.steps", "--train.resume"])
    own, overrides = app.divide(["--train.resume", "--train.steps", "5"], app.parser_of("train"))
    assert own == [] and overrides == ["--train.resume", "--train.steps", "5"]


def test_a_misspelt_flag_of_any_command_is_refused_with_the_right_one():
    done = danlu("doctor", "--jsno", "x")
    assert done.returncode == 2 and "--json" in done.stderr
    done = danlu("serve", "somewhere", "--prot", "1")
    assert done.returncode == 2 and "--port" in done.stderr


def test_a_path_may_begin_at_home_and_a_single_text_needs_no_list(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    run = config.load(None, ["--data.text", "~/notes", "--out", "~/run", "--model.path", "~nobody-here/x"], environ={})
    assert run.data.text == [Path("/home/somebody/notes")] and run.out == Path("/home/somebody/run")
    assert run.model.path == Path("~nobody-here/x")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_that_swallows_everything_still_ends_the_command(number, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "stubborn.py").write_text(f"try:\n    open({str(pipe)!r}).read()\nexcept BaseException:\n    pass\n")
    code = "import threading; from danlu.cli import interrupts; interrupts.unwind(); import stubborn\n" \
           "print('whole'); threading.Event().wait(20)"  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(Path(app.__file__).parents[2])])
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with pipe.open("w"):
        child.send_signal(number)
    out, said = child.communicate(timeout=20)
    assert out == "whole\n" or not out
    assert child.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 128 + signal.SIGTERM}[number], said
