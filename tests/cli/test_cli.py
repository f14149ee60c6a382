"""The command line as a person meets it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import app, config, output, run_text, show_config
from danlu.cli.test import spread
from danlu.errors import UnknownKey
from danlu.plugins import load


def danlu(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "danlu.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = app.parser_of(name).format_help()
    assert "example:" in text and f"danlu {name}" in text.split("example:")[1]


def test_help_answers_at_once():
    """0.15 s, or eight times what a bare interpreter takes on this machine now, whichever is more."""

    def seconds(*argv: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *argv], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    rounds = [
        (seconds("-c", "pass"), seconds("-m", "danlu.cli", "--help"), seconds("-m", "danlu.cli", "train", "--help"))
        for _ in range(5)
    ]
    bare, whole, train = (statistics.median(column) for column in zip(*rounds, strict=True))
    assert max(whole, train) <= max(0.15, 8 * bare)


def test_a_misspelt_command_names_the_right_one():
    done = danlu("trian")
    assert done.returncode == 2 and "danlu train" in done.stderr and "Traceback" not in done.stderr


def test_version_and_completion_print_something_true():
    assert "danlu" in danlu("version").stdout
    assert "prep" in danlu("completion", "bash").stdout


def test_a_misspelt_key_in_a_file_names_the_line_and_the_right_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("danlu: 1\ntrain:\n  steps: 5\n  warmpu: 2\n")
    with provoke("DL-CFG-001") as caught:
        config.load(path, environ={})
    assert caught.error.where.endswith("run.yaml:4") and "train.warmup" in caught.error.fix


@given(st.sampled_from([k for k in config.known_keys() if len(k.rsplit(".", 1)[-1]) > 3]), st.data())
def test_one_typo_in_any_key_suggests_that_key(key, data):
    name = key.rsplit(".", 1)[-1]
    at = data.draw(st.integers(1, len(name) - 1))
    typo = key[: len(key) - len(name)] + name[:at] + name[at + 1 :]
    if typo in set(config.known_keys()):
        return
    with pytest.raises(UnknownKey) as caught:
        config.load(None, [f"--{typo}", "1"], environ={})
    assert key in caught.value.fix


def test_a_value_out_of_range_names_its_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {steps: -5}\n")
    with provoke("DL-CFG-002") as caught:
        config.load(path, environ={})
    assert "train.steps" in caught.error.what and "-5" in caught.error.why


def test_a_file_that_is_no_yaml_names_the_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  steps: [1\nout: x\n")
    with provoke("DL-CFG-003") as caught:
        config.load(path, environ={})
    assert "run.yaml:" in caught.error.where


def test_an_unknown_plugin_names_the_near_ones():
    with provoke("DL-CFG-004") as caught:
        load("danlu.cli", "confg")
    assert "config" in caught.error.fix


def test_flags_beat_environment_beats_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {steps: 1, warmup: 1, seed: 1}\n")
    run = config.load(path, ["--train.steps", "3"], environ={"DANLU_TRAIN__STEPS": "2", "DANLU_TRAIN__WARMUP": "2"})
    assert (run.train.steps, run.train.warmup, run.train.seed) == (3, 2, 1)


def test_the_resolved_config_reads_back_equal(tmp_path):
    run = config.load(None, ["--train.steps", "7", "--fleet.emulate", "[4, 2, 2]"], environ={})
    path = tmp_path / "run.yaml"
    path.write_text(config.dump(run))
    assert config.load(path, environ={}) == run


def test_every_key_can_be_explained_and_the_schema_is_json(capsys):
    for key in config.known_keys():
        assert key in config.explain(key)
    args = app.parser_of("config").parse_args(["schema"])
    args.overrides = []
    show_config.run(args)
    assert "train" in json.loads(capsys.readouterr().out)["properties"]


def test_every_key_says_what_it_means():
    leaves = [key for key in config.known_keys() if not any(k.startswith(key + ".") for k in config.known_keys())]
    sections = {section.__doc__ for section in run_text.Section.__subclasses__()}
    assert not [key for key in leaves if config.explain(key).split(": ", 1)[1].split("\n")[0] in sections]


def test_a_table_is_as_wide_as_its_cells():
    text = output.table(["card", "layers"], [["a", 3], ["bcd", 12]])
    assert re.search(r"^a\s+3$", text, re.M) and re.search(r"^bcd\s+12$", text, re.M)


def test_a_key_keeps_its_value_beside_a_command_with_arguments():
    parser = app.parser_of("prep")
    own, overrides = app.divide(["--data.seq", "64", "run.yaml", "--json", "f", "--out=x"], parser)
    assert own == ["run.yaml", "--json", "f"] and overrides == ["--data.seq", "64", "--out=x"]


def test_words_for_pytest_stay_in_order():
    assert app.divide(["--system", "-k", "name", "tests"], app.parser_of("test")) == (
        ["--system"],
        ["-k", "name", "tests"],
    )


def test_tests_run_in_a_process_for_every_core_up_to_eight():
    assert spread(1) == [] and [spread(cores)[1] for cores in (2, 8, 64)] == ["2", "8", "8"]


def test_names_may_stand_on_both_sides_of_an_option(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a file")
    assert app.main(["store", "add", "--into", str(tmp_path / "s"), str(tmp_path / "a.txt"), "--no-merge"]) == 0
    assert app.main(["store", "get", "--cache-gib", "1", str(tmp_path / "s"), "a.txt"]) == 0
    assert app.main(["prep", "why", "near", "--sample", "1", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err.partition("DL-")[2]
