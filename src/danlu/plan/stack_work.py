"""What a step of a training run asks of its cards and links, in FLOP, bytes and messages: no card's speed is in here.

The model is a row of units, as in nouns.py: "embed", "attn", "mlp", "head". `unit` gives what one unit asks for one
micro-batch, forward and backward apart; `work` sums units over the stages of a run, and adds what happens once a step.
stack_time.py turns amounts into seconds; that split makes the fit cheap and keeps arithmetic and hardware apart.
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

Floats = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts of one step.

    stages      (stages, AMOUNTS) per micro-batch, forward and backward together
    dp_bytes    a card sends for gradients (and sharded weights) once a step
    gather_bytes  of weights and gradients a card sends for every micro-batch, where weights are sharded
    adam_bytes  read and written by the optimizer
    """

    stages: Floats
    dp_bytes: float
    gather_bytes: float
    adam_bytes: float


def work(run: Setup) -> Work:
    """Amounts of a completed run (setup.completed)."""
    stages = np.array([_stage(run, i) for i in range(run.pp)])
    held = max(plain + routed / run.ep for plain, routed in (stage_params(run, i) for i in range(run.pp))) / run.tp
    return Work(stages, *once(run, held))


def once(run: Setup, held: float) -> tuple[float, float, float]:
    """(dp_bytes, gather_bytes, adam_bytes) of a card that holds `held` parameters after tensor and expert cuts."""
    ranks = run.dp * run.cp
    share = (ranks - 1) / ranks
    gradient = 2.0 if run.precision == "fp16" else 4.0
    weight = run.bytes_each
    if run.zero == 3:
        dp, gather = 0.0, held * share * (2 * weight + gradient)
        if run.pp > 1:  # weights stay whole from one micro-batch to the next: gathered and reduced once a step
            dp, gather = held * share * (weight + gradient), 0.0
    else:
        dp, gather = held * share * (2 * gradient if run.zero == 0 else gradient + weight), 0.0
    return dp, gather, held * (34.0 if run.bytes_each == 2 else 28.0) / (ranks if run.zero else 1)


def _stage(run: Setup, stage: int) -> Floats:
    """Amounts of one micro-batch on one stage, forward and backward, in the order of AMOUNTS."""
    layers, dense = run.stage_layers[stage], dense_layers(run, stage)
    found = layers * unit(run, "attn") + (layers - dense) * unit(run, "mlp")
    if dense:
        found = found + dense * unit(run, "mlp", dense=True)
    if stage == run.pp - 1:
        found = found + unit(run, "head")
    both: Floats = found.sum(axis=0)
    if run.pp > 1:
        both[AMOUNTS.index("pp_bytes")] = 2 * sent(run) * run.interleave
    return both


def sent(run: Setup) -> float:
    """Bytes that a card sends to the next stage for one micro-batch, one way."""
    rows = run.seq * run.micro_batch / run.cp
    return rows * run.hidden * run.bytes_each / (run.tp if run.seq_parallel or not run.flash else 1)


def unit(run: Setup, kind: str, dense: bool = False) -> Floats:
    """(2, AMOUNTS) of one unit on one card for one micro-batch: forward, backward (with what it computes again).

    kind   "embed", "attn", "mlp" or "head"; `dense`: an MLP without experts in a model that has some
    """
    if kind == "attn":
        return _attention(run)
    if kind == "mlp":
        return _mlp(run, None if dense else run)
    return _head(run) if kind == "head" else np.zeros((2, len(AMOUNTS)))


def _rows(run: Setup) -> float:
    return run.seq * run.micro_batch / run.cp


def _layered(run: Setup, again: float, flop: float, matmul: float, passes: float, sums: float, **rest: Any) -> Floats:
    """Forward and backward of half a layer: matmuls and their bytes once, twice, and `again` times.

    sums   of activations over tensor-parallel cards, each way; rest: (forward, backward) of other amounts
    """
    t, ways, found = run.tp, np.array([1.0, 2.0 + again]), {}
    found["narrow_flop" if run.precision == "fp8" else "matmul_flop"] = flop * ways
    found["matmul_bytes"], found["pass_bytes"] = matmul * ways, passes * ways
    each = np.array([sums, sums * (1 + again)]) if t > 1 else np.zeros(2)
    found["tp_bytes"] = each * 2 * (t - 1) / t * _rows(run) * run.hidden * run.bytes_each
    found["tp_messages"] = each * (t - 1)
    found["layers"] = np.array([1 / 6, 1 / 3])
    found |= {name: np.array(value) for name, value in rest.items()}
    return np.stack([found.get(name, np.zeros(2)) for name in AMOUNTS], axis=1)


def _attention(run: Setup) -> Floats:
    rows, h, t, n, again = _rows(run), run.hidden, run.tp, run.bytes_each, _again(run)
    params = attention_params(run)
    width = run.heads * (run.latent.head + run.latent.rope / 2) if run.latent else run.width
    flop = 4 * rows * run.seq * width / t * (0.5 if run.flash else 1.0)
    redone = run.recompute == "full" or (run.recompute == "selective" and not run.flash)
    once, back = (0.0, 0.0) if run.flash else (x * rows * run.heads * run.seq / t * n for x in _score_passes(run))
    around = 2.0 * run.width * run.kv_heads / run.heads * n * rows * (run.cp - 1) / t
    return _layered(
        run, again, 2 * rows * params / t, n * (params / t + rows * (h + 3 * run.width / t)),
        rows * n * 6 * h / (t if run.seq_parallel else 1), 1.0,
        attention_flop=(flop, flop * ((2.5 if run.flash else 2.0) + redone)), score_bytes=(once, back),
        cp_bytes=(around, 2 * around),
    )  # fmt: skip


def _mlp(run: Setup, mixed: Setup | None) -> Floats:
    rows, h, t, n, again = _rows(run), run.hidden, run.tp, run.bytes_each, _again(run)
    plain, experts = mlp_params(run, mixed is None), mixed.experts if mixed is not None else None
    split = t if run.seq_parallel or experts is not None else 1
    if experts is None:
        passes = rows * n * (6 * h / split + (3 * run.ffn if run.gated else 4 * run.ffn) / t)
        matmul = n * (plain / t + rows * (h + 3 * run.ffn / t))
        return _layered(run, again, 2 * rows * plain / t, matmul, passes, 1.0)
    everyone = expert_params(run)
    wide = experts.used * (2 * h + 3 * experts.ffn)
    passes = rows * n * (6 * h + 3 * experts.used * experts.ffn + 4 * experts.used * h) / t
    matmul = n * ((plain + everyone / run.ep) / t + rows * (h + wide) / t)
    moved = 2.0 * rows * h * n * experts.used * (run.ep - 1) / run.ep
    flop = 2 * rows * (plain + everyone * experts.used / experts.count) / t
    return _layered(run, again, flop, matmul, passes, 1.0, ep_bytes=(moved, moved))


def _head(run: Setup) -> Floats:
    rows, n, wide = _rows(run), run.bytes_each, run.padded_vocab / run.tp
    found = np.zeros((2, len(AMOUNTS)))
    ways, at = np.array([1.0, 2.0]), AMOUNTS.index
    found[:, at("matmul_flop")] = 2 * rows * run.hidden * wide * ways
    found[:, at("matmul_bytes")] = n * (rows * run.hidden + run.hidden * wide + rows * wide) * ways
    found[:, at("pass_bytes")] = rows * wide * LOSS_BYTES / 2
    return found


def _score_passes(run: Setup) -> tuple[float, float]:
    """Times that unfused attention reads or writes its scores, forward and backward, counted kernel by kernel.

    Forward: written by the first matmul, read and written by the softmax, read by the second matmul; 7 backward; 2.5
    each way with dropout. In fp32 scale and mask are kernels of their own (4 each way): Megatron's fused softmax exists
    for 16 bits only.
    """
    extra = 2.5 * run.dropout + 4.0 * (run.bytes_each == 4)
    forward = 4.0 + extra
    return forward, 7.0 + extra + (forward if run.recompute != "none" else 0.0)


def _again(run: Setup) -> float:
    """Share of a layer's matmuls that are computed a second time."""
    if run.recompute == "full":
        return 1.0
    return 0.5 if run.recompute == "selective" and run.software == "torchtitan" else 0.0
