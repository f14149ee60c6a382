"""Mixtral: Mistral with experts in every layer, the weights of those that run scaled to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "mixtral", "MixtralForCausalLM",
    {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "num_local_experts": 8,
     "num_experts_per_tok": 2, "rope_theta": 1e6},
    windows="plain", experts=_hf.Experts("num_local_experts", "intermediate_size", norm=True), recipe=("attn", "moe"),
)  # fmt: skip
NAMES = {
    "moe.router": "block_sparse_moe.gate", "moe.experts.N.gate": "block_sparse_moe.experts.N.w1",
    "moe.experts.N.up": "block_sparse_moe.experts.N.w3", "moe.experts.N.down": "block_sparse_moe.experts.N.w2",
}  # fmt: skip


def spec(given: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a config.json; see _hf.spec."""
    return _hf.spec(KIND, given)


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec; see _hf.config."""
    return _hf.config(KIND, spec)


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the file."""
    return _hf.names(spec, NAMES)
