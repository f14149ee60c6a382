"""The timeline of a plan over groups, changes that make a model fit, scaling, and fleets that cannot be meant."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from provoke import provoke

from danlu.cli import app, plan_picture, plan_told
from danlu.fleet.groups import loads, shorthand
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan import presets
from danlu.plan.groups import fitting, large, scaling, timeline

SMALL = ModelSpec("llama", 12, 2048, 16, 8, 128, 5632, 32000, 4096)


@pytest.mark.parametrize(("fleet", "batch"), [("4xA100-80", 16), ("6xRTX-4090+5xV100", 24)])
def test_a_timeline_has_every_micro_batch_once_and_nothing_at_once(fleet, batch):
    plan = large.search(SMALL, shorthand(fleet), batch=batch, seq=2048, schedule="1f1b").plan
    for each in plan.replicas:
        drawn = timeline.bars(plan, each)
        for stage in drawn:
            assert sum(bar.kind == "forward" for bar in stage) == each.micro_batches
            assert sum(bar.kind == "backward" for bar in stage) == each.micro_batches
            ends = sorted((bar.start, bar.stop) for bar in stage)
            assert all(b[0] >= a[1] - 1e-12 for a, b in zip(ends, ends[1:], strict=False))
        last = max(bar.stop for stage in drawn for bar in stage)
        assert last == pytest.approx(each.seconds, rel=0.12)  # the forecast is an upper bound where messages block


@pytest.mark.parametrize(("fleet", "batch"), [("4xA100-80", 16), ("6xRTX-4090+5xV100", 24)])
def test_a_zero_bubble_timeline_puts_weights_off_and_does_all_of_them(fleet, batch):
    plan = large.search(SMALL, shorthand(fleet), batch=batch, seq=2048).plan
    for each in plan.replicas:
        for at, (stage, drawn) in enumerate(zip(each.stages, timeline.bars(plan, each), strict=True)):
            one = timeline.parts_of(plan, each, stage)
            took = {kind: sum(bar.stop - bar.start for bar in drawn if bar.kind == kind) for kind in
                    ("forward", "backward", "weight", "message")}  # fmt: skip
            assert sum(took.values()) == pytest.approx(each.micro_batches * stage.time_s)
            halves = sum(bar.kind == "weight" for bar in drawn)
            assert took["weight"] == pytest.approx(halves * one.weight) and halves <= each.micro_batches
            assert at or not halves  # nobody waits for the first stage's gradients
            kept = [(bar.kind == "forward") - (bar.kind == "backward") for bar in drawn]
            assert max(sum(kept[: n + 1]) for n in range(len(kept))) <= len(each.stages)
            ends = sorted((bar.start, bar.stop) for bar in drawn)
            assert all(b[0] >= a[1] - 1e-12 for a, b in zip(ends, ends[1:], strict=False))
        last = max(bar.stop for drawn in timeline.bars(plan, each) for bar in drawn)
        assert 0.85 < last / timeline.formula(each, each.micro_batches) < 1.15
        assert timeline.formula(each, each.micro_batches) == pytest.approx(each.seconds)


def test_a_picture_is_whole_xml_and_the_page_loads_nothing(tmp_path):
    plan = large.search(SMALL, shorthand("6xRTX-4090+5xV100"), batch=24, seq=2048).plan
    for at, each in enumerate(plan.replicas):
        root = ElementTree.fromstring(plan_picture.svg(plan, at))
        words = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert sum("layers" in word for word in words) == len(each.stages)
    page = plan_picture.page(plan, "<all of it>", "a & b")
    assert "&lt;all of it&gt;" in page and "a &amp; b" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page


def test_a_model_that_does_not_fit_is_told_the_mildest_change(capsys):
    assert app.main(["plan", "llama-2-70b", "16xA100-80", "--batch", "16"]) == 4
    error = capsys.readouterr().err
    assert "DL-MEM-001" in error and "a step takes" in error
    tight = fitting.cheapest(presets.preset("llama-3-8b"), shorthand("4xV100"), batch=4, seq=16384, schedule="1f1b",
                             say=lambda words: None)  # fmt: skip
    assert tight is not None and "host_link: 2.5e+10" in tight.words
    group = replace(shorthand("4xV100").groups[0], host_link=1e9, host_mem_bytes=1 << 20)
    known = fitting.cheapest(presets.preset("llama-3-8b"), GroupedFleet("four", (group,)), batch=4, seq=16384,
                             schedule="1f1b", say=lambda words: None)  # fmt: skip
    assert known is not None and ("--seq" in known.words or "more cards" in known.words)


def test_ten_times_the_cards_are_less_than_ten_times_as_fast(capsys, tmp_path):
    points = scaling.scaled(SMALL, shorthand("4xA100-80+4xH20"), [10, 1], batch=64, seq=2048)
    assert [point.cards for point in points] == [8, 80]
    assert 1 < points[1].speedup < 10 and points[1].efficiency == pytest.approx(points[1].speedup / 10)
    whole, *parts = (float(each) for each in re.findall(r"([+-][\d.]+)%", plan_told.scale(points)))
    assert whole == pytest.approx(100 / points[1].efficiency - 100, abs=0.05)
    assert sum(parts) == pytest.approx(whole, abs=0.06 * len(parts))  # where the rest goes is all of the rest
    words = ["plan", "llama-3-8b", "8xH100", "--batch", "64", "--scale", "1,2", "--json", str(tmp_path / "f")]
    assert app.main(words) == 0
    assert "speed-up" in capsys.readouterr().out and json.loads((tmp_path / "f").read_text())["speedup_8"] == 1
    for more in (["--scale", "0"], ["--scale", "2", "--emit", "danlu"], ["--scale", "2", "--goal", "energy"]):
        assert app.main([*words[:5], *more]) == 2 and "DL-CFG-002" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("groups:\n  - {card: H100, count: 8, flops: 989}\n", 3, "9.89e+14"),
        ("groups:\n  - {card: H100, count: 8, link: 900}\n", 3, "bytes/s"),
        ("groups:\n  - {card: H100, count: 8, network: -1}\n", 3, "network"),
        ("groups:\n  - {card: H100, count: 8, mem_bytes: 80}\n", 3, "bytes"),
        ("groups:\n  - {card: H100, count: 8, disk_link: 1e9}\n", 3, "disk_bytes"),
        ("cards:\n  - {name: a, vendor: cuda, flops: {bf16: 0}, mem_bytes: 8GiB, mem_bw: 1e12}\n", 3, "flops"),
        ("cards:\n  - {name: a, vendor: cuda, flops: {bf16: 1e14}, mem_bytes: 8GiB, mem_bw: 1e12, host: h1}\n"
         "  - {name: b, vendor: cuda, flops: {bf16: 1e14}, mem_bytes: 8GiB, mem_bw: 1e12, host: h2}\n", 0, "h2"),
    ],
)  # fmt: skip
def test_a_fleet_that_cannot_be_meant_names_the_line(text, line, named):
    with provoke("DL-CFG-010") as caught:
        loads("fleet: 1\n" + text, "f.yaml")
    assert named in str(caught.error)
    assert not line or f"f.yaml:{line}" in caught.error.where
