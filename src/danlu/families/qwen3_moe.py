"""Qwen3-MoE (Qwen3-30B-A3B and its kin): Qwen3 with experts in every layer."""

from __future__ import annotations

from danlu.families import _hf
from danlu.families._keys import Experts

FAMILY = _hf.Family(
    "qwen3_moe", "Qwen3MoeForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 4, "sliding_window": 4096,
     "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8},
    biases="switch", windows="uniform", qk_norm=True,
    experts=Experts("num_experts", "moe_intermediate_size", also="num_local_experts"),
    recipe=("attn", "moe"),
)  # fmt: skip
