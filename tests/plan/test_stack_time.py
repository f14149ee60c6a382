"""Seconds of real training stacks: closed forms, properties, the fit and its score on published rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import app, plan_check
from danlu.cli.plan_check import rated
from danlu.fleet import catalogue
from danlu.plan.stated import rows, score, stack_fit, stack_time
from danlu.plan.stated.rows import Row
from danlu.plan.stated.score import Scored
from danlu.plan.stated.score_split import chosen, splits
from danlu.plan.stated.setup import Experts, Setup, choices
from danlu.plan.stated.stack_work import AMOUNTS, model_flop, work

TRUTH = Path(__file__).parents[2] / "bench" / "truth"
GPT = Setup("A100-80", 64, 8, 25e9, 96, 12288, 96, 96, 49152, False, 51200, 2048, 64, 1, 8, 8, interleave=3,
            flash=False, dropout=True, precision="fp16")  # fmt: skip
FIELDS = [name for name in stack_fit.SPREAD if name not in ("alpha_s", "kernel_s")]


def seconds(run: Setup, **changed: float) -> float:
    constants = replace(stack_time.published(), **changed)
    return stack_time.seconds(run, work(run), rated(run.card), constants)


def every() -> list[Row]:
    return [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]


CASES = stack_fit.cases(every(), rated)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_flop_are_those_of_the_paper(recompute):
    """96 B s l h^2 (1 + s/6h + V/16lh) with recomputation, 72 B s l h^2 (1 + s/6h + V/12lh) without (arXiv 2104.04473).

    The padded vocabulary stands for V, and the head is not computed a second time.
    """
    run = replace(GPT, recompute=recompute)
    amounts = dict(zip(AMOUNTS, work(run).stages.sum(axis=0), strict=True))
    head = dict(zip(AMOUNTS, work(run).head, strict=True))
    ours = (amounts["matmul_flop"] + head["matmul_flop"] + amounts["attention_flop"]) * run.tp
    factor, s, h = (96 if recompute == "full" else 72), run.seq, run.hidden
    paper = factor * s * run.layers * h**2 * (1 + s / (6 * h)) + 6 * s * h * run.padded_vocab
    assert ours == pytest.approx(paper)


@given(st.integers(1, 6), st.integers(1, 40))
def test_one_more_micro_batch_costs_the_slowest_stage(stages, micro_batches):
    run = replace(GPT, pp=stages, interleave=1, global_batch=micro_batches)
    first, second, third = (seconds(replace(run, global_batch=micro_batches + i)) for i in range(3))
    assert second - first == pytest.approx(third - second)


def test_chunks_divide_the_bubble():
    once, twice, four = (seconds(replace(GPT, interleave=v, link=1e18)) for v in (1, 2, 4))
    assert (once - twice) == pytest.approx(2 * (twice - four), rel=0.05)


@given(st.sampled_from(FIELDS), st.floats(1.05, 2), st.sampled_from([1, 8]), st.sampled_from([0, 1, 3]))
def test_a_faster_part_never_makes_a_slower_step(name, factor, tp, zero):
    run = replace(GPT, tp=tp, pp=4, dp=2, zero=zero, overlap_dp=True, cards=8 * tp)
    slower = name.endswith("bytes") or name in ("fused", "unhidden", "contended", "straggle")
    value = getattr(stack_time.published(), name) * (1 / factor if slower else factor)
    assert seconds(run, **{name: value}) <= seconds(run) * (1 + 1e-12)


@given(st.integers(1, 14))
def test_each_doubling_of_the_cards_adds_the_same_wait(doublings):
    known = stack_time.published()
    added = stack_time.waiting(2 * 2**doublings, known) - stack_time.waiting(2**doublings, known)
    assert added == pytest.approx(known.straggle) and stack_time.waiting(1, known) == 1


@given(st.floats(1e9, 1e11), st.floats(1.1, 10))
def test_a_faster_network_never_makes_a_slower_step(link, factor):
    run = replace(GPT, dp=4, cards=256)
    assert seconds(replace(run, link=link * factor)) <= seconds(replace(run, link=link))


def test_what_a_row_leaves_open_becomes_a_choice():
    found = choices(replace(GPT, tp=0, pp=0, micro_batch=0, interleave=0))
    assert {(run.tp, run.pp) for run in found} == {(8, 8)}
    assert {run.micro_batch for run in found} == {1, 2, 4, 8}
    assert {run.interleave for run in found} == {2, 3, 4}


def test_the_published_constants_are_those_of_a_fresh_fit():
    more = [row for path in sorted((TRUTH / "more").glob("*.csv")) for row in rows.read(path)]
    fresh = stack_fit.fit(stack_fit.cases(every() + more, rated))
    for name in stack_fit.SPREAD:
        assert getattr(stack_time.published(), name) == pytest.approx(getattr(fresh, name), rel=0.01)
    assert stack_time.loads(stack_time.dumps(fresh)).cards.keys() == fresh.cards.keys()


def test_one_row_that_is_wrong_by_ten_moves_no_constant_far():
    true = stack_time.published()
    made = [replace(case, row=replace(case.row, real=case.predicted(true))) for case in CASES[::3]]
    odd = [replace(made[0], row=replace(made[0].row, real=10 * made[0].row.real)), *made[1:]]
    found = stack_fit.fit(odd)
    assert np.mean([abs(np.log(case.predicted(found) / case.row.real)) for case in made]) < 0.03


def test_experts_on_other_hosts_cost_their_network_and_a_token_crosses_once_a_host():
    run = replace(GPT, tp=1, pp=1, dp=64, experts=Experts(64, 8, 4096), ep=8, link=25e9)
    price = [stack_time.prices(replace(run, ep=ep), rated(run.card), stack_time.published())[AMOUNTS.index("ep_bytes")]
             for ep in (4, 8, 16, 64)]  # fmt: skip
    assert price[0] == price[1] < price[2]
    reached = 7 * (1 - (7 / 8) ** 8) / (8 * 63 / 64)
    assert price[3] == pytest.approx(reached / (25e9 * stack_time.published().network))


def test_states_shared_inside_a_host_are_gathered_there():
    far = replace(GPT, tp=1, pp=1, dp=64, zero=3, overlap_dp=True, link=2.5e9)
    assert seconds(replace(far, zero_ranks=8)) < seconds(far)
    assert work(replace(far, zero_ranks=64)).gather_bytes == work(far).gather_bytes
    assert work(replace(far, zero_ranks=8)).dp_bytes > 0 == work(far).dp_bytes


def test_gathers_that_hide_behind_compute_cost_what_their_bytes_take_inside_a_host():
    run = replace(GPT, tp=1, pp=1, dp=64, zero=3, overlap_dp=True)
    assert seconds(replace(run, link=1e11)) == seconds(replace(run, link=4e10)) < seconds(replace(run, link=1e9))
    assert seconds(run, contended=0.1) < seconds(run, contended=0.2)


def test_messages_beside_weight_gradients_cost_less_than_alone_and_more_than_beside_all():
    for run in (GPT, replace(GPT, seq_parallel=True)):
        alone, back, all_of_them = (
            seconds(replace(run, overlap_back=b, overlap_tp=a)) for b, a in ((0, 0), (1, 0), (0, 1))
        )
        assert all_of_them < back < alone


def test_a_second_stage_sums_gradients_of_every_micro_batch():
    whole, split = (work(replace(GPT, tp=1, pp=1, dp=64, zero=zero)) for zero in (1, 2))
    assert whole.gather_bytes == 0 < split.gather_bytes
    assert whole.dp_bytes == pytest.approx(split.dp_bytes + split.gather_bytes)
    assert work(replace(GPT, zero=2)).gather_bytes == 0  # a pipeline keeps them until its last micro-batch


def test_what_eager_torch_makes_of_a_gated_model_is_counted_apart():
    llama = replace(GPT, gated=True, flash=True, dropout=False)
    eager, fused = (work(replace(llama, software="torch", kernels=kernels)).stages[0] for kernels in (False, True))
    at = AMOUNTS.index
    assert eager[at("eager_bytes")] > fused[at("pass_bytes")] > 0 == fused[at("eager_bytes")] == eager[at("pass_bytes")]


def test_a_later_kernel_of_attention_is_faster_and_a_short_gradient_cheaper():
    run = replace(GPT, flash=True, dropout=False, link=2.5e9)
    first, second, third = (seconds(replace(run, attention_kernel=n)) for n in (1, 2, 3))
    assert first > second > third
    half, whole = work(replace(run, reduce_bytes=2)).dp_bytes, work(replace(run, reduce_bytes=4)).dp_bytes
    assert whole == 2 * half


def test_cards_are_rated_by_what_is_claimed_unless_more_was_measured():
    assert rated("A100-40").flops == rated("A100-80").flops == 312e12
    assert rated("Ascend-910B").flops > 304e12


CARDS = [name for name, each in catalogue.entries().items()
         if all(each.figures[thing] for thing in ("bf16", "memory", "bandwidth", "link"))]  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(CARDS), st.sampled_from([1, 2, 8]), st.sampled_from([1, 4]), st.sampled_from([1, 16]),
       st.sampled_from([0, 1, 3]), st.sampled_from([1, 2]), st.sampled_from([(12, 768), (32, 4096), (96, 12288)]),
       st.sampled_from([1024, 32768]), st.booleans())  # fmt: skip
def test_whatever_the_card_more_work_or_less_help_never_makes_a_faster_step(
    card, tp, pp, dp, zero, micro, shape, seq, over
):
    layers, hidden = shape
    run = Setup(card, tp * pp * dp, min(8, tp * pp * dp), 25e9, layers, hidden, hidden // 64, hidden // 64, 4 * hidden,
                True, 51200, seq, 16 * dp, micro, tp, pp, dp, zero=zero, overlap_dp=over)  # fmt: skip
    took = seconds(run)
    assert 0 < model_flop(run) / run.cards / took < 1.2 * rated(card).flops  # in full squares, of which half are made
    for more in ({"recompute": "full"}, {"flash": False}, {"precision": "fp32"}, {"global_batch": 2 * run.global_batch},
                 {"link": 5e9}, {"seq": 2 * seq}, {"overlap_dp": False}):  # fmt: skip
        assert took <= seconds(replace(run, **more)) * (1 + 1e-9), more
    if pp == 1:
        assert took >= seconds(replace(run, micro_batch=2 * micro)) * (1 - 1e-9)


@pytest.mark.parametrize("folder", ["cold", "cold2"])
def test_tables_nothing_was_fitted_to_are_read_and_scored(folder):
    found = [row for path in sorted((TRUTH / folder).glob("*.csv")) for row in rows.read(path)]
    told = score.figures(score.score(found, rated))
    assert len(told["sources"]) == 5 and 0.05 < told["time_mape"] < 0.19 and told["tau_min"] > 0.6


def test_chunks_that_are_not_stated_divide_the_items_of_every_stage():
    run = replace(GPT, interleave=0, layers=126, pp=16, items=(8,) * 16)
    assert {each.interleave for each in choices(run)} == {2, 4}
    assert {each.interleave for each in choices(replace(run, items=(7, *(8,) * 14, 9)))} == {2}


def test_a_fit_finds_the_constants_that_made_the_rows():
    true = replace(stack_time.published(), matmul=0.8, network=0.6, score_bytes=1.2)
    cases = stack_fit.cases(every(), rated)
    made = [replace(case, row=replace(case.row, real=case.predicted(true))) for case in cases]
    again = stack_fit.fit(made)
    off = [abs(np.log(case.predicted(again) / case.row.real)) for case in made]
    assert np.mean(off) < 0.01


def test_each_source_is_predicted_from_the_others(tmp_path):
    out = tmp_path / "score.json"
    tables = [str(path) for path in sorted(TRUTH.glob("*.csv"))]
    assert app.main(["plan", "check", *tables, "--leave-one-source-out", "--json", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["time_mape"] <= 0.075 and report["tau_min"] >= 0.85
    assert report["time_worst_source"] == max(each["time_mape"] for each in report["sources"].values())
    assert len(report["sources"]) == 5 and report["memory_mape"]["formula"] <= 0.005


def test_three_rows_a_card_and_folds_meet_what_is_asked(tmp_path):
    tables, out = [str(path) for path in sorted(TRUTH.glob("*.csv"))], tmp_path / "score.json"
    for words, most in ((["--leave-one-source-out", "--calibrate", "3"], 0.08), (["--folds", "5"], 0.06)):
        assert app.main(["plan", "check", *tables, *words, "--json", str(out)]) == 0
        assert json.loads(out.read_text(encoding="utf-8"))["time_mape"] <= most


@settings(max_examples=20)
@given(st.integers(0, 6), st.integers(2, 9))
def test_no_row_is_fitted_and_scored(calibrate, folds):
    known = CASES
    for split in (*splits(known, True, calibrate), *splits(known, False, calibrate), *splits(known, folds=folds)):
        runs = [
            {(case.row.source, case.row.name) for case in part} for part in (split.fitted, split.tuned, split.tested)
        ]
        assert split.tested and not runs[2] & (runs[0] | runs[1])
        for card in {case.card.name for case in split.tuned}:
            assert len({case.row.name for case in split.tuned if case.card.name == card}) <= calibrate
    scored = [case for split in splits(known, folds=folds) for case in split.tested]
    assert len(scored) == len(known) and set(map(id, scored)) == set(map(id, known))


def test_the_runs_that_calibrate_are_typical_and_not_chosen_by_their_seconds():
    own = [case for case in CASES if case.row.source == "korthikanti22"]
    odd = [replace(case, row=replace(case.row, real=10 / case.row.real)) for case in own]
    assert [case.row.name for case in chosen(own, 3)] == [case.row.name for case in chosen(odd, 3)]
    far = replace(own[0].row, name="far", setup=replace(own[0].row.setup, tp=1, pp=1, dp=8, zero=3, link=1e7, cards=512,
                                                        global_batch=8, micro_batch=1))  # fmt: skip
    among = [*stack_fit.cases([far], rated), *own]
    assert "far" not in {case.row.name for case in chosen(among, 1)}


def test_one_odd_run_of_three_carries_no_card_away():
    base = stack_time.published()
    made = [replace(case, row=replace(case.row, real=case.predicted(base))) for case in CASES
            if case.card.name == "A100-80"][:3]  # fmt: skip
    odd = [replace(made[0], row=replace(made[0].row, real=1.7 * made[0].row.real)), *made[1:]]
    found = stack_fit.calibrate(odd, base, stack_fit.FEW, stack_fit.FEW_BEND)
    assert max(abs(case.predicted(found) / case.row.real - 1) for case in made[1:]) < 0.12


def test_many_points_at_once_are_the_points_one_by_one():
    base = stack_time.published()
    by = {name: getattr(base, name) * np.array([1.0, 1.3, 0.7]) for name in stack_fit.SPREAD}
    cards = {name: value * np.array([0.9, 1.0, 1.2]) for name, value in base.cards.items()}
    for case in CASES[::7]:
        many = np.broadcast_to(case.predicted(replace(base, cards=cards, **by)), 3)
        one = []
        for i in range(3):
            own = {name: float(value[i]) for name, value in cards.items()}
            one.append(case.predicted(replace(base, cards=own, **{name: float(by[name][i]) for name in by})))
        assert many == pytest.approx(one)


def test_calibration_finds_a_card_that_is_slow_at_two_things():
    base = stack_time.published()
    true = replace(base, cards={**base.cards, "H100-96": 0.8}, others={"H100-96": 1.3})
    made = [replace(case, row=replace(case.row, real=case.predicted(true))) for case in CASES
            if case.card.name == "H100-96"]  # fmt: skip
    found = stack_fit.calibrate(made[::5], base)
    assert np.mean([abs(np.log(case.predicted(found) / case.row.real)) for case in made]) < 0.03
    assert {name for name in base.cards if base.cards[name] != found.cards[name]} == {"H100-96"}


def test_what_cannot_be_asked_together_is_refused(tmp_path):
    table = str(TRUTH / "torchtitan.csv")
    for words in (["--folds", "5", "--calibrate", "2"], ["--calibrate", "-1"], ["--folds", "1"]):
        with provoke("DL-CFG-002"):
            plan_check.run(app.parser_of("plan check").parse_args([table, *words]))
    with provoke("DL-DATA-011"):
        score.score(rows.read(TRUTH / "torchtitan.csv"), rated, folds=500)
    broken = tmp_path / "constants.yaml"
    for text in ("matmul: fast", "matmul: -1", "- a", "speed: 1"):
        broken.write_text(text, encoding="utf-8")
        with provoke("DL-DATA-011"):
            stack_time.read(broken)


def test_one_source_alone_cannot_be_left_out():
    with provoke("DL-DATA-011"):
        score.score(rows.read(TRUTH / "torchtitan.csv"), rated, leave_out=True)


def test_nothing_is_keyed_on_the_name_of_a_source():
    named = score.figures(score.score(every(), rated))
    other = [replace(row, source=f"source{i}", name=f"row{n}") for n, row in enumerate(every())
             for i in (sorted({each.source for each in every()}).index(row.source),)]  # fmt: skip
    assert [each.predicted for each in score.score(other, rated)] == [row["predicted"] for row in named["rows"]]


def test_lines_of_one_run_count_once():
    def scored(name: str, predicted: float) -> Scored:
        return Scored(Row("a", name, "time", 1.0, GPT), predicted)

    report = score.figures([scored("twice", 1.1), scored("twice", 1.3), scored("once", 1.0)])
    assert report["time_mape"] == pytest.approx(0.1) and report["tau_min"] is None


@given(st.lists(st.floats(1, 1e3), min_size=2, max_size=12))
def test_tau_of_a_right_order_is_one_and_of_a_reversed_one_minus_one(real):
    pairs = [(value, value) for value in real]
    assert score.tau(pairs) == 1
    if max(real) > 1.04 * min(real):
        assert score.tau([(value, -value) for value in real]) == -1
