"""docs/planning.md runs as it is printed, and the published mixed-card rows stay within what the docs say."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

from danlu.cli import app
from danlu.plan.stated import mixed, rows

ROOT = Path(__file__).parents[2]


def test_the_worked_example_runs(capsys):
    text = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, "docs/planning.md", "exec"), {})
    said = capsys.readouterr().out
    assert re.match(r"\d+\.\d\d s \(\d", said) and "U_sum" in said and re.search(r"computes \d\d% of its", said)


def test_every_command_of_the_page_is_understood():
    text = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    for line in re.findall(r"^danlu (.+)$", text, re.M):
        name, *words = line.split()
        parser = app.parser_of(name)
        own, overrides = app.divide(words, parser)
        assert not overrides and parser.parse_args(own)


def test_published_mixed_card_rows_are_predicted_as_the_docs_say():
    folder = ROOT / "bench" / "truth" / "mixed"
    profiles, links = (read(folder / f"sailor_{name}.csv") for name, read in
                       (("profiles", mixed.read_profiles), ("links", mixed.read_links)))  # fmt: skip
    errors = [abs(mixed.seconds(row.setup, stages, profiles, links) / row.real - 1)
              for row, stages in rows.read_mixed(folder / "sailor_mixed.csv")]  # fmt: skip
    assert len(errors) == 8 and fmean(errors) < 0.11
    said = (ROOT / "docs" / "plan-accuracy.md").read_text(encoding="utf-8")
    assert f"**{fmean(errors):.1%}**".replace("%", " %") in said
