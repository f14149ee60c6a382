"""Models that danlu plans but does not run: the numbers their config.json means, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli import app, plan_fleet
from danlu.cli.plan_check import rated
from danlu.errors import DanluError
from danlu.plan import presets, stand_ins
from danlu.plan.flop import attention_pairs, seen
from danlu.plan.groups.unit_cost import ATTN, MLP, Way, unit_table
from danlu.plan.proof import verify

LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
# What the public config.json of each says that counts, and its published parameters (as in its name or its card).
PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "gpt2-xl": (1.557e9, {"model_type": "gpt2", "n_embd": 1600, "n_head": 25, "n_layer": 48, "n_positions": 1024,
                          "vocab_size": 50257, "activation_function": "gelu_new"}),
    "gpt-neox-20b": (20.55e9, {"model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576,
                               "num_attention_heads": 64, "num_hidden_layers": 44, "vocab_size": 50432,
                               "tie_word_embeddings": False, "hidden_act": "gelu_fast"}),
    "opt-66b": (65.7e9, {"model_type": "opt", "ffn_dim": 36864, "hidden_size": 9216, "num_attention_heads": 72,
                         "num_hidden_layers": 64, "vocab_size": 50272, "word_embed_proj_dim": 9216}),
    "bloom": (176.2e9, {"model_type": "bloom", "n_embed": 14336, "n_head": 112, "n_layer": 70, "vocab_size": 250880,
                        "num_attention_heads": 112, "hidden_size": None}),
    "falcon-40b": (41.3e9, {"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8,
                            "num_hidden_layers": 60, "vocab_size": 65024, "new_decoder_architecture": True,
                            "multi_query": True}),
    "starcoder": (15.5e9, {"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40,
                           "multi_query": True, "vocab_size": 49152, "n_positions": 8192}),
    "gemma-2-27b": (27.2e9, {"model_type": "gemma2", "head_dim": 128, "hidden_size": 4608, "intermediate_size": 36864,
                             "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16,
                             "vocab_size": 256000, "sliding_window": 4096, "max_position_embeddings": 8192}),
    "gemma-3-4b": (3.88e9, {"model_type": "gemma3", "vision_config": {"hidden_size": 1152}, "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "sliding_window": 1024}}),
    "phi-3-medium": (13.96e9, {"model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920,
                               "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 10,
                               "vocab_size": 32064}),
    "glm-4-9b": (9.4e9, {"model_type": "chatglm", "ffn_hidden_size": 13696, "hidden_size": 4096, "kv_channels": 128,
                         "multi_query_group_num": 2, "num_attention_heads": 32, "num_layers": 40,
                         "padded_vocab_size": 151552, "seq_length": 131072, "vocab_size": 151552}),
    "gpt-oss-20b": (20.9e9, {"model_type": "gpt_oss", "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
                             "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 24,
                             "num_local_experts": 32, "experts_per_token": 4, "vocab_size": 201088,
                             "tie_word_embeddings": False}),
    "deepseek-v2-lite": (15.7e9, {
        "model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, "num_attention_heads": 16,
        "num_hidden_layers": 27, "vocab_size": 102400, "n_routed_experts": 64, "moe_intermediate_size": 1408,
        "n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, **LATENT, "q_lora_rank": None}),
    "deepseek-v2": (235.7e9, {
        "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "num_attention_heads": 128,
        "num_hidden_layers": 60, "vocab_size": 102400, "n_routed_experts": 160, "moe_intermediate_size": 1536,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, **LATENT}),
    "glm-4.5-air": (106.9e9, {
        "model_type": "glm4_moe", "hidden_size": 4096, "intermediate_size": 10944, "num_attention_heads": 96,
        "num_hidden_layers": 46, "vocab_size": 151552, "n_routed_experts": 128, "moe_intermediate_size": 1408,
        "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 8, "head_dim": 128}),
    "ernie-4.5-21b": (21.8e9, {
        "model_type": "ernie4_5_moe", "hidden_size": 2560, "intermediate_size": 12288, "num_attention_heads": 20,
        "num_hidden_layers": 28, "vocab_size": 103424, "moe_num_experts": 64, "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "num_key_value_heads": 4, "moe_k": 6,
        "tie_word_embeddings": True}),
    "llava-1.5-7b": (6.74e9, {"model_type": "llava", "text_config": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
        "num_hidden_layers": 32, "vocab_size": 32064}}),
}  # fmt: skip
LLAMA = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
         "num_hidden_layers": 32, "vocab_size": 32000}  # fmt: skip
MIXTURE = {**LLAMA, "model_type": "qwen2_moe", "num_experts": 8, "moe_intermediate_size": 1408}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_its_published_parameters_and_says_what_is_not_its_own(name):
    size, config = PUBLISHED[name]
    found = stand_ins.read(config)
    assert found.spec.params == pytest.approx(size, rel=0.01)
    assert found.notes and stand_ins.runs(found.spec) == (name == "llava-1.5-7b")


@pytest.mark.parametrize(
    ("name", "more", "window", "whole"),
    [
        ("gemma-2-27b", {}, 4096, 23),
        ("gemma-3-4b", {}, 1024, 5),
        ("gpt-oss-20b", {}, 128, 12),
        ("phi-3-medium", {"sliding_window": 2047}, 2047, 0),
        ("phi-3-medium", {"sliding_window": 2047, "layer_types": ["full_attention"] * 40}, None, 0),
        ("gemma-2-27b", {"layer_types": ["sliding_attention", *45 * ["full_attention"]]}, 4096, 45),
    ],
)  # fmt: skip
def test_windows_of_some_layers_cost_what_they_look_at(name, more, window, whole):
    spec = stand_ins.read({**PUBLISHED[name][1], **more}).spec
    assert (spec.window, spec.unwindowed) == (window, whole)
    seq, far = 16384, whole / spec.layers
    pairs = far * attention_pairs(seq, None) + (1 - far) * attention_pairs(seq, window)
    assert seen(spec, seq) * seq == pytest.approx(pairs, rel=1e-3)
    table, plain = (unit_table(each, rated("H100"), [Way()], seq=seq) for each in (spec, replace(spec, window=None)))
    assert (table.forward_s[0, ATTN] < plain.forward_s[0, ATTN]) == (window is not None)
    assert table.forward_s[0, MLP] == plain.forward_s[0, MLP]


def test_layers_of_latent_attention_and_the_first_dense_ones_have_their_own_parameters():
    spec = stand_ins.read(PUBLISHED["deepseek-v2"][1]).spec
    table = unit_table(presets.dense(spec), rated("H100"), [Way()], seq=4096)
    units = ("embed", "layers.1.attn", "layers.1.moe", "head", "layers.0.dense")
    assert table.params[0] == pytest.approx([spec.unit_params(unit) for unit in units], rel=1e-3)
    assert presets.active_params(spec) == pytest.approx(21.4e9, rel=0.01)
    assert set(spec.units) > set(units) and "layers.0.moe" not in spec.units


def test_a_plan_of_unlike_layers_is_proved(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED["deepseek-v2-lite"][1]))
    words = ["plan", str(path), "8xH100", "--batch", "32", "--certificate", str(tmp_path / "c.json")]
    assert app.main(words) == 0 and "ranks of latent attention" in capsys.readouterr().out
    assert 0 <= verify.checked(json.loads((tmp_path / "c.json").read_text())) < 0.3


def test_what_danlu_runs_is_read_as_it_runs_it():
    assert stand_ins.read(LLAMA).notes == ()
    yarn = stand_ins.read({**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    assert yarn.spec.params == stand_ins.read(LLAMA).spec.params and "does not run llama (" in yarn.notes[0]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"model_type": "deepseek_v32", "index_topk": 2048}, "index_topk"),
        ({**MIXTURE, "model_type": "deepseek_v2", "moe_layer_freq": 2}, "moe_layer_freq"),
        ({"model_type": "llama4_text", "interleave_moe_layer_step": 2}, "interleave_moe_layer_step"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "mamba2", "state_size": 128}, "states instead of attention"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ({**MIXTURE, "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "wonder"}, "wonder"),
    ],
)
def test_what_costs_otherwise_is_refused_with_the_line(more, named, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, **more}, indent=1))
    with provoke("DL-DATA-021") as caught:
        plan_fleet.model_of(str(path))
    assert named in f"{caught.error.what} {caught.error.why}"
    line = int(caught.error.where.rpartition(":")[2])
    assert list(more)[-1] in path.read_text().splitlines()[line - 1]


def test_a_missing_number_is_called_as_the_model_calls_it():
    with provoke("DL-DATA-020") as caught:
        stand_ins.read({"model_type": "gpt2", "n_embd": 1600, "n_head": 25, "n_layer": -4, "vocab_size": 50257})
    assert "n_layer is -4" in str(caught.error) and "n_layer" in caught.error.fix


others = st.dictionaries(st.text(max_size=3), st.none(), max_size=1)
values = st.one_of(st.none(), st.booleans(), st.integers(-4, 300), st.floats(), st.text(max_size=4), others)
keys = [*(each for alike in stand_ins.ALIASES.values() for each in alike), "sliding_window", "num_local_experts",
        "multi_query", "text_config", "shared_expert_intermediate_size", "tie_word_embeddings", "layer_types",
        "sliding_window_pattern", *stand_ins.RANKS, *stand_ins.DENSE, *stand_ins.SHARED]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(stand_ins.GATED | stand_ins.PLAIN | stand_ins.EXPERTS.keys())),
       st.sampled_from(list(PUBLISHED)), st.dictionaries(st.sampled_from(keys), values, max_size=3))  # fmt: skip
def test_any_config_is_a_model_or_an_error_of_the_catalogue(kind, name, more):
    try:
        found = stand_ins.read({**PUBLISHED[name][1], **more, "model_type": kind})
    except DanluError as error:
        assert error.code.startswith("DL-DATA-02")
    else:
        assert found.spec.params > 0


def test_a_stand_in_is_planned_but_not_emitted_for_danlu(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED["gpt2-xl"][1]))
    words = ["plan", str(path), "8xA100-80", "--batch", "64", "--seq", "1024"]
    assert app.main([*words, "--emit", "megatron", "--to", str(tmp_path / "m")]) == 0
    said = capsys.readouterr().out
    assert "planned as a GPT-2" in said and "not in the file" not in said
    script = (tmp_path / "m" / "megatron.sh").read_text()
    assert "--swiglu" not in script and "--ffn-hidden-size 6400" in script and "learned_absolute" in script
    assert app.main([*words, "--emit", "danlu"]) == 2 and "runs no gpt2" in capsys.readouterr().err
