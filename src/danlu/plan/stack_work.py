"""What a step of a training run asks of its cards and links, in FLOP, bytes and messages: no card's speed is in here.

`work` gives one row of AMOUNTS per pipeline stage and micro-batch, and what happens once a step. stack_time.py turns
amounts into seconds; that split makes the fit cheap and keeps arithmetic and hardware apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.plan.setup import Setup
from danlu.plan.stack_memory import attention_params, dense_layers, expert_params, mlp_params, stage_params

AMOUNTS = (
    "matmul_flop", "narrow_flop", "attention_flop", "matmul_bytes", "pass_bytes", "score_bytes", "tp_bytes",
    "tp_messages", "pp_bytes", "cp_bytes", "ep_bytes", "layers",
)  # fmt: skip
LOSS_BYTES = 20  # per logit: 16-bit logits, their fp32 copy, the softmax and the gradient, written and read


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts of one step.

    stages      (stages, AMOUNTS) per micro-batch, forward and backward together
    dp_bytes    a card sends for gradients (and sharded weights) once a step
    gather_bytes  of weights and gradients a card sends for every micro-batch, where weights are sharded
    adam_bytes  read and written by the optimizer
    """

    stages: npt.NDArray[Any]
    dp_bytes: float
    gather_bytes: float
    adam_bytes: float


def work(run: Setup) -> Work:
    """Amounts of a completed run (setup.completed)."""
    stages = np.array([_stage(run, i) for i in range(run.pp)])
    plain, routed = max((stage_params(run, i) for i in range(run.pp)), key=sum)
    ranks = run.dp * run.cp
    held, share = (plain + routed / run.ep) / run.tp, (ranks - 1) / ranks
    gradient = 2.0 if run.precision == "fp16" else 4.0
    weight = run.bytes_each
    if run.zero == 3:
        dp, gather = 0.0, held * share * (2 * weight + gradient)
        if run.pp > 1:  # weights stay whole from one micro-batch to the next: gathered and reduced once a step
            dp, gather = held * share * (weight + gradient), 0.0
    else:
        dp, gather = held * share * (2 * gradient if run.zero == 0 else gradient + weight), 0.0
    adam = held * (34.0 if run.bytes_each == 2 else 28.0) / (ranks if run.zero else 1)
    return Work(stages, dp, gather, adam)


def _stage(run: Setup, stage: int) -> list[float]:
    """Amounts of one micro-batch on one stage, in the order of AMOUNTS."""
    layers, dense = run.stage_layers[stage], dense_layers(run, stage)
    each = (layers - dense) * _layer(run, False)
    if dense:
        each = each + dense * _layer(run, True)
    rows, n, found = run.seq * run.micro_batch / run.cp, run.bytes_each, dict(zip(AMOUNTS, each, strict=True))
    if stage == run.pp - 1:
        wide = run.padded_vocab / run.tp
        found["matmul_flop"] += 6 * rows * run.hidden * wide
        found["matmul_bytes"] += 3 * n * (rows * run.hidden + run.hidden * wide + rows * wide)
        found["pass_bytes"] += rows * wide * LOSS_BYTES
    if run.pp > 1:
        found["pp_bytes"] = (
            2 * rows * run.hidden * n * run.interleave / (run.tp if run.seq_parallel or not run.flash else 1)
        )
    found["layers"] = float(layers)
    return list(found.values())


def _layer(run: Setup, dense: bool) -> npt.NDArray[Any]:
    rows, h, t, n = run.seq * run.micro_batch / run.cp, run.hidden, run.tp, run.bytes_each
    experts = None if dense else run.experts
    used = attention_params(run) + mlp_params(run, dense)
    matmul_bytes = 3 * n * (used / t + rows * (2 * h + (3 * h + 3 * run.ffn) / t))
    passes = rows * n * (36 * h / (t if run.seq_parallel else 1) + (9 * run.ffn if run.gated else 12 * run.ffn) / t)
    if experts is not None:
        routed = expert_params(run) * experts.used / experts.count
        used += routed
        wide = experts.used * (2 * h + 3 * experts.ffn)
        matmul_bytes = 3 * n * ((used - routed + expert_params(run) / run.ep) / t + rows * (5 * h + wide) / t)
        passes = rows * n * (36 * h + 9 * experts.used * experts.ffn + 12 * experts.used * h) / t
    forward, again = 2 * rows * used / t, _again(run)
    width = run.heads * (run.latent.head + run.latent.rope / 2) if run.latent else h
    attention = 4 * rows * run.seq * width / t * (0.5 if run.flash else 1.0)
    attended = (
        1.0
        + (2.5 if run.flash else 2.0)
        + (run.recompute == "full" or (run.recompute == "selective" and not run.flash))
    )
    scores = 0.0 if run.flash else rows * run.heads * run.seq / t * n * _score_passes(run)
    narrow = run.precision == "fp8"
    flop = (3.0 + again) * forward
    # Sums of activations over tensor-parallel cards: two each way; made anew all of them, or by torchtitan's choice the
    # gathering halves.
    sums = (4.0 + 2.0 * again) if t > 1 else 0.0
    cp = 2.0 * h * run.kv_heads / run.heads * n * rows * (run.cp - 1) / t * 3.0
    ep = 4.0 * rows * h * n * experts.used * (run.ep - 1) / run.ep if experts is not None else 0.0
    return np.array([
        0.0 if narrow else flop, flop if narrow else 0.0, attended * attention, matmul_bytes * (1 + again / 3),
        passes * (1 + again / 3), scores, sums * 2 * (t - 1) / t * rows * h * n, sums * (t - 1), 0.0, cp, ep, 1.0,
    ])  # fmt: skip


def _score_passes(run: Setup) -> float:
    """Times that unfused attention reads or writes its scores, counted kernel by kernel.

    Forward: written by the first matmul, read and written by the softmax, read by the second matmul; 7 backward; 2.5
    each way with dropout. In fp32 scale and mask are kernels of their own (4 each way): Megatron's fused softmax exists
    for 16 bits only.
    """
    alone = run.bytes_each == 4
    once = 4.0 + 2.5 * run.dropout + 4.0 * alone
    return once * (2 if run.recompute != "none" else 1) + 7.0 + 2.5 * run.dropout + 4.0 * alone


def _again(run: Setup) -> float:
    """Share of a layer's matmuls that are computed a second time."""
    if run.recompute == "full":
        return 1.0
    return 0.5 if run.recompute == "selective" and run.software == "torchtitan" else 0.0
