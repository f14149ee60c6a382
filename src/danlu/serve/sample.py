"""From logits to tokens. Axes: R rows (one per sequence), V vocabulary."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer's tokens are drawn.

    temperature   0 (below 1e-5) takes the likeliest token
    top_p         smallest set of likeliest tokens whose probabilities sum to it; 1 for all
    top_k         that many likeliest tokens; 0 for all
    seed          the same seed gives the same answer, whatever else runs; None draws one
    logprobs      how many alternatives to report with every token; None reports no probabilities
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """True when the likeliest token is taken. A float32 division by less than 1e-5 draws nothing else anyway."""
        return self.temperature < 1e-5

    def generator(self) -> torch.Generator:
        """The source of randomness of one answer, its own so that neighbours in a batch do not matter."""
        seed = secrets.randbits(63) if self.seed is None else self.seed
        return torch.Generator().manual_seed(seed % 2**63)


@dataclass(frozen=True, slots=True)
class Pick:
    """A drawn token; natural-log probabilities of the model (before temperature) where asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits_RV: Tensor, how: Sequence[tuple[Sampling, torch.Generator]]) -> list[Pick | None]:
    """One token per row; None for a row whose logits are not finite, from which nothing can be drawn."""
    if not len(how):
        return []
    best_R, token_R = logits_RV.max(-1)  # NaN wins every maximum
    finite, greedy = [math.isfinite(best) for best in best_R.tolist()], token_R.tolist()
    picks: list[Pick | None] = []
    for row, (sampling, generator) in enumerate(how):
        if not finite[row]:
            picks.append(None)
        elif sampling.greedy and sampling.logprobs is None:
            picks.append(Pick(greedy[row]))
        else:
            picks.append(_one(logits_RV[row].float().cpu(), greedy[row], sampling, generator))
    return picks


def _one(logits_V: Tensor, greedy: int, sampling: Sampling, generator: torch.Generator) -> Pick:
    token = greedy if sampling.greedy else _draw(logits_V, sampling, generator)
    if sampling.logprobs is None:
        return Pick(token)
    logprobs_V = logits_V.log_softmax(-1)
    values, tokens = logprobs_V.topk(min(sampling.logprobs, len(logprobs_V)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Pick(token, float(logprobs_V[token]), top)


def _draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    tokens = None
    if 0 < sampling.top_k < len(logits_V):
        logits_V, tokens = logits_V.topk(sampling.top_k)
    # From the maximum down, because a large logit divided by a small temperature would be infinite.
    probs = ((logits_V - logits_V.max()) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probs, order = probs.sort(descending=True)
        probs[probs.cumsum(-1) - probs >= sampling.top_p] = 0  # the token that crosses the line is kept
        tokens = order if tokens is None else tokens[order]
    drawn = int(torch.multinomial(probs, 1, generator=generator))
    return drawn if tokens is None else int(tokens[drawn])
