"""Qwen3: Llama with a norm on every head of q and k, and a head size of its own."""

from __future__ import annotations

from danlu.families import _hf

FAMILY = _hf.Family(
    "qwen3", "Qwen3ForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096,
     "max_window_layers": 28},
    biases="switch", windows="switch", qk_norm=True,
)  # fmt: skip
