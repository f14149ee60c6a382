"""Mixtral: Mistral with experts in every layer, the weights of those that run scaled to one."""

from __future__ import annotations

from danlu.families import _hf
from danlu.families._keys import Experts

FAMILY = _hf.Family(
    "mixtral", "MixtralForCausalLM",
    {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "num_local_experts": 8,
     "num_experts_per_tok": 2, "rope_theta": 1e6},
    windows="plain", experts=Experts("num_local_experts", "intermediate_size", norm=True), recipe=("attn", "moe"),
    own={
        "moe.router": "block_sparse_moe.gate", "moe.experts.N.gate": "block_sparse_moe.experts.N.w1",
        "moe.experts.N.up": "block_sparse_moe.experts.N.w3", "moe.experts.N.down": "block_sparse_moe.experts.N.w2",
    },
)  # fmt: skip
