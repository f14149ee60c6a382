"""Folders of transformers load into the one decoder and back: equal logits, equal greedy text, for every family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provoke import provoke
from tokenizers import Tokenizer as Hf
from tokenizers import decoders, models, pre_tokenizers, trainers

from danlu import families, tensorfile
from danlu.model.export import export
from danlu.model.load import load, spec_of
from danlu.model.net import Causal, Decoder

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 48, "vocab_size": 97, "max_position_embeddings": 128}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
MODELS = {
    "llama2": ("llama", {}),
    "llama3": ("llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "llama-tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "head_dim": 10}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2-tied": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 12}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": 7}),
    "mixtral": ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 5, "sliding_window": 7}),
    "qwen2-moe": (
        "qwen2_moe",
        {
            "num_key_value_heads": 2,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 28,
        },
    ),
    "qwen3-moe": (
        "qwen3_moe",
        {
            "num_key_value_heads": 2,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "head_dim": 12,
            "norm_topk_prob": True,
        },
    ),
}


def reference(family: str, overrides: dict, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A random model of transformers, with every vector away from its start so that nothing can be left out unseen."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **{**TINY, **overrides}), attn_implementation="eager"
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.15)
    return model.to(dtype).eval()


def logits(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    state = Causal(*ids.shape)
    with torch.no_grad():
        return decoder(ids.flatten(), state, state.meta()).view(*ids.shape, -1)


def same(decoder: Decoder, model: torch.nn.Module, atol: float = 1e-5) -> None:
    ids = torch.randint(0, decoder.spec.vocab, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
    torch.testing.assert_close(logits(decoder, ids), expected, rtol=0, atol=atol)


def greedy(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits(decoder, torch.tensor([ids]))[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("case", MODELS)
def test_a_folder_of_transformers_gives_equal_logits_and_comes_back_equal(case, tmp_path):
    model = reference(*MODELS[case])
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB" if case == "llama3" else "5GB")
    assert (tmp_path / "in" / "model.safetensors.index.json").exists() == (case == "llama3")
    decoder = load(tmp_path / "in")
    same(decoder, model)
    sharded = 30_000 if case == "qwen3" else 2**30
    export(decoder.state_dict(), decoder.spec, tmp_path / "out", shard_bytes=sharded)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    same(decoder, again.eval())
    same(load(tmp_path / "out"), model)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    told = again.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert greedy(decoder, prompt, 12) == told[0].tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["llama", "qwen2", "qwen3", "mistral"]), st.data())
def test_any_small_model_gives_equal_logits(tmp_path, family, data):
    kv, group, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), 2 * data.draw(st.integers(1, 6))
    overrides = {
        "num_key_value_heads": kv, "num_attention_heads": kv * group, "head_dim": size, "num_hidden_layers": 2,
        "hidden_size": kv * group * data.draw(st.integers(1, 8)), "intermediate_size": data.draw(st.integers(1, 40)),
        "vocab_size": data.draw(st.integers(2, 99)), "tie_word_embeddings": data.draw(st.booleans()),
        "rms_norm_eps": data.draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "rope_parameters": {"rope_type": "default", "rope_theta": data.draw(st.sampled_from([100.0, 1e4, 1e6]))},
    }  # fmt: skip
    if family in ("llama", "qwen3"):
        overrides["attention_bias"] = data.draw(st.booleans())
    if family == "mistral":
        overrides["sliding_window"] = data.draw(st.none() | st.integers(1, 50))
    model = reference(family, overrides)
    shutil.rmtree(tmp_path / "in", ignore_errors=True)
    model.save_pretrained(tmp_path / "in")
    same(load(tmp_path / "in"), model, atol=5e-5)


def test_parts_of_a_folder_load_alone(tmp_path):
    model = reference("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 2})
    model.save_pretrained(tmp_path)
    front, back = load(tmp_path, 0, 4), load(tmp_path, 4)
    assert "head.weight" in dict(back.named_parameters()) and "embed.weight" not in dict(back.named_parameters())
    ids, state = torch.arange(20), Causal(1, 20)
    with torch.no_grad():
        found = back(front(ids, state, state.meta()), state, state.meta())
        torch.testing.assert_close(found, model(ids[None]).logits[0], rtol=0, atol=1e-5)


def test_bf16_files_load_in_either_precision(tmp_path):
    reference("llama", {}, torch.bfloat16).save_pretrained(tmp_path)
    same(load(tmp_path), transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    half = load(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    same_top = logits(half, torch.arange(30)[None]).float() - logits(load(tmp_path), torch.arange(30)[None])
    assert same_top.abs().max() < 0.5
    export(half.state_dict(), half.spec, tmp_path / "out")
    assert {entry.dtype for entry in tensorfile.read_folder(tmp_path / "out").values()} == {"BF16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def tokenizer(folder: Path) -> None:
    bpe = Hf(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["a b"], trainers.BpeTrainer(vocab_size=257, special_tokens=["<|end|>"],
                                                         initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    bpe.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def test_an_exported_folder_has_the_tokenizer_and_knows_where_answers_end(tmp_path):
    tokenizer(tmp_path)
    spec = families.spec({"model_type": "llama", **TINY, "vocab_size": 257})
    tensors = {name: torch.zeros(shape) for name, shape in families.shapes(spec).items()}
    export(tensors, spec, tmp_path / "out", tmp_path / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.decode(theirs("a b é").input_ids) == "a b é" and theirs.eos_token_id == 0
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 0
    export(tensors, spec, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists() and spec_of(tmp_path / "out") == spec
    assert not list(tmp_path.glob(".*"))


def test_export_never_replaces_what_is_no_model(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "home" / "config.json").write_text("{}")
    spec = families.spec({"model_type": "llama", **TINY})
    tensors = {name: torch.zeros(shape) for name, shape in families.shapes(spec).items()}
    with provoke("DL-CFG-002"):
        export(tensors, spec, tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").exists()
    del tensors["layers.1.mlp.up.weight"]
    with provoke("DL-DATA-023") as caught:
        export(tensors, spec, tmp_path / "new")
    assert "layers.1.mlp.up.weight" in caught.error.what and not (tmp_path / "new").exists()


@pytest.mark.parametrize(("change", "says"), [
    ({"num_hidden_layers": 4}, "missing"), ({"num_hidden_layers": 2}, "belong to nothing"),
    ({"intermediate_size": 40}, "config.json asks for"), ({"attention_bias": True}, "missing"),
])  # fmt: skip
def test_weights_of_another_model_are_refused(tmp_path, change, says):
    reference("llama", {}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with provoke("DL-DATA-023") as caught:
        load(tmp_path)
    assert says in str(caught.error)


def test_a_truncated_weight_file_is_refused(tmp_path):
    reference("llama", {}).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with provoke("DL-DATA-022") as caught:
        load(tmp_path)
    assert "truncated" in str(caught.error) and str(path) in str(caught.error)


@pytest.mark.parametrize("text", [None, "{", "[]", "\xff"])
def test_an_unreadable_config_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with provoke("DL-DATA-020") as caught:
        spec_of(tmp_path)
    assert "config.json" in str(caught.error)
