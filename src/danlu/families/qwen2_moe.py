"""Qwen2-MoE (Qwen1.5-MoE-A2.7B and its kin): Qwen2 with experts, and one that every token goes through."""

from __future__ import annotations

from danlu.families import _hf
from danlu.families._keys import Experts

FAMILY = _hf.Family(
    "qwen2_moe", "Qwen2MoeForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 16, "sliding_window": 4096, "max_window_layers": 28,
     "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts": 60,
     "num_experts_per_tok": 4},
    biases="qkv_bias", windows="alternate",
    experts=Experts("num_experts", "moe_intermediate_size", shared="shared_expert_intermediate_size"),
    recipe=("attn", "moe"),
)  # fmt: skip
