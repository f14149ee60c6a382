"""The demo, as a person runs it, but as short as it can be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

KEYS = """cards data.docs_in data.docs_kept data.duplicates plan.layers_per_card plan.forecast_step_s
plan.even_forecast_step_s train.step_s train.even_step_s train.loss_first train.loss_last train.unigram_entropy
fault.card fault.recovery_s fault.steps_lost fault.steps_repeated fault.steps_recomputed quant.bits_per_weight
quant.ppl_before quant.ppl_after serve.ttft_cold_s serve.ttft_warm_s serve.prefix_hit_tokens seconds.install
seconds.total""".split()


def demo(folder, *words, **options):
    argv = [sys.executable, "-m", "danlu.cli", "demo", "--out", str(folder / "demo"), *words]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )


@pytest.mark.slow
@pytest.mark.procs
@pytest.mark.timeout(400)
def test_a_whole_life_leaves_true_figures_and_a_report_that_asks_nobody(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(60):
        words = " ".join(
            f"line {i} of note {number} says that {i * number % 89} is less than {i + 90}." for i in range(80)
        )
        (text / f"note {number}.txt").write_text(words.replace(". ", ".\n"), encoding="utf-8")
    (text / "copy of note 1.txt").write_text((text / "note 1.txt").read_text(encoding="utf-8"), encoding="utf-8")
    (text / "picture.png").write_bytes(b"\x89PNG\x00\x01\x02" * 50)
    (text / "torn.txt").write_bytes("a broken \xff letter".encode("latin-1") * 40)
    process = demo(tmp_path, "--text", str(text), "--minutes", "0.5", "--json", str(tmp_path / "f.json"))
    said, _ = process.communicate()
    assert process.returncode == 0, said
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert [key for key in KEYS if key not in figures] == []
    assert figures["train.even_step_s"] > figures["train.step_s"]
    assert figures["train.loss_last"] < figures["train.loss_first"]
    assert figures["fault.steps_lost"] == figures["fault.steps_repeated"] == 0 < figures["fault.steps_recomputed"]
    assert figures["fault.recovery_s"] < 30
    assert 4 < figures["quant.bits_per_weight"] < 4.5
    assert figures["serve.prefix_hit_tokens"] > 100
    assert figures["data.docs_in"] == 63 and figures["data.duplicates"] == 1
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    namespaces = "http://www.w3.org/"
    assert page.count("<svg") == 5
    assert not [link for link in re.findall(r"https?://[^\"'\s<)]+", page) if not link.startswith(namespaces)]
    assert "emulated" in page and "emulated" in said


@pytest.mark.procs
def test_ctrl_c_ends_the_demo_and_leaves_no_process(tmp_path):
    process = demo(tmp_path, "--minutes", "0.5")
    assert process.stdout is not None
    for line in process.stdout:
        if "points measured" in line or "read " in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline, "a process of the demo is left"
