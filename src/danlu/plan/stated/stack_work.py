"""What a step of a training run asks of its cards and links, in FLOP, bytes and messages: no card's speed is in here.

The model is a row of units, as in nouns.py: "embed", "attn", "mlp", "head". `unit` gives what one unit asks for one
micro-batch, forward and backward apart; `work` sums units over the stages of a run, and adds what happens once a step.
stack_time.py turns amounts into seconds; that split makes the fit cheap and keeps arithmetic and hardware apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.plan.stated.setup import Setup
from danlu.plan.stated.stack_memory import attention_params, dense_layers, expert_params, mlp_params, stage_params

AMOUNTS = (
    "matmul_flop", "narrow_flop", "attention_flop", "matmul_bytes", "pass_bytes", "eager_bytes", "score_bytes",
    "tp_bytes", "tp_beside", "tp_messages", "pp_bytes", "cp_bytes", "ep_bytes", "kernels",
)  # fmt: skip

Floats = npt.NDArray[Any]
Passes = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts of one step.

    stages      (stages, AMOUNTS) of the layers per micro-batch, forward and backward together
    head        (AMOUNTS,) of the last stage's head
    dp_bytes    a card sends for gradients (and sharded weights) once a step
    tied_bytes  the same between the first and the last stage, for the one table of embedding and head
    gather_bytes  of weights and gradients a card sends for every micro-batch, where weights are sharded
    adam_bytes  read and written by the optimizer
    """

    stages: Floats
    head: Floats
    tied_bytes: float
    dp_bytes: float
    gather_bytes: float
    adam_bytes: float


def work(run: Setup) -> Work:
    """Amounts of a completed run (setup.completed)."""
    stages = np.array([_stage(run, i) for i in range(run.pp)])
    held = max(plain + routed / run.ep for plain, routed in (stage_params(run, i) for i in range(run.pp))) / run.tp
    tied = 0.0 if run.gated or run.pp == 1 else run.padded_vocab * run.hidden / run.tp * _gradient(run)
    return Work(stages, unit(run, "head").sum(axis=0), tied, *once(run, held))


def once(run: Setup, held: float) -> tuple[float, float, float]:
    """(dp_bytes, gather_bytes, adam_bytes) of a card that holds `held` parameters after tensor and expert cuts.

    Where states are shared by a few ranks only, their gathers stay among these, and what each of them keeps of the
    gradients is summed over the others. Stage 2 keeps no whole gradient from one micro-batch to the next.
    """
    ranks, near = run.dp * run.cp, run.sharing
    share = (ranks - 1) / ranks
    gradient, weight = _gradient(run), run.bytes_each
    gather = 0.0
    if run.zero == 3:
        among = (near - 1) / near
        dp, gather = 2 * gradient * held / near * (ranks > near), held * among * (2 * weight + gradient)
        if run.pp > 1:  # weights stay whole from one micro-batch to the next: gathered and reduced once a step
            dp, gather = held * share * (weight + gradient), 0.0
    elif run.zero == 0 or near < ranks or (run.zero == 1 and "DeepSpeed" in run.software):
        # DeepSpeed's first stage sums whole gradients before each rank drops what is not its own, then gathers.
        dp = held * share * (2 * gradient + (weight if run.zero and near == ranks else 0.0))
    elif run.zero == 2 and run.pp == 1:
        dp, gather = held * share * weight, held * share * gradient
    else:
        dp = held * share * (gradient + weight)
    return dp, gather, held * (34.0 if run.bytes_each == 2 else 28.0) / (near if run.zero else 1)


def _gradient(run: Setup) -> float:
    return float(run.reduce_bytes or (2 if run.precision == "fp16" else 4))


def model_flop(run: Setup) -> float:
    """FLOP of a step's forward and backward on all cards, none computed twice; attention in full squares.

    As published: arXiv 2104.04473, equation 3, without what is computed again; arXiv 2204.02311, appendix B.
    """
    one = replace(
        run, tp=1, pp=1, dp=1, cp=1, ep=1, interleave=1, micro_batch=1, items=(), recompute="none", flash=False
    )
    found = _stage(one, 0) + unit(one, "head").sum(axis=0)
    return run.global_batch * sum(
        float(found[AMOUNTS.index(f"{kind}_flop")]) for kind in ("matmul", "narrow", "attention")
    )


def _stage(run: Setup, stage: int) -> Floats:
    """Amounts of one micro-batch on one stage's layers, forward and backward, in the order of AMOUNTS."""
    layers, dense = run.stage_layers[stage], dense_layers(run, stage)
    found = layers * unit(run, "attn") + (layers - dense) * unit(run, "mlp")
    if dense:
        found = found + dense * unit(run, "mlp", dense=True)
    both: Floats = found.sum(axis=0)
    if run.pp > 1:
        # An activation and a gradient; to and from both sides at once, but for DeepSpeed, whose sends wait in turn.
        turns = 4 if "DeepSpeed" in run.software and 0 < stage < run.pp - 1 else 2
        both[AMOUNTS.index("pp_bytes")] = turns * sent(run) * run.interleave
    return both


def sent(run: Setup) -> float:
    """Bytes that a card sends to the next stage for one micro-batch, one way."""
    rows = run.seq * run.micro_batch / run.cp
    return rows * run.hidden * run.bytes_each / (run.tp if run.seq_parallel or not run.flash else 1)


def unit(run: Setup, kind: str, dense: bool = False) -> Floats:
    """(2, AMOUNTS) of one unit on one card for one micro-batch: forward, backward (with what it computes again).

    kind   "embed", "attn", "mlp" or "head"; `dense`, or "dense": an MLP without experts in a model that has some
    """
    kind, dense = ("mlp", True) if kind == "dense" else (kind, dense)
    if run.recompute == "mlp":  # its norm too, which is kept: too small to tell apart
        run = replace(run, recompute="full" if kind == "mlp" else "none")
    if kind == "attn":
        return _attention(run)
    if kind == "mlp":
        return _mlp(run, None if dense else run)
    return _head(run) if kind == "head" else np.zeros((2, len(AMOUNTS)))


def _rows(run: Setup) -> float:
    return run.seq * run.micro_batch / run.cp


def _layered(run: Setup, flop: float, matmul: float, passes: Sequence[float], **rest: Any) -> Floats:
    """Forward and backward of half a layer: matmuls and their bytes once, twice, and as often as they are made again.

    passes  (forward, backward) numbers that element-wise kernels read and write; rest: such pairs of other amounts
    """
    t, again, found = run.tp, _again(run), {}
    ways, redone = np.array([1.0, 2.0 + again]), float(_remade(run))
    found["narrow_flop" if run.precision == "fp8" else "matmul_flop"] = flop * ways
    found["matmul_bytes"] = matmul * ways
    made = "pass_bytes" if run.fused or not run.gated else "eager_bytes"
    found[made] = np.array([passes[0], passes[1] + redone * passes[0]]) * run.bytes_each
    # A sum over tensor-parallel cards each way; made again with its half, by torchtitan's choice its gathering alone.
    each = np.array([1.0, 1.0 + again]) if t > 1 else np.zeros(2)
    summed = 2 * (t - 1) / t * _rows(run) * run.hidden * run.bytes_each
    found["tp_bytes"] = each * summed
    if run.overlap_back and t > 1:
        # Of a backward that splits sequences, the input gathered again and its gradient's sum run beside matmuls.
        found["tp_bytes"] = np.array([1.0, again + 0.5 * run.seq_parallel]) * summed
        found["tp_beside"] = np.array([0.0, summed])
    found["tp_messages"] = each * (t - 1)
    issued = _kernels(run) / 2
    found["kernels"] = np.array([issued, (2 + redone) * issued])
    found |= {name: np.array(value) for name, value in rest.items()}
    return np.stack([found.get(name, np.zeros(2)) for name in AMOUNTS], axis=1)


def _attention(run: Setup) -> Floats:
    rows, h, t, n = _rows(run), run.hidden, run.tp, run.bytes_each
    params = attention_params(run)
    width = run.heads * (run.latent.head + run.latent.rope / 2) if run.latent else run.width
    flop = 4 * rows * width / t * ((run.seen or run.seq / 2) if run.flash else run.seq)
    redone = run.recompute == "full" or (run.recompute == "selective" and not run.flash)
    once, back = (0.0, 0.0) if run.flash else (x * rows * run.heads * run.seq / t * n for x in _score_passes(run))
    keys = 2.0 * run.width * run.kv_heads / run.heads  # and values
    if (mla := run.latent) is not None:
        keys = run.heads * (mla.head + mla.rope + mla.value)
    around = keys * n * rows * (run.cp - 1) / t
    norms, rotated = _norm_passes(run), run.width * (1 + run.kv_heads / run.heads) / t
    turn = (0.0 if not run.gated else 2.0 if run.fused else 10.0) * rotated
    split = t if run.seq_parallel else 1
    return _layered(
        run, 2 * rows * params / t, n * (params / t + rows * (h + 3 * run.width / t)),
        (rows * (norms[0] * h / split + turn), rows * (norms[1] * h / split + turn)),
        attention_flop=(flop, flop * ((2.5 if run.flash else 2.0) + redone)), score_bytes=(once, back),
        cp_bytes=(around, 2 * around),
    )  # fmt: skip


def _mlp(run: Setup, mixed: Setup | None) -> Floats:
    rows, h, t, n = _rows(run), run.hidden, run.tp, run.bytes_each
    plain, experts = mlp_params(run, mixed is None), mixed.experts if mixed is not None else None
    norms, act = _norm_passes(run), _act_passes(run)
    if experts is None:
        split = t if run.seq_parallel else 1
        passes = tuple(rows * (norm * h / split + each * run.ffn / t) for norm, each in zip(norms, act, strict=True))
        return _layered(run, 2 * rows * plain / t, n * (plain / t + rows * (h + 3 * run.ffn / t)), passes)
    everyone = expert_params(run)
    wide = experts.used * (2 * h + 3 * experts.ffn)
    # Tokens are copied to their experts in order, and back: read and written each way.
    copied, inner = 4 * experts.used * h, experts.used * experts.ffn + experts.shared_ffn
    passes = (rows * (norms[0] * h + act[0] * inner + copied) / t, rows * (norms[1] * h + act[1] * inner + copied) / t)
    matmul = n * ((plain + everyone / run.ep) / t + rows * (h + wide) / t)
    # Ranks that split the sequence send each its own part of it.
    own = rows / t if run.seq_parallel else rows
    moved = 2.0 * own * h * n * experts.used * (run.ep - 1) / run.ep
    flop = 2 * rows * (plain + everyone * experts.used / experts.count) / t
    return _layered(run, flop, matmul, passes, ep_bytes=(moved, moved))


def _kernels(run: Setup) -> float:
    """Kernels of a layer's forward, counted in its operators; its backward has twice as many.

    Two norms, four matmuls, attention, an activation and two sums are one each, beside as many copies of heads,
    weights and gradients. Eager torch makes each RMS norm of six and rotary embeddings of ten. Unfused attention adds a
    matmul, scale, mask, softmax, dropout and copies of scores; fp32 has no fused softmax. Experts add a router,
    sorting, two exchanges and the way back.
    """
    eager = 20.0 if run.gated and not run.fused else 0.0
    apart = 0.0 if run.flash else 10.0 if run.bytes_each == 2 else 17.0
    return 20.0 + eager + apart + (30.0 if run.experts else 0.0)


def _norm_passes(run: Setup) -> Passes:
    """Numbers that a norm and a residual sum read and write per number of the hidden state, forward and backward.

    One kernel each: a norm 2 and 3, a sum with its dropout 3.5 and 3. Eager torch has a kernel for a layer norm, but
    makes an RMS norm in fp32 of six (36 bytes), and its backward of twice as many.
    """
    return (5.5, 6.0) if run.fused or not run.gated else (21.0, 39.0)


def _act_passes(run: Setup) -> Passes:
    """The same of an activation, per number of the MLP's width."""
    if not run.gated:
        return 2.0, 3.0
    return (3.0, 5.0) if run.fused else (5.0, 8.0)


def _head(run: Setup) -> Floats:
    rows, n, wide = _rows(run), run.bytes_each, run.padded_vocab / run.tp
    found = np.zeros((2, len(AMOUNTS)))
    ways, at = np.array([1.0, 2.0]), AMOUNTS.index
    found[:, at("matmul_flop")] = 2 * rows * run.hidden * wide * ways
    found[:, at("matmul_bytes")] = n * (rows * run.hidden + run.hidden * wide + rows * wide) * ways
    found[:, at("pass_bytes")] = rows * wide * np.array(_loss_bytes(run))
    return found


def _loss_bytes(run: Setup) -> Passes:
    """Bytes read and written per logit by the loss, forward and backward, kernel by kernel.

    Megatron over split logits: maximum, difference, exponent, sum, quotient, and 2 kernels back; 16-bit logits are
    copied to fp32 and their gradient back. Torch: a copy, log-softmax; three kernels back. Compiled: read twice.
    """
    copies = 6.0 if run.bytes_each == 2 else 0.0
    if run.compiled or run.kernels:
        return 2.0 * run.bytes_each, 2.0 * run.bytes_each
    return (32.0 + copies, 8.0 + copies) if run.software.startswith("Megatron") else (8.0 + copies, 16.0 + copies)


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


def _remade(run: Setup) -> bool:
    """Whether what is no matmul is computed a second time too."""
    return run.recompute == "full" or (run.recompute == "selective" and run.software == "torchtitan")
