"""Mistral: Llama with a sliding window."""

from __future__ import annotations

from danlu.families import _hf

FAMILY = _hf.Family(
    "mistral", "MistralForCausalLM",
    {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
    windows="plain",
)  # fmt: skip
