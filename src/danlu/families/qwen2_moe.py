"""Qwen2-MoE (Qwen1.5-MoE-A2.7B and its kin): Qwen2 with experts, and one that every token goes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "qwen2_moe", "Qwen2MoeForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 16, "sliding_window": 4096, "max_window_layers": 28,
     "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts": 60,
     "num_experts_per_tok": 4},
    biases="qkv_bias", windows="alternate",
    experts=_hf.Experts("num_experts", "moe_intermediate_size", shared="shared_expert_intermediate_size"),
    recipe=("attn", "moe"),
)  # fmt: skip


def spec(given: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a config.json; see _hf.spec."""
    return _hf.spec(KIND, given)


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec; see _hf.config."""
    return _hf.config(KIND, spec)


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the file."""
    return _hf.names(spec)
