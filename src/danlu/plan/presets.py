"""Models by name: the published numbers of well-known ones, for planning before anything is downloaded.

Facts of the public config.json of each model, typed from memory and held by a test to the parameters in their names.
GPT-3 and MT-NLG are GPT-2's in all but size. Yuan 2.0's MLP width follows from the published number of parameters.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from danlu.errors import BadModel
from danlu.nouns import ModelSpec
from danlu.plan.flop import score_width, seen
from danlu.plan.stand_ins import Read, read

_LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
           "v_head_dim": 128}  # fmt: skip
# name: family, layers, hidden, heads, key-value heads, MLP width, vocabulary, positions, and what else config.json says
TABLE: Mapping[str, tuple[str, int, int, int, int, int, int, int, Mapping[str, Any]]] = {
    "llama-2-7b": ("llama", 32, 4096, 32, 32, 11008, 32000, 4096, {}),
    "llama-2-13b": ("llama", 40, 5120, 40, 40, 13824, 32000, 4096, {}),
    "llama-2-70b": ("llama", 80, 8192, 64, 8, 28672, 32000, 4096, {}),
    "llama-3-8b": ("llama", 32, 4096, 32, 8, 14336, 128256, 8192, {"rope_theta": 500000.0}),
    "llama-3-70b": ("llama", 80, 8192, 64, 8, 28672, 128256, 8192, {"rope_theta": 500000.0}),
    "llama-3-405b": ("llama", 126, 16384, 128, 8, 53248, 128256, 131072, {"rope_theta": 500000.0}),
    "mistral-7b": ("mistral", 32, 4096, 32, 8, 14336, 32000, 32768, {"rope_theta": 1000000.0, "sliding_window": None}),
    "mixtral-8x7b": ("mixtral", 32, 4096, 32, 8, 14336, 32000, 32768,
                     {"num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1000000.0}),
    "mixtral-8x22b": ("mixtral", 56, 6144, 48, 8, 16384, 32768, 65536,
                      {"num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1000000.0}),
    "qwen2.5-7b": ("qwen2", 28, 3584, 28, 4, 18944, 152064, 131072, {"rope_theta": 1000000.0}),
    "qwen2.5-14b": ("qwen2", 48, 5120, 40, 8, 13824, 152064, 131072, {"rope_theta": 1000000.0}),
    "qwen2.5-32b": ("qwen2", 64, 5120, 40, 8, 27648, 152064, 131072, {"rope_theta": 1000000.0}),
    "qwen2.5-72b": ("qwen2", 80, 8192, 64, 8, 29568, 152064, 131072, {"rope_theta": 1000000.0}),
    "qwen3-8b": ("qwen3", 36, 4096, 32, 8, 12288, 151936, 40960, {"head_dim": 128, "rope_theta": 1000000.0}),
    "qwen3-32b": ("qwen3", 64, 5120, 64, 8, 25600, 151936, 40960, {"head_dim": 128, "rope_theta": 1000000.0}),
    "qwen3-30b-a3b": ("qwen3_moe", 48, 2048, 32, 4, 6144, 151936, 40960,
                      {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                       "rope_theta": 1000000.0}),
    "qwen3-235b-a22b": ("qwen3_moe", 94, 4096, 64, 4, 12288, 151936, 40960,
                        {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
                         "moe_intermediate_size": 1536, "rope_theta": 1000000.0}),
    "yuan2-2b": ("yuan", 24, 2048, 32, 32, 8192, 135040, 8192, {"tie_word_embeddings": True}),
    "yuan2-51b": ("yuan", 42, 8192, 64, 64, 32768, 135040, 4096, {"tie_word_embeddings": True}),
    "yuan2-102b": ("yuan", 84, 8192, 64, 64, 32768, 135040, 4096, {"tie_word_embeddings": True}),
    "gpt3-175b": ("gpt2", 96, 12288, 96, 96, 49152, 51200, 2048, {}),
    "mt-nlg-530b": ("gpt2", 105, 20480, 128, 128, 81920, 51200, 2048, {}),
    "gemma-2-27b": ("gemma2", 46, 4608, 32, 16, 36864, 256000, 8192, {"head_dim": 128}),
    "gpt-oss-120b": ("gpt_oss", 36, 2880, 64, 8, 2880, 201088, 131072,
                     {"num_local_experts": 128, "num_experts_per_tok": 4}),
    "deepseek-v2-lite-16b": ("deepseek_v2", 27, 2048, 16, 16, 10944, 102400, 163840,
                             {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
                              "n_shared_experts": 2, "first_k_dense_replace": 1, **_LATENT, "q_lora_rank": None}),
    "deepseek-v3-671b": ("deepseek_v3", 61, 7168, 128, 128, 18432, 129280, 163840,
                         {"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
                          "n_shared_experts": 1, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1,
                          "norm_topk_prob": True, **_LATENT}),
    "kimi-k2-1000b": ("kimi_k2", 61, 7168, 64, 64, 18432, 163840, 131072,
                      {"n_routed_experts": 384, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
                       "n_shared_experts": 1, "first_k_dense_replace": 1, "norm_topk_prob": True,
                       "rope_theta": 50000.0, **_LATENT}),
}  # fmt: skip


def preset(name: str) -> ModelSpec:
    """The model of that name; capitals and underscores do not matter. Raises BadModel with the nearest names."""
    return known(name).spec


def known(name: str) -> Read:
    """The same, and what of it is not its own: some are planned and not run."""
    plain = name.strip().casefold().replace("_", "-")
    if plain not in TABLE:
        near = difflib.get_close_matches(plain, TABLE, 3, 0.4)
        raise BadModel(f"{name!r} is no folder, no config.json and no preset",
                       why=f"nearest presets: {', '.join(near) or 'none'}; all: {', '.join(TABLE)}",
                       fix=f"danlu plan {near[0] if near else 'llama-3-8b'} FLEET, or a model folder")  # fmt: skip
    family, layers, hidden, heads, kv_heads, ffn, vocab, positions, more = TABLE[plain]
    return read({
        "model_type": family, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab,
        "max_position_embeddings": positions, "hidden_act": "silu",
        **({"rms_norm_eps": 1e-5} if family in ("llama", "mistral") else {}), **more,
    })  # fmt: skip


def dense(spec: ModelSpec) -> ModelSpec:
    """The model as the cost tables know it: attention and MLP in every layer, experts by their count.

    What a local filter adds to attention stands as width of the MLP: as many parameters and as many products.
    """
    kinds = {"lfa": "attn", "moe": "mlp"}
    recipe = tuple(kinds.get(kind, kind) for kind in spec.recipe)
    if recipe == spec.recipe:
        return spec
    plain = ModelSpec(**{**{name: getattr(spec, name) for name in ModelSpec.__slots__}, "recipe": recipe})
    if "lfa" not in spec.recipe:
        return plain
    extra = spec.unit_params("layers.0.lfa") - plain.unit_params("layers.0.attn")
    wider = plain.ffn + round(extra / (3 * plain.hidden))
    return ModelSpec(**{**{name: getattr(plain, name) for name in ModelSpec.__slots__}, "ffn": wider})


def active_params(spec: ModelSpec) -> float:
    """Parameters that one token meets: of experts only those that run."""
    mixed = (spec.layers - spec.dense_layers) if spec.experts else 0
    return spec.params - 3.0 * spec.hidden * spec.ffn * (spec.experts - spec.experts_used) * mixed


def model_flop(spec: ModelSpec, seq: int) -> float:
    """FLOP that training on one token of a sequence of `seq` needs, whatever a plan computes twice.

    6 a parameter that the token meets, and 6 a number of attention's width and position it looks back on (scores and
    values, forward and twice back): half of the sequence under a causal mask, less under windows.
    """
    return 6.0 * active_params(spec) + 12.0 * spec.layers * score_width(spec) * seen(spec, seq)
