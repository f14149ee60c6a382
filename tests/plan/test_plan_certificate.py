"""A plan's gap is proved, the proof is checked by other code, and one that was touched is refused."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from brute_plans import none_beats, random_ask
from hypothesis import example, given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import families
from danlu.cli.app import main
from danlu.errors import DoesNotFit, UnprovedPlan
from danlu.fleet.groups import shorthand
from danlu.nouns import ModelSpec
from danlu.plan.groups import large
from danlu.plan.proof import certificate, verify

MODEL = ModelSpec("llama", 12, 4096, 32, 8, 128, 11008, 32000, 4096)


@cache
def proved() -> tuple[certificate.Proved, str]:
    found = large.search(MODEL, shorthand("24xA100-80+40xH20"), batch=1536, seq=4096)
    gap = certificate.prove_gap(found)
    return gap, certificate.dumps(gap)


def text() -> dict[str, Any]:
    return dict(json.loads(proved()[1]))


def test_the_checker_finds_the_gap_that_the_search_claims():
    assert verify.checked(text()) == pytest.approx(proved()[0].gap, rel=1e-6)
    assert 0 <= proved()[0].gap < 0.05


def test_the_checker_is_small():
    lines = Path(verify.__file__).read_text().splitlines()
    assert len(lines) < 150 and [line for line in lines if "import" in line and "danlu" in line] == [
        "from danlu.errors import UnprovedPlan"]  # fmt: skip


def test_the_command_says_what_a_certificate_proves(tmp_path, capsys):
    path = tmp_path / "cert.json"
    path.write_text(proved()[1])
    assert main(["plan", "verify", str(path)]) == 0
    assert "holds" in capsys.readouterr().out
    path.write_text(proved()[1][:-9])
    assert main(["plan", "verify", str(path)]) == 5


def test_a_large_fleet_is_planned_from_the_command_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(families.config(MODEL)))
    words = ["plan", str(tmp_path), "24xA100-80+40xH20", "--batch", "256", "--json", str(tmp_path / "f.json")]
    assert main([*words, "--certificate", str(tmp_path / "cert.json")]) == 0
    assert "U_sum" in capsys.readouterr().out
    figures = json.loads((tmp_path / "f.json").read_text())
    assert verify.checked(json.loads((tmp_path / "cert.json").read_text())) == pytest.approx(figures["gap"], rel=1e-6)


def change(where: str, found: dict[str, Any]) -> None:
    first, bound = found["plan"]["replicas"][0], found["bounds"][-1]
    match where:
        case "a faster plan":
            found["plan"]["seconds"] *= 0.9
        case "a better bound":
            bound["seconds"] *= 1.1
        case "cheaper cards":
            bound["prices"] = [price * 0.97 for price in bound["prices"]]
        case "dearer cards":
            bound["prices"] = [price * 1.01 for price in bound["prices"]]
        case "a bottleneck left out":
            bound["intervals"][0] = bound["intervals"][0][:-1]
        case "wide intervals":
            bound["intervals"] = [[ends[0], None] for ends in bound["intervals"]]
        case "a number of pipelines left out":
            bound["fewest"] += 1
        case "a stage that is not there":
            first["stages"] = first["stages"][1:] or [[0, 1, 2]]
        case "more cards than there are":
            first["copies"] += 40
        case "less work":
            first["micro_batches"] -= 1
        case "too much memory":
            for table in found["plan"]["tables"]:
                table["held"] = [[1e9 * size for size in row] for row in table["held"]]
        case "a newer version":
            found["certificate"] = 5
        case "free pipelines":
            bound["place"] -= 0.01 * found["batch"]
        case "a first micro-batch that is free":
            for table in found["bounds"][0]["tables"]:
                table["fill"] = [[1e6 * size for size in row] for row in table["time"]]
        case "a bound about dearer ways" | "a bound about longer messages" | "a bound about smaller cards":
            name, times = {"w": ("time", 1.001), "m": ("hops", 1.1), "c": ("room", 0.99)}[where.split()[-1][0]]
            for table in [table for each in found["bounds"] for table in each["tables"]]:
                table[name] = [[times * size for size in row] for row in table[name]]
        case "a bound about other micro-batches":
            sizes = {table["micro_batch"] for table in found["plan"]["tables"]}
            for each in found["bounds"]:
                kept = [i for i, table in enumerate(each["tables"]) if table["micro_batch"] not in sizes]
                for name in ("tables", "intervals"):
                    each[name] = [each[name][i] for i in kept]
        case "free cards":
            found["bounds"][0]["tables"][0]["cards"][0] = 0


CHANGES = (
    "a faster plan", "a better bound", "cheaper cards", "dearer cards", "a bottleneck left out", "wide intervals",
    "a number of pipelines left out", "a stage that is not there", "more cards than there are", "less work",
    "too much memory", "a newer version", "free pipelines", "free cards",
    "a first micro-batch that is free", "a bound about dearer ways", "a bound about longer messages",
    "a bound about smaller cards", "a bound about other micro-batches",
)  # fmt: skip


@pytest.mark.parametrize("where", CHANGES)
def test_a_certificate_that_was_touched_proves_nothing(where):
    found = copy.deepcopy(text())
    change(where, found)
    with provoke("DL-DATA-030"):
        verify.checked(found)


@cache
def small() -> tuple[dict[str, Any], list[tuple[Any, ...]], Any]:
    """A certificate, the places of all numbers in it, and what was searched, small enough for brute force."""
    ask = random_ask(random.Random(3), 6, 3, 8)
    found = large.search(ask.spec, ask.fleet, batch=ask.batch, seq=ask.seq, schedule=ask.schedule)
    whole = json.loads(certificate.dumps(certificate.prove_gap(found)))

    def places(each: Any, at: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        inner = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        return [at] * isinstance(each, int | float) + [one for key, value in inner for one in places(value, (*at, key))]

    return whole, places(whole, ()), found.ask


ODD = (math.nan, math.inf, -math.inf, 10**400, 1e300, -1, 0, 0.5, None, "x", [])


@pytest.mark.parametrize("group", [1e300, 0.5, 1.0, 10**400])
def test_a_group_that_is_no_whole_number_is_refused(group):
    found = copy.deepcopy(small()[0])
    found["bounds"][0]["tables"][0]["group"][0] = group
    with provoke("DL-DATA-030"):
        verify.checked(found)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_number_of_a_certificate_can_be_changed_to_prove_what_is_not_so(data):
    """It is refused; or what it proves of the same cards, model and batch still holds by brute force."""
    whole, places, ask = small()
    kinds = sorted({tuple(key for key in place if isinstance(key, str)) for place in places})
    kind = data.draw(st.sampled_from(kinds))
    place = data.draw(
        st.sampled_from([each for each in places if tuple(k for k in each if isinstance(k, str)) == kind])
    )
    found = copy.deepcopy(whole)
    holder: Any = found
    for key in place[:-1]:
        holder = holder[key]
    old = holder[place[-1]]
    holder[place[-1]] = data.draw(
        st.sampled_from([*ODD, *(old * by for by in (-1, 0.5, 0.99, 1.01, 2)), old + 1, old - 1])
    )
    try:
        gap = verify.checked(found)
    except UnprovedPlan:
        return
    numbers = [each for each in (holder[place[-1]], gap) if isinstance(each, float)]
    assert all(math.isfinite(each) for each in numbers) and gap >= 0
    if kind[0] in ("bounds", "bound_s") and "tables" not in kind:  # the proof of what was asked, not what was asked
        assert none_beats(ask, found["bound_s"])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 8), st.sampled_from([1.0, 1.5, 4.0]))
@example(100280, 7, 1.5)  # a step shorter than both the fill and what is done once
def test_no_plan_that_brute_force_looks_at_beats_a_bound(seed, cards, slower):
    """The bound is made from a plan that is slower than the best one, and from no pipelines that a search knew."""
    ask = random_ask(random.Random(seed), cards, 3, 8)
    try:
        found = large.search(ask.spec, ask.fleet, batch=ask.batch, seq=ask.seq, schedule=ask.schedule)
    except DoesNotFit:
        return
    slow = replace(found.plan, seconds=slower * found.plan.seconds)
    proved = certificate.prove_gap(replace(found, plan=slow, columns=()))
    assert none_beats(found.ask, proved.bound_s)
    assert proved.bound_s > 0


def test_a_lost_host_leaves_a_plan_over_the_rest():
    found = large.search(MODEL, shorthand("24xA100-80+40xH20"), batch=128, seq=4096)
    then = large.replan(found, shorthand("24xA100-80+32xH20"))
    assert then.plan.seconds > found.plan.seconds * 0.99
    assert all(n <= group.count for n, group in zip(then.plan.used, then.ask.fleet.groups, strict=True))
