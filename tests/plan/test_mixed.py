"""Mixed pipelines from profiles: closed forms, the simulator of plans, and tables as a source would publish them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import app
from danlu.nouns import Card, Fleet, Link, ModelSpec, Plan, Stage
from danlu.plan.events import StageCost, simulate
from danlu.plan.schedule import instructions
from danlu.plan.stated import mixed
from danlu.plan.stated.setup import Setup

RUN = Setup("A100-40", 12, 4, 1e10, 10, 1024, 16, 16, 4096, False, 50304, 2048, 32, 2, 4, 2, 2, precision="fp32")
CELLS = {
    (card, 4, 2, item): mixed.Cell(s * f, s * b, p)
    for card, s in (("A100-40", 1.0), ("V100-16", 2.5))
    for item, f, b, p in (("embedding", 1e-3, 2e-3, 2e7), ("layer", 4e-3, 9e-3, 3e6), ("head", 5e-3, 8e-3, 2e7))
}
LINKS = {("A100-40", "A100-40"): (1e-5, 1e10), ("V100-16", "V100-16"): (1e-5, 4e9), ("A100-40", "V100-16"): (2e-5, 2e9)}
CUT = '[{"layers": 8, "cards": [{"card": "A100-40", "tp": 4, "dp": 2}]}, {"layers": 4, "cards": ' \
      '[{"card": "A100-40", "tp": 4, "dp": 1}, {"card": "V100-16", "tp": 4, "dp": 1}]}]'  # fmt: skip
times = st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=5)


@given(times, st.integers(1, 12))
def test_without_messages_equal_stages_are_the_closed_form(costs, many):
    """(m + p - 1) (f + b) for equal stages (Narayanan 2021); others lie between the slowest alone and all in turn."""
    both = [f + b for f, b in costs]
    found = mixed.pipeline(costs, [0.0] * (len(costs) - 1), many)
    assert max(sum(both), many * max(both)) * (1 - 1e-12) <= found <= many * sum(both) * (1 + 1e-12)
    even = [costs[0]] * len(costs)
    equal = (many + len(costs) - 1) * sum(costs[0])
    assert mixed.pipeline(even, [0.0] * (len(costs) - 1), many) == pytest.approx(equal)


@given(times, st.integers(1, 8), st.floats(0, 3))
def test_it_is_what_the_simulator_of_plans_says(costs, many, wire):
    count = len(costs)
    cards = tuple(Card(f"c{i}", "cpu", "x", {"fp32": 1e9}, 10**12, 1e9) for i in range(count))
    spec = ModelSpec("llama", count, 64, 4, 4, 16, 128, 256, 64)
    cuts = [0, *(1 + 2 * (i + 1) for i in range(count - 1)), 2 * count + 2]
    plan = Plan(spec, Fleet("x", cards), tuple(Stage((c.name,), cuts[i], cuts[i + 1]) for i, c in enumerate(cards)),
                "1f1b", many, 1, 8)  # fmt: skip
    size = spec.hidden * 8 * 4  # bytes of a message: a link carries one after the other
    links = {(i, i + 1): Link("", "", 0.0, size / max(wire, 1e-9)) for i in range(count - 1)}
    spans = simulate(instructions(plan), [StageCost(f, b) for f, b in costs], links).spans
    last = max(end for stage in spans for op, _, _, end in stage if op in ("forward", "backward"))
    assert mixed.pipeline(costs, [wire] * (count - 1), many) == pytest.approx(last)


def test_a_step_waits_for_its_slowest_pipeline_and_its_gradients():
    found = mixed.seconds(RUN, mixed.stages(CUT), CELLS, LINKS)
    slow = [(1e-3 + 7 * 4e-3, 2e-3 + 7 * 9e-3), (2.5 * (3 * 4e-3 + 5e-3), 2.5 * (3 * 9e-3 + 8e-3))]
    sent = 2e-5 + 2048 * 2 * 1024 * 4 / 4 / 2e9
    # Both stages reduce over two replicas: the first over one kind's link, the second over the slow one.
    reduced = 2 * (2e-5 + 4 * (3 * 3e6 + 2e7) / 2 / 2e9)
    assert found == pytest.approx(mixed.pipeline(slow, [sent], 8) + reduced)
    faster = CELLS | {
        key: mixed.Cell(each.forward_s / 2, each.backward_s / 2, each.params) for key, each in CELLS.items()
    }
    assert mixed.seconds(RUN, mixed.stages(CUT), faster, LINKS) < found


def test_rows_of_a_mixed_source_are_scored(tmp_path: Path):
    real = mixed.seconds(RUN, mixed.stages(CUT), CELLS, LINKS)
    lines = [
        "source,row,card,card_count,layers,hidden,heads,vocab,seq,global_batch,micro_batch,precision,measure,value,mixed"
    ]
    cut = CUT.replace('"', '""')
    lines += [
        f'x,r{i},mixed,12,10,1024,16,50304,2048,32,2,fp32,iter_s,{real * by},"{cut}"'
        for i, by in enumerate((1.0, 1.25))
    ]
    rows, profiles, links, out = (tmp_path / name for name in ("rows.csv", "profiles.csv", "links.csv", "out.json"))
    rows.write_text("\n".join(lines), encoding="utf-8")
    profiles.write_text(
        "\n".join(
            [
                ",".join(mixed.PROFILE),
                *(
                    ",".join(map(str, (*key, cell.forward_s, cell.backward_s, cell.params)))
                    for key, cell in CELLS.items()
                ),
            ]
        ),
        encoding="utf-8",
    )
    links.write_text(
        "\n".join([",".join(mixed.LINK), *(",".join(map(str, (*key, *each))) for key, each in LINKS.items())]),
        encoding="utf-8",
    )
    words = ["plan", "check", str(rows), "--profiles", str(profiles), "--links", str(links), "--json", str(out)]
    assert app.main(words) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["time_mape_mixed"] == pytest.approx(0.1) and report["time_mape"] is None
    assert app.main(words[:3]) == 5  # nothing is left without the profiles


def test_what_is_missing_is_named(tmp_path: Path):
    cut = mixed.stages(CUT)
    for cells, links in (({}, LINKS), (CELLS, {})):
        with provoke("DL-DATA-011"):
            mixed.seconds(RUN, cut, cells, links)
    with provoke("DL-DATA-011"):
        mixed.seconds(replace(RUN, global_batch=30), cut, CELLS, LINKS)
    for text in ("card,tp\na,1\n", ",".join(mixed.LINK) + "\na,b,fast,1\n", ",".join(mixed.LINK) + "\na,b,1,0\n"):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        with provoke("DL-DATA-011"):
            mixed.read_links(path)
    for broken in ('[{"layers": 1, "cards": []}]', '[{"layers": 0, "cards": [{"card": "a"}]}]'):
        with pytest.raises(ValueError, match="stages have"):
            mixed.stages(broken)
