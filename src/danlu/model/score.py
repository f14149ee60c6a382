"""How well a decoder foretells held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def perplexity(decoder: Decoder, batches: Iterable[npt.NDArray[np.int64]]) -> float:
    """exp of `loss`: between how many equally likely tokens the decoder is undecided. Raises TooFewTokens."""
    return math.exp(loss(decoder, batches))
