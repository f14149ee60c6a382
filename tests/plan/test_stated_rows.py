"""Any table a person may type is read, or refused with its line; what it is forecast is of this world."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli.plan_check import rated
from danlu.errors import BadRows
from danlu.plan.stated import rows, score, stack_time
from danlu.plan.stated.rows import NEEDED
from danlu.plan.stated.stack_work import model_flop

CARDS = (
    "A100-80", "A100", "a100 80gb", "H100", "H800", "H20", "B200", "MI300X", "RTX 4090", "910B", "V100", "A10", "P100",
)  # fmt: skip
CUTS = st.sampled_from([(1, 1, 64), (8, 1, 8), (8, 4, 2), (4, 2, 8), (2, 1, 32), (16, 8, 4), (1, 16, 1), (8, 12, 16)])
EMPTY_OR = {
    "cards_per_host": (4, 8), "kv_heads": (8, 64), "ffn": (14336, 28672), "gated": (0, 1, "yes"), "cp": (1,),
    "micro_batch": (1, 2), "interleave": (1, 2), "recompute": ("none", "selective", "full", "yes", "Block"),
    "seq_parallel": (0, 1, "true"), "zero": (0, 1, 2, 3), "compiled": (0, 1), "async_tp": (0, 1),
    "precision": ("bf16", "BF16", "fp16", "FP8", "float8", "mxfp8", "fp32", "tf32", "bfloat16"),
    "software": ("Megatron-LM", "megatron-core", "NeMo", "torchtitan", "DeepSpeed", "MaxText", "my own"),
    "attention": ("flash", "FlashAttention-2", "sdpa", "unfused", "eager"), "overlap_dp": (0, 1),
    "overlap_tp": (0, 1, "backward"),
    "link_gbps_per_card": (100, 200, 400), "note": ("", "a;b:c;d=1"),
}  # fmt: skip
optional = st.fixed_dictionaries({name: st.sampled_from(["", *map(str, each)]) for name, each in EMPTY_OR.items()})
dense = st.just({"experts": "", "top_k": "", "ep": ""})
routed = st.sampled_from([{"experts": "8", "top_k": "2", "ep": ""}, {"experts": "256", "top_k": "8", "ep": "8"}])
stated = st.fixed_dictionaries({
    "card": st.sampled_from(CARDS), "layers": st.sampled_from([12, 31, 80, 126]), "heads": st.sampled_from([64, 128]),
    "vocab": st.sampled_from([32000, 50257, 256000]), "seq": st.sampled_from([4096, 8192, 131072]),
})  # fmt: skip


def table(path, line):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({*NEEDED, *line}))
        writer.writeheader()
        writer.writerow({"source": "invented", "row": "1", "measure": "iter_s", "value": 1.0} | line)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None, max_examples=150, derandomize=True)
@given(stated, optional, st.one_of(dense, routed), CUTS, st.integers(1, 8), st.booleans(), st.data())
def test_an_invented_row_is_forecast_between_its_roofline_and_twenty_times_that(
    folder, said, more, experts, cut, times, gaps, data
):
    assume(said["seq"] <= 8192 or more["attention"] not in ("unfused", "eager"))  # whose scores are all of such a step
    tp, pp, dp = cut
    line = said | more | experts
    line |= {"card_count": tp * pp * dp, "hidden": 128 * said["heads"], "global_batch": 8 * times * pp * dp}
    line |= {"tp": "", "pp": "", "dp": dp} if gaps else {"tp": tp, "pp": pp, "dp": dp}
    dropped = data.draw(st.sets(st.sampled_from(sorted(set(line) - {*NEEDED, "tp", "pp", "dp"}))))
    path = table(folder / "rows.csv", {name: value for name, value in line.items() if name not in dropped})
    (row,) = rows.read(path)
    (scored,) = score.score([row], rated, False, stack_time.published())
    # Where every sum leaves the host, or weights come over the network for every micro-batch, that is all of a step.
    least, far = roofline(row.setup), 20 if tp <= row.setup.cards_per_host and row.setup.zero < 3 else 1000
    assert math.isfinite(scored.predicted) and least < scored.predicted < far * least


def roofline(run):
    """Seconds in which the matmuls and half the attention of a step go through all cards at their full dense rate."""
    wide = run.experts.used * run.experts.ffn if run.experts else run.ffn
    layer = 2 * run.hidden**2 * (1 + run.kv_heads / run.heads) + run.hidden * wide * (3 if run.gated else 2)
    tokens = run.global_batch * run.seq
    flop = tokens * (6 * (run.layers * layer + run.vocab * run.hidden) + 6 * run.layers * run.seq * run.hidden)
    speed = {"fp8": 2.0, "fp32": 0.5}.get(run.precision, 1.0)
    return flop / (run.cards * rated(run.card).flops * speed)


@pytest.mark.parametrize("wrong", [{"precision": "int7"}, {"recompute": "sometimes"}, {"compiled": "perhaps"},
                                   {"layers": "many"}, {"value": "-1"}, {"value": "inf"}, {"layers": "0"},
                                   {"layers": "1e400"}, {"layers": "99999999999999999999"}, {"hidden": "-1"},
                                   {"global_batch": "0"}, {"heads": "8.5"}, {"cards_per_host": "0"},
                                   {"link_gbps_per_card": "-1"}])  # fmt: skip
def test_a_word_nobody_uses_is_refused_with_its_line(folder, wrong):
    whole = {"card": "H100", "card_count": 8, "layers": 32, "hidden": 4096, "heads": 32, "vocab": 32000, "seq": 4096,
             "global_batch": 8}  # fmt: skip
    with provoke("DL-DATA-011") as caught:
        rows.read(table(folder / "wrong.csv", whole | wrong))
    assert caught.error.where.endswith("wrong.csv:2") and next(iter(wrong.values())) in caught.error.why


def test_the_flop_of_a_published_run_are_counted_as_its_source_does():
    """Where a source says what it counts a step at, without what is computed again, our count is that."""
    compared = 0
    for path in sorted((Path(__file__).parents[2] / "bench" / "truth").glob("*.csv")):
        for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            note = line["note"]
            if "flops_iter_card=" in note and ("flops:f72" in note or "flops:6*matmul" in note):
                said = float(note.split("flops_iter_card=")[1].split(";")[0])
                run = rows.stated(line, path.name)
                assert model_flop(run) / run.cards == pytest.approx(said, rel=0.01)
                compared += 1
    assert compared > 20


def test_a_share_of_peak_needs_the_peak_and_no_count_of_flop(folder):
    line = {"card": "A100-80", "card_count": 64, "layers": 32, "hidden": 4096, "heads": 32, "vocab": 32000, "seq": 4096,
            "global_batch": 256, "dp": 64, "measure": "mfu", "value": 0.5}  # fmt: skip
    with provoke("DL-DATA-011") as caught:
        rows.read(table(folder / "mfu.csv", line))
    assert "peak=312e12" in caught.error.why
    (row,) = rows.read(table(folder / "mfu.csv", line | {"note": "peak=312e12"}))
    assert row.real == pytest.approx(model_flop(row.setup) / (64 * 0.5 * 312e12))


PUBLISHED = (Path(__file__).parents[2] / "bench" / "truth" / "simumax_a100.csv").read_text(encoding="utf-8")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(PUBLISHED)), st.lists(st.tuples(st.integers(0, len(PUBLISHED)), st.sampled_from(
    [",", "\n", '"', ";", "=", ":", "-", "0", "nan", "1e999", "mla:q", ""])), max_size=3))  # fmt: skip
def test_a_table_that_is_cut_off_or_damaged_is_read_or_named(tmp_path_factory, stop, wounds):
    text = PUBLISHED
    for at, what in sorted(wounds, reverse=True):
        text = text[:at] + what + text[at + 1 :]
    path = tmp_path_factory.mktemp("cut") / "cut.csv"
    path.write_text(text[:stop], encoding="utf-8")
    try:
        found = rows.read(path)
    except BadRows as error:
        assert str(path) in f"{error.what} {error.where}"
    else:
        assert found and all(row.real > 0 for row in found)


def test_a_line_without_all_cells_is_named(tmp_path):
    whole = PUBLISHED.splitlines()
    (tmp_path / "cut.csv").write_text("\n".join([*whole[:2], whole[2][:90]]), encoding="utf-8")
    with provoke("DL-DATA-011") as caught:
        rows.read(tmp_path / "cut.csv")
    assert caught.error.where.endswith("cut.csv:3") and "cut off" in caught.error.why
