"""Qwen3-MoE (Qwen3-30B-A3B and its kin): Qwen3 with experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "qwen3_moe", "Qwen3MoeForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 4, "sliding_window": 4096,
     "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8},
    biases="switch", windows="uniform", qk_norm=True, experts=_hf.Experts("num_experts", "moe_intermediate_size"),
    recipe=("attn", "moe"),
)  # fmt: skip


def spec(given: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a config.json; see _hf.spec. transformers 5 writes num_experts under Mixtral's name."""
    if "num_local_experts" in given:
        given = {"num_experts": given["num_local_experts"], **given}
    return _hf.spec(KIND, given)


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec; see _hf.config."""
    return _hf.config(KIND, spec)


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the file."""
    return _hf.names(spec)
