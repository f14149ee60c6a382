"""config.json of every family, as transformers writes and reads it, and the ways it can be wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import families, plugins
from danlu.errors import DanluError
from danlu.nouns import ModelSpec, RopeScaling

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": 61, "max_position_embeddings": 64}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
FAMILIES = plugins.names("danlu.families")
PUBLISHED = [family for family in FAMILIES if family != "yuan"]  # those that transformers has
SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe")


@st.composite
def specs(draw) -> ModelSpec:
    """Any model that its family can say."""
    family = draw(st.sampled_from(FAMILIES))
    group, kv = draw(st.integers(1, 3)) if family != "yuan" else 1, draw(st.integers(1, 3))
    switch = family in ("llama", "qwen3", "qwen3_moe")
    bias = draw(st.booleans()) if switch or family == "qwen2_moe" else family == "qwen2"
    experts, shared, norm, recipe = 0, 0, True, ("attn", "mlp")
    if family in SPARSE:
        experts, shared = draw(st.integers(1, 9)), draw(st.integers(1, 9)) if family == "qwen2_moe" else 0
        recipe, norm = ("attn", "moe"), family == "mixtral" or draw(st.booleans())
    scaled = st.builds(RopeScaling, st.floats(1.5, 32), st.just(1.0), st.just(4.0), st.integers(8, 512))
    scaling = draw(st.none() | scaled)
    return ModelSpec(
        family, draw(st.integers(1, 4)), 2 * draw(st.integers(1, 32)), kv * group, kv, 2 * draw(st.integers(1, 8)),
        draw(st.integers(1, 64)), draw(st.integers(1, 500)), draw(st.integers(1, 4096)), draw(st.floats(1e-8, 1e-3)),
        draw(st.floats(100, 1e7)), scaling, draw(st.booleans()), bias, bias and switch, family.startswith("qwen3"),
        None if family in ("llama", "yuan") else draw(st.none() | st.integers(1, 100)), experts,
        draw(st.integers(1, experts)) if experts else 0, ("lfa", "mlp") if family == "yuan" else recipe, norm, shared,
    )  # fmt: skip


@given(specs())
def test_a_spec_survives_its_config(spec):
    assert families.spec(json.loads(json.dumps(families.config(spec)))) == spec


@settings(max_examples=20, deadline=None)
@given(specs().filter(lambda spec: spec.family in PUBLISHED))
def test_transformers_reads_the_same_model(spec):
    from transformers import AutoConfig

    said = families.config(spec)
    if spec.hidden % spec.heads and spec.family in ("llama", "mixtral", "qwen2_moe"):
        return  # transformers asks for this of Llama even where head_dim is given
    read = AutoConfig.for_model(**said)
    assert families.spec(read.to_dict()) == spec
    assert families.spec(json.loads(read.to_json_string(use_diff=True))) == spec


@pytest.mark.parametrize("family", PUBLISHED)
def test_missing_keys_mean_what_transformers_assumes(family):
    from transformers import AutoConfig

    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    sparse = {"model_type": family, **{key: TINY[key] for key in needed}, "hidden_size": 64, "num_attention_heads": 32}
    for config in (sparse, {**sparse, "num_key_value_heads": 4}):
        assert families.spec(config) == families.spec(AutoConfig.for_model(**config).to_dict())


def test_names_are_one_to_one_and_complete():
    for family in FAMILIES:
        spec = families.spec({"model_type": family, **TINY, "num_key_value_heads": 4})
        names = families.names(spec)
        assert list(names) == list(families.shapes(spec)) and len(set(names.values())) == len(names)


def test_rope_is_read_as_old_and_new_files_write_it():
    numbers = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **numbers}}
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}
    specs = [families.spec({"model_type": "llama", **TINY, **rope}) for rope in (old, new)]
    assert specs[0] == specs[1]
    assert specs[0].rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32) and specs[0].rope_theta == 5e5


def test_an_unknown_family_names_the_nearest():
    with provoke("DL-CFG-004") as caught:
        families.spec({"model_type": "qwen4", **TINY})
    assert "qwen3" in caught.error.fix


@pytest.mark.parametrize("wrong", [
    {"hidden_size": None}, {"num_hidden_layers": 0}, {"num_key_value_heads": 3}, {"hidden_size": 30}, {"head_dim": 7},
    {"vocab_size": "61"}, {"model_type": None}, {"rope_scaling": {**LLAMA3, "factor": None}}, {"rms_norm_eps": -1},
    {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, {"rope_scaling": [1]},
    {"model_type": "mixtral", "num_experts_per_tok": 9}, {"model_type": "qwen3_moe", "num_experts": None},
    {"num_hidden_layers": 2**31}, {"vocab_size": 2**64}, {"model_type": "qwen3_moe", "num_experts": 2**31},
])  # fmt: skip
def test_a_config_that_contradicts_itself_is_refused(wrong):
    with provoke("DL-DATA-020"):
        families.spec({"model_type": "llama", **TINY, **wrong})


@pytest.mark.parametrize(("family", "wrong"), [
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), ("llama", {"hidden_act": "gelu"}),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}), ("llama", {"mlp_bias": True}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}), ("qwen3_moe", {"mlp_only_layers": [1]}),
    ("qwen2_moe", {"decoder_sparse_step": 2}), ("qwen2_moe", {"use_sliding_window": True}), ("yuan", {}),
    ("yuan", {"num_key_value_heads": 4, "use_moe": True}), ("llama", {"partial_rotary_factor": 0.5}),
])  # fmt: skip
def test_what_the_decoder_lacks_is_refused_by_name(family, wrong):
    with provoke("DL-DATA-021") as caught:
        families.spec({"model_type": family, **TINY, **wrong})
    assert caught.error.why


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1000) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*LLAMA3, "x"]), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=400)
@given(st.sampled_from(FAMILIES), st.data())
def test_any_junk_in_a_config_gives_a_spec_or_our_error(family, data):
    tiny = {"model_type": family, **TINY, "num_key_value_heads": 4}
    config = {**families.config(families.spec(tiny)), "quantization_config": None}
    if family != "llama":
        config |= {"use_sliding_window": True, "sliding_window": 5}
    keys = [
        *config,
        "rope_theta",
        "rope_scaling",
        "original_max_position_embeddings",
        "mlp_bias",
        "partial_rotary_factor",
    ]
    for key in data.draw(st.sets(st.sampled_from(keys), min_size=1, max_size=2)):
        config[key] = data.draw(junk)
    try:
        spec = families.spec(config)
    except DanluError:
        return
    assert spec.params > 0 and spec.window != 0


def test_a_window_over_no_layer_is_no_window():
    config = {"model_type": "qwen3", **TINY, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    assert families.spec(config).window is None and families.spec({**config, "max_window_layers": 0}).window == 5


def test_a_family_refuses_to_export_what_it_cannot_say():
    with provoke("DL-DATA-021") as caught:
        families.config(ModelSpec("llama", 2, 32, 4, 2, 8, 48, 61, 64, window=4))
    assert "window is 4" in caught.error.why
