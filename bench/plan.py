"""How good the planner is: its predictor against published runs and our own. Each part of PARTS adds keys and a table;
--only takes the name of one.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.cli.plan_check import rated
from danlu.errors import DoesNotFit, UnknownPlugin
from danlu.fleet.groups import shorthand
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.sum_share import sum_share
from danlu.plan.proof import certificate, verify
from danlu.plan.stated import mixed, rows, score, stack_fit, stack_forecast

TRUTH = Path(__file__).parent / "truth"
CALIBRATED = 3  # rows a card
FLEETS = 1000  # random ones, and models
CASES, BATCH = 500, 8  # small ones against brute force, and their largest batch
SEVENTY = ModelSpec("llama", 80, 8192, 64, 8, 128, 28672, 128256, 8192)
# 1.9 T parameters, of the shape of llama-3-405b: neither 128 MI300X nor 640 A100 hold it with 1024 sequences
WIDE = ModelSpec("llama", 212, 26624, 208, 8, 128, 93184, 128256, 8192)
WIDER = ModelSpec("llama", 220, 27648, 216, 8, 128, 96768, 128256, 8192)  # 2.1 T: neither 128 A100 nor 640 H20
TWO = "128xMI300X+640xA100-80"  # cards of two makers, in the numbers of HETHUB (arXiv 2405.16256)
LARGEST = ModelSpec("llama", 126, 16384, 128, 8, 128, 53248, 128256, 8192)


def truth(_rounds: int) -> dict[str, Any]:
    """Keys: time_mape_loso, time_mape_calibrated, time_mape_fivefold (means over sources), time_worst_source, tau_min
    (of the first), memory_mape_formula, _allocated, _device, _reserved, false_fits (a count), false_refusals (a share),
    interval_coverage (of 80 % intervals, from the other sources' errors).
    Nothing here is timed, so that rounds change nothing.
    """
    found = [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]
    left_out = score.figures(score.score(found, rated, leave_out=True))
    calibrated = score.figures(score.score(found, rated, leave_out=True, calibrate=CALIBRATED))
    folded = score.figures(score.score(found, rated, folds=5))
    every = {"leave one source out": left_out, f"and {CALIBRATED} rows a card": calibrated, "five folds": folded}
    sources = list(left_out["sources"])
    print(table(["constants of time seen by", "mean", *sources, "least tau"], [
        [name, f"{each['time_mape']:.2%}", *(_percent(each["sources"][s]["time_mape"]) for s in sources),
         f"{each['tau_min']:.3f}"] for name, each in every.items()
    ]))  # fmt: skip
    memory = {f"memory_mape_{kind}": left_out["memory_mape"][kind] for kind in score.MEMORY}
    print("bytes: " + ", ".join(f"{name.removeprefix('memory_mape_')} {_percent(v)}" for name, v in memory.items()))
    print(f"cards of 0.9 of the measured peak: {left_out['false_fits']} of {left_out['capacity_rows']} runs accepted; "
          f"of 1.15: {_percent(left_out['false_refusals'])} refused")  # fmt: skip
    return {
        "time_mape_loso": left_out["time_mape"], "time_mape_calibrated": calibrated["time_mape"],
        "time_mape_fivefold": folded["time_mape"], "time_worst_source": left_out["time_worst_source"],
        "tau_min": left_out["tau_min"], **memory, "false_fits": left_out["false_fits"],
        "false_refusals": left_out["false_refusals"], "interval_coverage": left_out["interval_coverage"],
    }  # fmt: skip


def more_truth(_rounds: int) -> dict[str, Any]:
    """Keys over the tables of bench/truth and bench/truth/more together, constants seeing no row of the source scored:
    time_mape_loso_all, time_worst_source_all, tau_min_all; with three rows a card time_mape_calibrated_all, in five
    folds time_mape_fivefold_all; and with constants of bench/truth alone, the tables of more: time_mape_more.
    """
    five = [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]
    more = [row for path in sorted((TRUTH / "more").glob("*.csv")) for row in rows.read(path)]
    known = stack_fit.fit(stack_fit.cases(five, rated))
    apart = score.figures(score.score(more, rated, known=known))
    left_out = score.figures(score.score(five + more, rated, leave_out=True))
    calibrated = score.figures(score.score(five + more, rated, leave_out=True, calibrate=CALIBRATED))
    folded = score.figures(score.score(five + more, rated, folds=5))
    parts = [left_out, calibrated, folded, apart]
    print(table(["source", "left out", f"and {CALIBRATED} rows a card", "five folds", "by bench/truth alone", "tau"], [
        [name, *(_percent(each["sources"].get(name, {}).get("time_mape")) for each in parts),
         _judged(left_out["sources"][name]["tau"])] for name in left_out["sources"]
    ] + [
        ["mean (least tau)", *(_percent(each["time_mape"]) for each in parts), _judged(left_out["tau_min"])]
    ]))  # fmt: skip
    return {
        "time_mape_loso_all": left_out["time_mape"], "time_worst_source_all": left_out["time_worst_source"],
        "time_mape_calibrated_all": calibrated["time_mape"], "time_mape_fivefold_all": folded["time_mape"],
        "tau_min_all": left_out["tau_min"], "time_mape_more": apart["time_mape"],
    }  # fmt: skip


def cold_truth(_rounds: int) -> dict[str, Any]:
    """Keys over the tables of bench/truth/cold, which no constant was ever fitted to, by the published constants:
    time_mape_cold, time_worst_source_cold, tau_min_cold, interval_coverage_cold (of the intervals printed beside them),
    and time_mape_calibrated_cold with three rows a card; the same of bench/truth/cold2, ending in _cold2.
    """
    return {f"{key}_{name}": value for name in ("cold", "cold2") for key, value in _cold(name).items()}


def _cold(name: str) -> dict[str, Any]:
    found = [row for path in sorted((TRUTH / name).glob("*.csv")) for row in rows.read(path)]
    scored, known = score.score(found, rated), stack_forecast.residuals()
    told, errors = score.figures(scored), score.residuals(scored)
    tuned = score.figures(score.score(found, rated, calibrate=CALIBRATED))
    inside = fmean(abs(each.error) <= stack_forecast.half_width(each.shares, known) for each in errors)
    print(table(["source", name, f"{CALIBRATED} rows a card", "tau"], [
        [source, *(_percent(of["sources"][source]["time_mape"]) for of in (told, tuned)), _judged(each["tau"])]
        for source, each in told["sources"].items()
    ]))  # fmt: skip
    print(f"mean {told['time_mape']:.2%} of {told['time_rows']} runs, {tuned['time_mape']:.2%} with {CALIBRATED} rows "
          f"a card; {inside:.1%} inside their 80 % intervals")  # fmt: skip
    return {
        "time_mape": told["time_mape"], "time_worst_source": told["time_worst_source"], "tau_min": told["tau_min"],
        "interval_coverage": inside, "time_mape_calibrated": tuned["time_mape"],
    }  # fmt: skip


def mixed_cards(_rounds: int) -> dict[str, Any]:
    """Key: time_mape_mixed, over the rows of bench/truth/mixed by their source's own profiles and links."""
    profiles = mixed.read_profiles(TRUTH / "mixed" / "sailor_profiles.csv")
    links = mixed.read_links(TRUTH / "mixed" / "sailor_links.csv")
    found = [(row, mixed.seconds(row.setup, stages, profiles, links))
             for row, stages in rows.read_mixed(TRUTH / "mixed" / "sailor_mixed.csv")]  # fmt: skip
    print(table(["mixed cards", "measured s", "predicted s", "error"], [
        [row.name, f"{row.real:.1f}", f"{predicted:.1f}", f"{predicted / row.real - 1:+.1%}"]
        for row, predicted in found
    ]))  # fmt: skip
    return {"time_mape_mixed": fmean(abs(predicted / row.real - 1) for row, predicted in found)}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _judged(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def fleets(_rounds: int) -> dict[str, Any]:
    """Keys: gap_768, gap_10k (proved), certificate_ok, plan_768_s (a whole process, all cores, no proof) and
    plan_768_proved_s (the command, with the proof and the tables), search_10k_s (one core, as the others),
    replan_10k_s, search_100k_s, u_sum_768 and gap_u_sum (a model that neither type holds alone: groups/sum_share.py),
    u_sum_both (one that both hold), u_sum_unlike (one that neither holds, where speed and memory do not match).

    All forecasts on catalogue figures, none run by us.
    """
    small, middle = shorthand("128xA100-80+640xH20"), shorthand("4000xA100-80+3500xH20+2500xH100")
    here, small_s = _searched(SEVENTY, small, 1024, 4096)
    there, middle_s = _searched(LARGEST, middle, 4096, 8192)
    began = time.monotonic()
    lost = replace(middle, groups=(replace(middle.groups[0], count=3992), *middle.groups[1:]))
    with _one_core():
        large.replan(there, lost)
    replan_s = time.monotonic() - began
    wide, wide_s = _searched(WIDE, shorthand(TWO), 1024, 4096)
    unlike, _ = _searched(WIDER, small, 1024, 4096)
    assert not any([*wide.alone.values(), *unlike.alone.values()]), "a type holds the model alone"
    proofs = [certificate.prove_gap(each) for each in (here, there, wide)]
    held = [abs(verify.checked(certificate.as_dict(each)) - each.gap) < 1e-6 for each in proofs]
    whole = shorthand("+".join(f"20000x{name}" for name in ("A100-80", "H20", "H100", "A800-80", "H200")))
    _, whole_s = _searched(LARGEST, whole, 16384, 8192)
    tight = {each.plan.fleet.name: sum_share(each) for each in (wide, unlike)}
    process_s, command_s = _process(), _command()
    shares = (here.sum_share, there.sum_share, tight[TWO].value)
    print(table(["fleet", "search", "step", "bound", "gap", "U_sum", "certificate"], [
        [each.plan.fleet.name, f"{took:.1f} s", f"{each.plan.seconds:.4g} s", f"{proof.bound_s:.4g} s",
         f"{proof.gap:.2%}", f"{value:.1%}", "holds" if good else "REFUSED"]
        for each, took, value, proof, good in
        zip((here, there, wide), (small_s, middle_s, wide_s), shares, proofs, held, strict=True)
    ]))  # fmt: skip
    print(f"100,000 cards of 5 types {whole_s:.1f} s; a host of 10,000 cards lost {replan_s:.2f} s; a process "
          f"of 768 cards {process_s:.1f} s, the command with its proof {command_s:.1f} s")  # fmt: skip
    for each in (wide, unlike):
        share = tight[each.plan.fleet.name]
        counted = ", ".join(f"{name} at the rate of {count} of them" for name, count in share.cards.items())
        print(f"U_sum of {each.plan.model.params / 1e9:,.0f} G parameters on {each.plan.fleet.name}, which neither "
              f"type holds alone: {share.value:.1%} ({counted})")  # fmt: skip
    return {
        "gap_768": proofs[0].gap, "gap_10k": proofs[1].gap, "certificate_ok": all(held), "search_10k_s": middle_s,
        "replan_10k_s": replan_s, "search_100k_s": whole_s, "u_sum_768": tight[TWO].value, "u_sum_both": here.sum_share,
        "u_sum_unlike": tight[small.name].value, "gap_u_sum": proofs[2].gap, "plan_768_s": process_s,
        "plan_768_proved_s": command_s,
    }  # fmt: skip


def beside_single(_rounds: int) -> dict[str, Any]:
    """Key: mixed_vs_best_single_min, the least over FLEETS random fleets and models that one type holds."""
    began = time.monotonic()
    with multiprocessing.get_context("fork").Pool() as pool:
        ratios = [ratio for ratio in pool.imap_unordered(_over_single, range(FLEETS), 10) if ratio is not None]
    below, above = sum(ratio < 1.0 for ratio in ratios), sum(ratio > 1.0 for ratio in ratios)
    print(f"mixed over the best single type, {FLEETS} random fleets of 1 to 5 types, {len(ratios)} of which hold their "
          f"model on one type: least {min(ratios):.3f}, {below} below 1, {above} above "
          f"({time.monotonic() - began:.0f} s)")  # fmt: skip
    return {"mixed_vs_best_single_min": min(ratios)}


@contextmanager
def _one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _searched(spec: ModelSpec, fleet: GroupedFleet, batch: int, seq: int) -> tuple[large.Found, float]:
    began = time.monotonic()
    with _one_core():
        found = large.search(spec, fleet, batch=batch, seq=seq)
    return found, time.monotonic() - began


def _over_single(seed: int) -> float | None:
    """Forecast mixed over best single type of one random model and fleet; None where no type holds it."""
    rng = random.Random(seed)
    try:
        found = large.search(_model(rng), _fleet(rng), batch=rng.choice([8, 32, 128, 512]),
                             seq=rng.choice([1024, 4096]), most_sequences=rng.choice([1, 2]))  # fmt: skip
    except DoesNotFit:
        return None
    return found.over_best_single if any(found.alone.values()) else None


def _model(rng: random.Random) -> ModelSpec:
    heads, head_dim = rng.choice([8, 16, 32, 40, 64]), rng.choice([64, 128])
    hidden, keys = heads * head_dim, [n for n in (1, 2, 4, 8, heads) if heads % n == 0]
    ffn = 128 * round(rng.uniform(2.5, 4) * hidden / 128)
    return ModelSpec("llama", rng.randint(1, 12), hidden, heads, rng.choice(keys), head_dim, ffn,
                     rng.choice([32000, 128256]), 8192)  # fmt: skip


def _fleet(rng: random.Random) -> GroupedFleet:
    """One to five types of cards on one to eight hosts each, with slow links and fast ones."""
    groups = []
    for i in range(rng.randint(1, 5)):
        per_host = rng.choice([1, 2, 4, 8])
        memory, network = rng.choice([16, 24, 40, 80, 96]) * 10**9, rng.choice([1e9, 5e9, 2.5e10, 5e10])
        groups.append(Group(f"card{i}", per_host * rng.randint(1, 8), rng.uniform(2e13, 1e15), memory,
                            rng.uniform(5e11, 4e12), rng.uniform(1.2e10, 4.5e11), network, per_host))  # fmt: skip
    return GroupedFleet("random", tuple(groups))


def _process() -> float:
    """Seconds of a whole process that plans 768 cards."""
    asked = f"large.search({SEVENTY!r}, shorthand('128xA100-80+640xH20'), batch=1024, seq=4096)"
    words = "from danlu.fleet.groups import shorthand; from danlu.nouns import *; from danlu.plan.groups import large; "
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", words + asked], check=True)
    return time.monotonic() - began


def _command() -> float:
    """Seconds of the same as a person asks for it: with alternatives, advice and the proof."""
    words = "plan llama-3-70b 128xA100-80+640xH20 --batch 1024 --seq 4096"
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "danlu", *words.split()], check=True, capture_output=True)
    return time.monotonic() - began


def brute(_rounds: int) -> dict[str, Any]:
    """Key: brute_force_equal, the share of CASES random small fleets where the search's plan is the best there is."""
    path = Path(__file__).parents[1] / "tests" / "plan" / "brute_plans.py"
    spec = importlib.util.spec_from_file_location("brute_plans", path)
    assert spec is not None and spec.loader is not None
    plans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plans)
    began = time.monotonic()
    asked = [plans.random_ask(random.Random(seed), 1 + seed % 16, 8, BATCH) for seed in range(CASES)]
    equal = sum(plans.is_best(ask) for ask in asked)
    print(f"{equal} of {CASES} random fleets of up to 16 cards in 3 groups, 8 layers and {BATCH} sequences: no plan "
          f"that brute force looks at is faster ({time.monotonic() - began:.0f} s)")  # fmt: skip
    return {"brute_force_equal": equal / CASES}


def real_runs(rounds: int) -> dict[str, Any]:
    """Key: real_run_error, the largest of runs of `danlu train`, dense models in fp32; and each (bench/training)."""
    found: dict[str, Any] = load("training/real_runs").measure(min(rounds, 3))
    return found


def real_runs_other(rounds: int) -> dict[str, Any]:
    """Keys: real_run_error_moe and real_run_error_bf16, the same of mixtures and of runs in bf16; and each."""
    found: dict[str, Any] = load("training/real_runs").measure(min(rounds, 3), dense=False)
    return found


def held_out(rounds: int) -> dict[str, Any]:
    """Key: held_out_error, the largest of runs of models and fleets that no cost was looked at with; and each."""
    found: dict[str, Any] = load("training/held_out").measure(min(rounds, 3))
    return found


PARTS: tuple[Callable[[int], dict[str, Any]], ...] = (
    truth, more_truth, cold_truth, mixed_cards, fleets, beside_single, brute, real_runs, real_runs_other,
    held_out,
)  # fmt: skip


def measure(rounds: int, only: str = "") -> dict[str, Any]:
    """The keys of every part, or of the one that `only` names. Raises UnknownPlugin for another word."""
    chosen = [part for part in PARTS if only in ("", part.__name__)]
    if not chosen:
        names = ", ".join(part.__name__ for part in PARTS)
        raise UnknownPlugin(f"bench plan has no part {only!r}", why=f"there are: {names}",
                            fix=f"danlu bench plan --only {PARTS[0].__name__}")  # fmt: skip
    keys: dict[str, Any] = {}
    for part in chosen:
        keys |= part(rounds)
    return keys
