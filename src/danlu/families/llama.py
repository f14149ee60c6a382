"""Llama 1, 2, 3 and 3.x, and everything that calls itself llama (Yi, TinyLlama, SmolLM, DeepSeek dense, ...)."""

from __future__ import annotations

from danlu.families import _hf

FAMILY = _hf.Family(
    "llama", "LlamaForCausalLM",
    {"max_position_embeddings": 2048},
    biases="switch",
)  # fmt: skip
