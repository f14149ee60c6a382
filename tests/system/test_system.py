"""What needs root or Debian packages: a real browser on the report, a really full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from danlu.cli import page

pytestmark = pytest.mark.system
MEASURE = """<script>
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = `overflow=${wide} requests=${performance.getEntriesByType('resource').length}`;
</script>"""


@pytest.fixture
def report(tmp_path):
    """A report of a made-up run, with a script at its end that notes what the browser sees."""
    spans = [
        [("forward", 0, 0.0, 1.0), ("backward", 0, 1.0, 3.0)],
        [("forward", 0, 1.0, 1.5), ("backward", 0, 1.5, 2.0)],
    ]
    values = {
        "train.even_step_s": 3.0, "train.step_s": 2.0, "plan.forecast_step_s": 2.1, "plan.even_forecast_step_s": 3.1,
        "train.loss_last": 4.2, "train.unigram_entropy": 6.1, "fault.recovery_s": 1.1, "fault.card": "card1",
        "fault.steps_recomputed": 3, "fault.steps_lost": 0, "fault.steps_repeated": 0, "quant.bits_per_weight": 4.13,
        "quant.ppl_before": 30.0, "quant.ppl_after": 30.2, "serve.ttft_cold_s": 0.5, "serve.ttft_warm_s": 0.05,
        "serve.prefix_hit_tokens": 512, "data.docs_in": 100, "data.docs_kept": 60, "data.duplicates": 9,
        "data.near_duplicates": 3, "seconds.total": 140.0,
    }  # fmt: skip
    cards = [page.CardRow(f"card{i}", 0.8 / (i + 1), 50.0, 2**28, 2.0, 2**27, 2**26) for i in range(2)]
    story = page.Story(
        values=values, machine="a machine", cores=2, params=10**6, cards=cards, funnel=[("read", 100), ("kept", 60)],
        timelines=[("forecast", spans), ("measured", spans)], losses=[7.0, 6.0, 5.0, 4.2], fault_step=3, resumed_step=2,
        learnt_s=60.0, answer="<b>a long word " + "x" * 400,
    )  # fmt: skip
    path = tmp_path / "report.html"
    path.write_text(page.render(story).replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    return path


def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    return found


@pytest.mark.parametrize("width", [390, 1200])
def test_the_report_fits_phone_and_desk_and_asks_nobody(report, tmp_path, width):
    argv = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", report.as_uri(),
    ]  # fmt: skip
    seen = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True).stdout
    title = seen[seen.index("<title>") + 7 : seen.index("</title>")]
    assert title == "overflow=0 requests=0"
    assert seen.count("<svg") == 5 and "&lt;b&gt;a long word" in seen


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo ./danlu test --system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_prep_with_its_own_error_and_no_half_file(small_disk):
    argv = [sys.executable, "-m", "danlu.cli", "prep", "--out", str(small_disk / "run"), "--data.limit_mb", "20"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "DL-MEM-002" in done.stderr and "Traceback" not in done.stderr
    assert not list(small_disk.rglob("*.new")) and not (small_disk / "run" / "tokens" / "manifest.json").exists()
