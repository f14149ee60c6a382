"""Logs of other people's runs: what is read from them, and what calibration makes of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import app
from danlu.cli.plan_check import rated
from danlu.errors import BadRows
from danlu.plan.stated import rows, run_logs, stack_memory, stack_time
from danlu.plan.stated.setup import Setup, completed
from danlu.plan.stated.stack_work import work

ARGUMENTS = {
    "world_size": 64, "num_layers": 96, "hidden_size": 12288, "num_attention_heads": 96, "ffn_hidden_size": 49152,
    "padded_vocab_size": 51200, "seq_length": 2048, "global_batch_size": 64, "micro_batch_size": 1,
    "tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 8, "data_parallel_size": 1, "swiglu": False,
    "num_layers_per_virtual_pipeline_stage": 4, "recompute_granularity": "selective", "sequence_parallel": True,
    "use_distributed_optimizer": False, "fp16": True, "bf16": False, "num_experts": None, "use_flash_attn": False,
    "group_query_attention": False, "num_query_groups": 1, "overlap_grad_reduce": False, "context_parallel_size": 1,
}  # fmt: skip
GPT = Setup("A100-80", 64, 8, 25e9, 96, 12288, 96, 96, 49152, False, 51200, 2048, 64, 1, 8, 8, interleave=3,
            recompute="selective", seq_parallel=True, flash=False, dropout=True, precision="fp16")  # fmt: skip


def megatron(seconds: float, steps: int = 10) -> str:
    head = ["------------------------ arguments ------------------------"]
    head += [f"  {name} {'.' * (48 - len(name))} {value}" for name, value in ARGUMENTS.items()]
    lines = [f" [2026-01-01 00:00:{i:02}] iteration {i:8}/ 500000 | consumed samples: {64 * i:12} | elapsed time per "
             f"iteration (ms): {(seconds * (9 if i == 1 else 1)) * 1e3:.1f} | learning rate: 1.0E-04 | global batch "
             "size:    64 | lm loss: 1.1E+01 | loss scale: 1.0 |" for i in range(1, steps + 1)]  # fmt: skip
    memory = (
        "[Rank 0] (after 1 iterations) memory (MB) | allocated: 20000.0 | max allocated: 52000.5 | reserved: 60000.0"
    )
    return "\n".join([*head, "-------------------- end of arguments ---------------------", *lines, memory])


def titan(tps: float) -> str:
    lines = [f"[rank0]:2026-01-01 00:00:00,000 - root - INFO - \x1b[31mstep: {i:2}  \x1b[32mloss: 12.{i}  \x1b[33m"
             f"memory: 40.5{i}GiB(51.20%)  \x1b[34mtps: {tps:,.0f}  \x1b[36mtflops: 300.10  \x1b[35mmfu: 30.30%\x1b[39m"
             for i in range(1, 9)]  # fmt: skip
    return "\n".join(["[rank0]: Starting job: Llama 3 8B training", *lines])


def test_a_megatron_log_states_its_own_run():
    found = run_logs.read(megatron(13.75), "log")
    assert found.seconds == pytest.approx(13.75) and found.steps == 10
    assert found.stated is not None
    assert (found.stated["tp"], found.stated["interleave"], found.stated["precision"]) == ("8", "3", "fp16")
    assert found.stated["attention"] == "unfused" and "experts" not in found.stated
    assert (found.peak, found.reading) == (52000.5 * 2**20, "allocated")


def test_a_megatron_log_states_latent_attention_and_dense_layers_before_experts():
    """Of DeepSeek-V3's arguments every parameter is counted that its report counts."""
    said = {
        "world_size": 1, "num_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "kv_channels": 128,
        "ffn_hidden_size": 18432, "padded_vocab_size": 129280, "seq_length": 4096, "global_batch_size": 2048,
        "swiglu": True, "num_experts": 256, "moe_ffn_hidden_size": 2048, "moe_router_topk": 8, "bf16": True,
        "moe_shared_expert_intermediate_size": 2048, "moe_layer_freq": [0] * 3 + [1] * 58, "q_lora_rank": 1536,
        "multi_latent_attention": True, "kv_lora_rank": 512, "qk_head_dim": 128, "qk_pos_emb_head_dim": 64,
        "v_head_dim": 128, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "data_parallel_size": 1,
    }  # fmt: skip
    columns = run_logs.megatron_columns({name: str(value) for name, value in said.items()})
    setup = rows.stated({"card": "H800", "cards_per_host": "8", **columns}, "log")
    assert sum(stack_memory.stage_params(setup, 0)) == pytest.approx(671.0e9, rel=2e-3)
    small = run_logs.megatron_columns(
        {"num_layers": "2", "num_experts": "8", "moe_layer_freq": "1", "kv_channels": "64"}
    )
    assert small["note"] == "head_dim=64"


def test_torchtitan_and_danlu_logs_give_seconds():
    found = run_logs.read(titan(5762), "log")
    assert found.tokens_s == 5762 and found.peak == pytest.approx(40.58 * 2**30)
    ours = "\n".join(json.dumps({"step": i, "loss": 1.0, "seconds": 0.5, "t": i}) for i in range(9))
    assert run_logs.read(ours, "steps.jsonl").seconds == 0.5


number = st.text("0123456789.,naif-", max_size=6)
odd = st.sampled_from(["0", "-1", "NaN", "Infinity", "1e999", "[]", "2"])
texts = st.lists(st.one_of(
    st.text(max_size=20), st.builds("elapsed time per iteration (ms): {}".format, number),
    st.builds("step: 3  memory: {}GiB(1%)  tps: {}".format, number, number),
    st.builds('{{"seconds": {}}}'.format, odd),
), max_size=8).map("\n".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_log_has_steps_of_this_world_or_is_refused(text):
    try:
        found = run_logs.read(text, "log")
    except BadRows:
        return
    assert found.steps > 0 and all(0 < each < math.inf for each in (found.seconds, found.tokens_s) if each is not None)


def test_the_first_step_of_few_is_not_a_steps_time():
    assert run_logs.read(megatron(13.75, steps=2), "log").seconds == pytest.approx(13.75)


@pytest.mark.parametrize("text", ["", "hello\n", '{"step": 1}\n', "[1, 2]"])
def test_a_text_without_steps_is_refused(text):
    with provoke("DL-DATA-011"):
        run_logs.read(text, "log")


def test_a_users_runs_calibrate_a_card(tmp_path: Path):
    """A card that is slower than published at both of its constants is found from two logs."""
    base = stack_time.published()
    true = replace(base, cards={**base.cards, "A100-80": 0.85}, others={"A100-80": 1.2})
    real = stack_time.seconds(completed(GPT), work(completed(GPT)), rated("A100-80"), true)
    (tmp_path / "gpt.log").write_text(megatron(real), encoding="utf-8")
    llama = Setup("A100-80", 8, 8, None, 32, 4096, 32, 8, 14336, True, 128256, 8192, 16, 2, 1, 1, 8, zero=3,
                  recompute="selective", software="torchtitan", overlap_dp=True)  # fmt: skip
    other = stack_time.seconds(llama, work(llama), rated("A100-80"), true)
    (tmp_path / "titan.log").write_text(titan(16 * 8192 / other / 8), encoding="utf-8")
    columns = ("row,card,card_count,cards_per_host,layers,hidden,heads,kv_heads,ffn,gated,vocab,seq,global_batch,"
               "micro_batch,tp,pp,dp,zero,recompute,software,overlap_dp")  # fmt: skip
    (tmp_path / "runs.csv").write_text(columns + "\ntitan,A100-80,8,8,32,4096,32,8,14336,1,128256,8192,16,2,1,1,8,3,"
                                       "selective,torchtitan,1\n", encoding="utf-8")  # fmt: skip
    out, report = tmp_path / "mine.yaml", tmp_path / "report.json"
    logs = [str(tmp_path / name) for name in ("gpt.log", "titan.log")]
    words = ["--runs", str(tmp_path / "runs.csv"), "--card", "A100-80", "--link-gbps", "200"]
    assert app.main(["plan", "fit", *logs, *words, "--out", str(out), "--json", str(report)]) == 0
    for each in json.loads(report.read_text(encoding="utf-8"))["runs"]:
        assert each["before_s"] < 0.95 * each["measured_s"]
        assert each["after_s"] == pytest.approx(each["measured_s"], rel=0.03)
    peaks = {each["run"]: each for each in json.loads(report.read_text(encoding="utf-8"))["peaks"]}
    assert peaks["titan"]["counted"] == "reserved" and peaks["gpt"]["measured_bytes"] == 52000.5 * 2**20
    assert 0.8 < peaks["gpt"]["predicted_bytes"] / peaks["gpt"]["measured_bytes"] < 1.25
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["cards"]["A100-80"] < 0.95 * base.cards["A100-80"]
    table = str(Path(__file__).parents[2] / "bench" / "truth" / "korthikanti22.csv")
    assert app.main(["plan", "check", table, "--constants", str(out)]) == 0


def test_a_log_that_nothing_states_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = tmp_path / "titan.log"
    log.write_text(titan(100), encoding="utf-8")
    assert app.main(["plan", "fit", str(log)]) == 5
    assert "nothing says what titan ran" in capsys.readouterr().err
    (tmp_path / "gpt.log").write_text(megatron(10), encoding="utf-8")
    assert app.main(["plan", "fit", str(tmp_path / "gpt.log")]) == 5
    assert "not stated: card" in capsys.readouterr().err
    assert app.main(["plan", "fit", str(tmp_path / "none.log")]) == 5
