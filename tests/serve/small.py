"""Tiny random decoders, and what they must answer: greedy decoding without any KV memory."""

from __future__ import annotations

from functools import cache

import torch

from danlu.kernels.lower import lower
from danlu.kernels.program import FREQUENCIES
from danlu.kernels.runner import Runner
from danlu.model.net import Causal, Decoder, init
from danlu.model.rope import rope_frequencies
from danlu.nouns import ModelSpec
from danlu.serve.engine import Engine
from danlu.serve.forward import Forward, Modules, Native
from danlu.serve.kv import Paged
from danlu.serve.pages import PAGE, Pages, root
from danlu.serve.schedule import Limits, Schedule

SPEC = ModelSpec("llama", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=64, vocab=97, positions=512)


@cache
def decoder(spec: ModelSpec = SPEC, seed: int = 0) -> Decoder:
    torch.set_num_threads(1)
    made = Decoder(spec)
    init(made, seed)
    with torch.no_grad():  # far apart logits, so that rounding never decides between two tokens
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return made.requires_grad_(False)


def greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        state = Causal(1, len(tokens))
        logits = model(torch.tensor(tokens), state, state.meta(torch.tensor([len(tokens) - 1])))
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


class Numbers:
    """Words of a model without a tokenizer: every token is its number and a space."""

    def push(self, token: int) -> str:
        return f"{token} "

    def rest(self) -> str:
        return ""


def engine(
    model: Decoder, *, pages: int = 64, max_seqs: int = 4, max_waiting: int = 100, budget: int = 64,
    ends: tuple[int, ...] = (), native: bool = False,
) -> Engine:  # fmt: skip
    schedule = Schedule(Pages(pages), Limits(max_seqs, max_waiting, budget), root("tiny", "fp32"))
    kv = Paged(model.spec, pages, dtype=torch.float32)
    if native:
        weights = {**dict(model.named_parameters()), FREQUENCIES: rope_frequencies(model.spec)}
        forward: Forward = Native(Runner(lower(model.spec), weights, kv.cache), model.spec)
    else:
        forward = Modules(model, kv)
    return Engine(forward, schedule, words=Numbers, ends=ends, context=min(pages * PAGE, model.spec.positions))
