"""`danlu plan MODEL FLEET` as an engineer meets it: presets, goals, sites, forecasts, what is said of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from provoke import provoke

from danlu import families
from danlu.cli import app, plan_fleet, plan_told
from danlu.fleet.groups import loads, shorthand
from danlu.nouns import ModelSpec
from danlu.plan import presets
from danlu.plan.groups import advice, choose
from danlu.plan.groups.assemble import Ask
from danlu.plan.groups.outlook import outlook, seconds_of, terms
from danlu.plan.groups.sum_share import sum_share
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.stated import stack_time
from danlu.plan.stated.stack_forecast import NAMES

SMALL = ModelSpec("llama", 12, 2048, 16, 8, 128, 5632, 32000, 4096)
TWO_HALLS = """
fleet: 1
name: two halls
between_sites: {line}
groups:
  - {{card: A100-80, count: 32, site: north, price: 2.0}}
  - {{card: A100-80, count: 24, site: south, price: 1.0}}
"""


@pytest.mark.parametrize("name", presets.TABLE)
def test_a_preset_has_the_parameters_of_its_name(name):
    spec, size = presets.preset(name), re.search(r"(?:(\d+)x)?(\d+)b", name)
    assert size is not None
    if size[1]:  # experts share attention and tables, so that "8x7b" is less than 56
        assert 0.75 < spec.params / (int(size[1]) * int(size[2]) * 1e9) < 0.85
    else:
        assert spec.params / 1e9 == pytest.approx(int(size[2]), rel=0.1)
    assert presets.dense(spec).recipe == ("attn", "mlp")
    if spec.recipe == ("lfa", "mlp"):
        assert presets.dense(spec).params == pytest.approx(spec.params, rel=1e-3)


def test_active_parameters_of_a_mixture_are_the_published_ones():
    assert presets.active_params(presets.preset("mixtral-8x7b")) == pytest.approx(12.9e9, rel=0.01)
    assert presets.active_params(presets.preset("qwen3-235b-a22b")) == pytest.approx(22e9, rel=0.02)


def test_operations_of_a_model_are_those_of_the_published_formula():
    gpt = presets.preset("gpt3-175b")  # 72 L h^2 s (1 + s / 12 h + V / 12 L h), arXiv 2104.04473 with causal attention
    wide, seq = gpt.hidden, 2048
    published = 72 * gpt.layers * wide**2 * (1 + seq / (12 * wide) + gpt.vocab / (12 * gpt.layers * wide))
    assert presets.model_flop(gpt, seq) == pytest.approx(published, rel=0.01)


def test_a_card_without_bf16_is_said_to_have_none():
    bits = {bits: choose.best(SMALL, shorthand("8xV100"), batch=32, seq=2048, stack=Stack(precision=bits)).best.plan
            for bits in ("bf16", "fp16")}  # fmt: skip
    assert "V100-32: no bf16" in plan_told.short_of_bf16(bits["bf16"])[0]
    assert plan_told.short_of_bf16(bits["fp16"]) == []


def test_every_second_of_a_plan_has_a_term():
    chosen = choose.best(SMALL, shorthand("8xA100-80+8xH20"), batch=32, seq=2048)
    shares = terms(chosen.best.plan)
    assert set(shares) == set(NAMES) and sum(shares.values()) == pytest.approx(1.0)
    assert chosen.best.low < chosen.best.seconds < chosen.best.high
    assert chosen.best.seconds > chosen.best.plan.seconds
    alone = shorthand("8xA100-80")
    whole = choose.best(SMALL, alone, batch=32, seq=2048).best
    assert whole.u_peak == pytest.approx(
        presets.model_flop(SMALL, 2048) * 32 * 2048 / (8 * alone.groups[0].flops * seconds_of(whole.plan))
    )
    assert outlook(whole.plan, SMALL, shorthand("16xA100-80")).u_peak == pytest.approx(whole.u_peak / 2)


@pytest.mark.parametrize(("line", "pays"), [(1e6, False), (2.5e10, True)])
def test_a_far_site_pays_only_over_a_fast_line(line, pays):
    chosen = choose.best(SMALL, loads(TWO_HALLS.format(line=line)), batch=512, seq=2048)
    assert chosen.sites is not None and chosen.sites.pays is pays
    said = " ".join(advice.why(chosen, loads(TWO_HALLS.format(line=line))))
    assert ("the far site pays" in said) is pays and "GB/s" in said
    alone = min(seconds for _, seconds in chosen.sites.alone)
    assert chosen.best.seconds <= alone
    assert (chosen.best.seconds < alone) is pays
    together = chosen.sites.together_s + chosen.sites.gradient_s
    assert together < chosen.sites.joined_s < 1.1 * together
    assert any(each.seconds == chosen.sites.joined_s for each in (chosen.best, *chosen.others))
    assert chosen.sites.gradient_s == pytest.approx(chosen.sites.sent_bytes / line) and together > 0
    rows = [(each.plan.name, each.plan.used) for each in (chosen.best, *chosen.others)]
    assert len(rows) == len(set(rows))
    for each in chosen.others:  # of one site alone only as it is there, not with networks as slow as the line
        if sum(1 for count in each.plan.used if count) == 1:
            assert each.seconds >= alone * (1 - 1e-9) and len(each.plan.fleet.groups) == 1


THREE_HALLS = """
fleet: 1
between_sites: 1e6
links:
  - {a: north, b: south, bandwidth: 5e10, oversubscription: 2}
groups:
  - {card: A100-80, count: 16, site: north}
  - {card: A100-80, count: 16, site: south}
  - {card: A100-80, count: 16, site: west}
"""


def test_of_three_sites_the_two_with_a_fast_line_work_together():
    fleet = loads(THREE_HALLS)
    chosen = choose.best(SMALL, fleet, batch=256, seq=2048)
    assert chosen.sites is not None and chosen.sites.members == ("north", "south") and chosen.sites.line == 2.5e10
    assert chosen.best.plan.kind == "sites" or sum(chosen.best.plan.used) == 32
    said = " ".join(advice.why(chosen, fleet))
    assert "north and south together; west would make it slower" in said and "16 of 16 A100-80 stay unused" in said
    assert chosen.best.seconds < 0.7 * min(seconds for _, seconds in chosen.sites.alone)


@pytest.mark.parametrize("end", ["b: east", "b: north", "b: west}\n  - {a: west, b: north"])
def test_a_line_that_joins_no_two_sites_names_itself(end):
    with provoke("DL-CFG-010") as caught:
        loads(THREE_HALLS.replace("b: south", end, 1))
    assert caught.error.where in ("fleet:5", "fleet:6")


@pytest.mark.parametrize(
    ("key", "value", "line"), [("num_attention_heads", 30, "num_"), ("num_hidden_layers", 0, "num_hidden_layers")]
)
def test_a_model_that_cannot_be_meant_names_the_line_of_its_config(key, value, line, tmp_path, capsys):
    config = families.config(presets.preset("llama-3-8b"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, key: value}, indent=1))
    for words in (tmp_path, path):
        assert app.main(["plan", str(words), "8xA100-80"]) == 5
        (number,) = re.findall(rf"{re.escape(str(path))}:(\d+)", capsys.readouterr().err)
        assert line in path.read_text().splitlines()[int(number) - 1]


def test_a_batch_smaller_than_the_pipeline_is_said():
    with provoke("DL-MEM-004") as caught:
        choose.best(presets.preset("llama-3-70b"), shorthand("64xA100-40"), batch=2, seq=4096)
    assert caught.error.fix == "--batch 8 fits"
    chosen = choose.best(presets.preset("llama-3-70b"), shorthand("64xA100-40"), batch=8, seq=4096)
    assert all(len(each.stages) <= each.micro_batches for each in chosen.best.plan.replicas)


def test_the_cheapest_plan_costs_no_more_than_the_fastest():
    fleet = loads(TWO_HALLS.format(line=2.5e10))
    cheap, fast = (choose.best(SMALL, fleet, batch=64, seq=2048, goal=goal).best for goal in ("cost", "time"))
    assert cheap.price is not None and fast.price is not None
    assert cheap.price < fast.price and fast.seconds < cheap.seconds


def test_few_pipelines_on_two_sites_pay_for_their_line():
    """8 of them or fewer, which a host of 8 could hold if they were on one, once had their gradients for nothing."""
    text = ("fleet: 1\nbetween_sites: 1e8\ngroups:\n  - {card: A100-80, count: 16, site: a}\n"
            "  - {card: H20, count: 16, site: b}\n")  # fmt: skip
    chosen = choose.best(presets.preset("llama-3-8b"), loads(text), batch=64, seq=4096)
    assert chosen.sites is not None and not chosen.sites.pays
    assert chosen.best.plan.used == (16,) and chosen.best.plan.fleet.groups[0].site == "a"
    assert chosen.sites.crossing_s > 2 * chosen.best.seconds


def test_gradients_of_two_groups_never_stay_inside_a_host():
    ask = Ask(SMALL, shorthand("16xA100-80+16xH20"), 64, 2048)
    for replicas in (1, 2, 3, 8, 9, 40):
        inside, apart = (ask.ways(1, replicas, every=True, apart=each).step[:, -1] for each in (False, True))
        assert (apart >= inside).all() and (apart > inside).any() == (1 < replicas <= 9)
    assert (ask.ways(1, 4, every=True).step == ask.ways(1, 4, every=True, apart=True).step).all()
    alone, both = ask.part(0).ways(1, 4, every=True), ask.ways(1, 4, every=True)
    assert (alone.step < both.step[both.group == 0]).any()


def test_a_card_whose_name_has_a_space_is_quoted_where_its_price_is_to_be_typed():
    text = "fleet: 1\ngroups: [{card: my card, count: 8, flops: 3e14, mem_bytes: 80GiB, mem_bw: 2e12, link: 3e11}]"
    chosen = choose.best(SMALL, loads(text), batch=8, seq=2048)
    said = plan_told.costs(chosen.best, 0.5)
    assert "--watts 'my card=400'" in said and "--price 'my card=2.5'" in said
    assert chosen.best.plan.terms["fill"] >= 0


def test_a_plan_of_the_least_energy_is_measured_by_the_whole_fleet():
    """What a part of the fleet does with the least energy is no 100 % of what all of it can do, and no plan is told
    twice because it was found in two searches."""
    fleet = shorthand("8xH100+8xA100-80")
    chosen = choose.best(SMALL, fleet, batch=64, seq=2048, goal="energy")
    fast = choose.best(SMALL, fleet, batch=64, seq=2048)
    ratio = sum_share(fast.found).value * fast.best.plan.seconds / chosen.best.plan.seconds
    assert sum_share(chosen.found).value == pytest.approx(ratio, rel=1e-6) and ratio < 0.9
    rows = [(each.plan.name, round(each.seconds, 9)) for each in (chosen.best, *chosen.others)]
    assert len(rows) == len(set(rows))
    assert [each for each in advice.why(chosen, fleet) if "best mix of cards takes +" in each and "energy" in each]


def test_a_plan_takes_the_constants_that_runs_of_ones_own_were_fitted_to(tmp_path, capsys):
    """Cards that are found to multiply at half of what is published take a longer step, by their matmuls alone."""
    usual = stack_time.published()
    half = replace(usual, cards={**usual.cards, "A100-80": 0.5 * usual.cards.get("A100-80", 1.0)})
    (tmp_path / "mine.yaml").write_text(stack_time.dumps(half, "danlu plan fit a.log"))
    model = tmp_path / "config.json"
    model.write_text(json.dumps(families.config(SMALL)))
    words, said = ["plan", str(model), "8xA100-80", "--batch", "32", "--seq", "2048"], []
    for more in ([], ["--constants", str(tmp_path / "mine.yaml")]):
        assert app.main([*words, *more, "--json", str(tmp_path / "p.json")]) == 0
        said.append(json.loads((tmp_path / "p.json").read_text())["step_s"])
    assert 1.2 < said[1] / said[0] < 2
    assert "mine.yaml: A100-80 as fitted there" in capsys.readouterr().out
    with provoke("DL-DATA-011"):
        stack_time.read(model)


def test_a_goal_that_lacks_its_figures_says_which():
    with provoke("DL-CFG-002") as caught:
        choose.best(SMALL, shorthand("8xA100-80"), batch=8, seq=2048, goal="cost")
    assert "--price A100-80" in caught.error.fix


def test_the_command_prints_all_an_engineer_asks_for(capsys, tmp_path):
    words = ["plan", "llama-3-8b", "8xA100-80+16xH20", "--batch", "32", "--json", str(tmp_path / "f.json"),
             "--price", "A100-80=2", "--price", "H20=1", "--certificate", str(tmp_path / "cert.json")]  # fmt: skip
    assert app.main(words) == 0
    said = capsys.readouterr().out
    for word in ("U_sum", "simulated", "U_peak", "bound", "dominate", "runner-up", "kWh", "CO2", "Ember", "price",
                 "memory a card", "x this one", "never run by us"):  # fmt: skip
        assert word in said, word
    figures = json.loads((tmp_path / "f.json").read_text())
    assert 0 <= figures["gap"] < 0.5 and figures["step_low_s"] < figures["step_s"] < figures["step_high_s"]
    assert figures["price_per_step"] > 0
    assert app.main(["plan", "verify", str(tmp_path / "cert.json")]) == 0


def test_a_folder_a_config_and_a_preset_mean_the_same(tmp_path):
    from danlu import families

    spec = presets.preset("qwen3-8b")
    (tmp_path / "config.json").write_text(json.dumps(families.config(spec)))
    assert plan_fleet.model_of(str(tmp_path)) == plan_fleet.model_of(str(tmp_path / "config.json"))
    assert plan_fleet.model_of("Qwen3_8B").spec == spec


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["lama-3-8b", "8xH100"], "DL-DATA-020", "llama-3-8b"),
        (["llama-3-8b", "8xH10"], "DL-CFG-012", "H100"),
        (["llama-3-8b", "0xH100"], "DL-CFG-010", "0xH100"),
        (["llama-3-8b", "8xH100", "--batch", "0"], "DL-CFG-002", "batch"),
        (["llama-3-8b"], "DL-CFG-002", "MODEL FLEET"),
        (["run.yaml", "--batch", "8"], "DL-CFG-002", "MODEL FLEET"),
        (["llama-3-8b", "8xH100", "--train.steps", "8"], "DL-CFG-002", "run.yaml"),
        (["llama-3-8b", "8xH100", "--price", "H20=3"], "DL-CFG-002", "H100"),
        (["llama-3-8b", "8xH100", "--price", "H100=no"], "DL-CFG-002", "CARD=NUMBER"),
        (["llama-3-8b", "8xH100", "--kg-per-kwh", "-1"], "DL-CFG-002", "kg"),
        (["llama-3-8b", "8xH100", "--to", "here"], "DL-CFG-002", "--emit"),
        (["{bad}", "8xH100"], "DL-DATA-020", "bad.json"),
    ],
)
def test_bad_words_are_answered_by_the_catalogue(words, code, named, capsys, tmp_path):
    (tmp_path / "bad.json").write_text("[1]")
    words = [each.format(bad=tmp_path / "bad.json") for each in words]
    assert app.main(["plan", *words]) in (2, 5)
    error = capsys.readouterr().err
    assert code in error and named in error
