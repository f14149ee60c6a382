"""How well a decoder foretells held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from danlu.errors import TooFewTokens
from danlu.model.net import Causal, Decoder


def loss(decoder: Decoder, batches: Iterable[npt.NDArray[np.int64]]) -> float:
    """Mean cross entropy in nats over all predicted tokens.

    batches  int64 (batch, seq + 1) each, as the loader gives them: the last column is only predicted
    Raises TooFewTokens if there is nothing to predict. The sum is kept in fp64, the logits of one batch in fp32.
    """
    total, count = 0.0, 0
    for batch in batches:
        ids_BS = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.int64)).to(decoder.device)
        state = Causal(ids_BS.shape[0], ids_BS.shape[1] - 1)
        with torch.inference_mode():
            logits_TV = decoder(ids_BS[:, :-1].flatten(), state, state.meta(device=decoder.device))
            losses_T = F.cross_entropy(logits_TV.float(), ids_BS[:, 1:].flatten(), reduction="none")
        total += float(losses_T.double().sum())
        count += losses_T.numel()
    if not count:
        raise TooFewTokens("there is nothing to score", why="the held-out part gave no batch of tokens",
                       fix="prepare more text, or score with a shorter sequence")  # fmt: skip
    return total / count


@dataclass(frozen=True, slots=True)
class Apart:
    """Two decoders on the same tokens: perplexity of each, and the mean divergence KL(first || second) in nats."""

    first: float
    second: float
    kl: float


def apart(first: Decoder, second: Decoder, batches: Iterable[npt.NDArray[np.int64]]) -> Apart:
    """How far the second decoder's words are from the first's; batches as for `loss`. Raises TooFewTokens."""
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        ids_BS = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.int64))
        state, wanted_T = Causal(ids_BS.shape[0], ids_BS.shape[1] - 1), ids_BS[:, 1:].flatten()
        with torch.inference_mode():
            meta = state.meta(device=first.device)
            a_TV, b_TV = (F.log_softmax(each(ids_BS[:, :-1].flatten(), state, meta).float(), -1)
                          for each in (first, second))  # fmt: skip
            some = (F.nll_loss(a_TV, wanted_T, reduction="none"), F.nll_loss(b_TV, wanted_T, reduction="none"),
                    F.kl_div(b_TV, a_TV, reduction="none", log_target=True).sum(-1))  # fmt: skip
        sums += torch.stack([each.double().sum() for each in some])
        count += wanted_T.numel()
    if not count:
        raise TooFewTokens("there is nothing to score", why="the text gave no batch of tokens",
                           fix="give more text, or score with a shorter sequence")  # fmt: skip
    a, b, kl = (sums / count).tolist()
    return Apart(math.exp(a), math.exp(b), kl)


def perplexity(decoder: Decoder, batches: Iterable[npt.NDArray[np.int64]]) -> float:
    """exp of `loss`: between how many equally likely tokens the decoder is undecided. Raises TooFewTokens."""
    return math.exp(loss(decoder, batches))
