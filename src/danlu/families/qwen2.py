"""Qwen2 and Qwen2.5: Llama with biases on q, k and v."""

from __future__ import annotations

from danlu.families import _hf

FAMILY = _hf.Family(
    "qwen2", "Qwen2ForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    biases="qkv", windows="switch",
)  # fmt: skip
