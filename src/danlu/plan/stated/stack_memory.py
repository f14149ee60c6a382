"""Bytes of a card in a training run of a real stack: states, activations in flight, and what the reader counts beside.

`formula` is the published arithmetic alone (Korthikanti et al., arXiv 2205.05198, Table 2, and 18 bytes per parameter).
`allocated` adds embedding, head and the tensors that live for a moment. `device` (what the maker's tool shows) and
`reserved` (what the framework's allocator holds) add a policy that no formula knows: the two constants below. `fits`
adds a margin of its own to any of the three.
"""

from __future__ import annotations

from dataclasses import dataclass

from danlu.plan.stated.setup import Setup

CONTEXT_BYTES = 4.4e9  # kernels, communicators and work space of one process: fitted to 25 readings of one source
RESERVED = 1.11  # what a caching allocator holds for one byte at the peak: fitted to 20 readings of one source
MARGIN = 0.025  # middle of what 70 readings allow: 0.9 of a measured peak must be refused, 1.15 of it accepted


@dataclass(frozen=True, slots=True)
class CardBytes:
    """Peak bytes on the fullest card, by what they are for."""

    states: float
    activations: float
    transient: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.states + self.activations + self.transient


def formula(setup: Setup, embedding: bool = True) -> float:
    """States and activations of the first stage by the paper's formulas; with `embedding`, its share and input too."""
    layers, size = setup.stage_layers[0], 18.0
    params = layers * matmul_params(setup) / setup.tp
    found = size * params + layers * in_flight(setup, 0) * layer_bytes(setup)
    if embedding:
        found += size * setup.padded_vocab * setup.hidden / setup.tp
    return found


def allocated(setup: Setup) -> CardBytes:
    """Peak bytes of tensors on the fullest card: the stage that needs most."""
    return max((_stage(setup, i) for i in range(setup.pp)), key=lambda each: each.total)


def device(setup: Setup) -> float:
    """Bytes in use as the maker's tool shows them."""
    return CONTEXT_BYTES + allocated(setup).total


def reserved(setup: Setup) -> float:
    """Bytes that the framework's allocator holds."""
    return RESERVED * allocated(setup).total


def read_as(setup: Setup, reading: str) -> float:
    """Predicted bytes of the fullest card as "allocated", "device" or "reserved" counts them."""
    if reading == "allocated":
        return allocated(setup).total
    return {"device": device, "reserved": reserved}[reading](setup)


def fits(need: float, capacity: float) -> bool:
    """Whether a run that is predicted to need `need` bytes may be started on cards of `capacity` bytes."""
    return need * (1 + MARGIN) <= capacity


def matmul_params(setup: Setup, dense: bool = False) -> float:
    """Parameters in the matrices of one layer before any split; of a dense layer of a mixture if `dense`."""
    return attention_params(setup) + mlp_params(setup, dense) + expert_params(setup, dense)


def attention_params(setup: Setup) -> float:
    """Parameters in the matrices of one attention."""
    h = setup.hidden
    if (mla := setup.latent) is not None:
        queries = setup.heads * (mla.head + mla.rope)
        made = mla.q_rank * (h + queries) if mla.q_rank else h * queries
        keys = h * (mla.kv_rank + mla.rope) + mla.kv_rank * setup.heads * (mla.head + mla.value)
        return float(made + keys + setup.heads * mla.value * h)
    return 2.0 * h * setup.width * (1.0 + setup.kv_heads / setup.heads)


def mlp_params(setup: Setup, dense: bool = False) -> float:
    """Parameters in the matrices of one MLP that every token passes: dense, or shared and router beside experts."""
    wide = 3 if setup.gated else 2
    if setup.experts is None or dense:
        return float(wide * setup.hidden * setup.ffn)
    return float(wide * setup.hidden * setup.experts.shared_ffn + setup.hidden * setup.experts.count)


def expert_params(setup: Setup, dense: bool = False) -> float:
    """Parameters of all experts of one layer."""
    if setup.experts is None or dense:
        return 0.0
    return float(setup.experts.count * (3 if setup.gated else 2) * setup.hidden * setup.experts.ffn)


def bytes_per_param(setup: Setup, ranks: int) -> float:
    """Bytes of weight, gradient and Adam's states of one parameter on one of `ranks` data-parallel cards.

    Megatron keeps its main gradient in fp32 (18, or 6 + 12/d with a distributed optimizer). DeepSpeed's optimizer for
    bf16 pipelines sums it beside the short one (8 + 12/d), unless it sums in 16 bits as its first stage alone does
    (4 + 12/d). fp32 runs need 16; FSDP and ZeRO-3 share everything.
    """
    if setup.zero == 3:
        return 16.0 / ranks
    if setup.zero == 1 and setup.precision == "bf16" and "DeepSpeed" in setup.software:
        short = setup.software == "DeepSpeed" or setup.reduce_bytes == 2
        return (4.0 if short else 8.0) + 12.0 / ranks
    if setup.precision == "fp32":
        return 16.0 if setup.zero == 0 else 8.0 + 8.0 / ranks
    return 18.0 if setup.zero == 0 else (6.0 + 12.0 / ranks if setup.zero == 1 else 2.0 + 16.0 / ranks)


def in_flight(setup: Setup, stage: int) -> float:
    """Micro-batches whose activations a stage holds: 1F1B p - i, interleaved p (1 + (p-1)/(p v)) on the first stage."""
    m, p, v = setup.micro_batches, setup.pp, setup.interleave
    if p > 1 and v > 1:
        return min(float(m), (p - stage) + (p - 1) / v)
    return float(min(m, p - stage))


def layer_bytes(setup: Setup, dense: bool = False, recompute: str | None = None) -> float:
    """Bytes that one layer keeps of one micro-batch for its backward, on one card (arXiv 2205.05198, Table 2).

    The parts are its list in section 4.1, so that gated MLPs, shared keys, flash attention and fp32 follow from it.
    `recompute` asks for another choice than the run's. torchtitan's "selective" is its own: it keeps the layer's input,
    attention's output and every second matmul's. "mlp" makes an MLP anew from its norm's output, which is kept.
    """
    return sum(half_bytes(setup, dense, recompute))


def half_bytes(setup: Setup, dense: bool = False, recompute: str | None = None) -> tuple[float, float]:
    """The same of a layer's attention and of its MLP; a layer's input under full recomputation counts half for each."""
    rows, h, t, n = setup.seq * setup.micro_batch / setup.cp, setup.hidden, setup.tp, setup.bytes_each
    split, chosen = (t if setup.seq_parallel else 1), recompute or setup.recompute
    if chosen == "full":
        half = rows * h * n / (split if setup.software == "torchtitan" else 1) / 2
        return half, half
    if chosen == "selective" and setup.software == "torchtitan":
        wide = setup.width * (2 + setup.kv_heads / setup.heads / 2)
        return rows * n * (h / split + wide / t), rows * n * (h / split + setup.ffn / t)
    whole = 2 * n * h + (h if setup.dropout else 0)  # a norm's input and the matmul's after it, a dropout mask
    scores = 0.0
    if not setup.flash and chosen in ("none", "mlp"):
        scores = float((2 * n + 1 if setup.dropout else n) * setup.heads * setup.seq)
    attention, mlp = _attention_numbers(setup) * n + scores, _mlp_numbers(setup, dense) * n * (chosen != "mlp")
    if setup.gated and not setup.fused:  # an RMS norm of many kernels keeps its input in fp32 and what it is before
        whole += (n + (4 if n == 2 else 0)) * h  # its weight; a gate keeps what its activation made
        mlp += _mlp_numbers(setup, dense) * n / 3 * (chosen != "mlp")
    return rows * (whole / split + attention / t), rows * (whole / split + mlp / t)


def _attention_numbers(setup: Setup) -> float:
    """Numbers kept per token by attention: q, k, v and the output before its projection."""
    if (mla := setup.latent) is not None:
        per_head = 2 * (mla.head + mla.rope) + 2 * mla.value
        return float(setup.heads * per_head + 2 * (mla.q_rank + mla.kv_rank) + mla.rope)
    return setup.width * (2.0 + 2.0 * setup.kv_heads / setup.heads)


def _mlp_numbers(setup: Setup, dense: bool) -> float:
    """Numbers kept per token between the matrices of the MLP: before and after its activation."""
    wide = 3 if setup.gated else 2
    if setup.experts is None or dense:
        return float(wide * setup.ffn)
    routed = setup.experts.used * (wide * setup.experts.ffn + 2 * setup.hidden)
    return float(wide * setup.experts.shared_ffn + routed)


def stage_params(setup: Setup, stage: int) -> tuple[float, float]:
    """Parameters of a stage before any split: those every rank needs, and those of experts."""
    layers = setup.stage_layers[stage]
    dense = dense_layers(setup, stage)
    plain = layers * attention_params(setup) + (layers - dense) * mlp_params(setup) + dense * mlp_params(setup, True)
    plain += layers * (2 if setup.gated else 13) * setup.hidden
    # A GPT ties its head to its embedding, so that one stage alone holds one table; gated models have two.
    tables = (stage == 0) + (stage == setup.pp - 1 and (setup.gated or setup.pp > 1))
    return plain + tables * setup.padded_vocab * setup.hidden, (layers - dense) * expert_params(setup)


def dense_layers(setup: Setup, stage: int) -> int:
    """Layers of a stage without experts in a model that has some: the first ones."""
    return min(setup.stage_layers[stage], setup.experts.dense_layers) if setup.experts and stage == 0 else 0


def _stage(setup: Setup, stage: int) -> CardBytes:
    layers, dense, ranks = setup.stage_layers[stage], dense_layers(setup, stage), setup.sharing
    rows = setup.seq * setup.micro_batch / setup.cp
    plain, routed = stage_params(setup, stage)
    states = plain / setup.tp * bytes_per_param(setup, ranks)
    states += routed / setup.tp / setup.ep * bytes_per_param(setup, max(1, ranks // setup.ep))
    flight = in_flight(setup, stage)
    kept = flight * ((layers - dense) * layer_bytes(setup) + dense * layer_bytes(setup, True))
    if stage == 0 and setup.dropout:
        kept += flight * rows * setup.hidden  # mask of the embedding's dropout
    return CardBytes(states, kept, _moment(setup, stage, rows, plain))


def _moment(setup: Setup, stage: int, rows: float, held: float) -> float:
    """Bytes that live for a moment in a backward: gradients of an MLP, a layer made anew, logits, gathered weights.

    held   parameters of the stage before tensor parallelism splits them
    """
    found, head = moments(setup)
    if stage == setup.pp - 1:
        found = max(found, head)
    if setup.zero == 3:
        # Weights in 16 bits and gradients in fp32 before they are shared out: of two layers, or under a pipeline of
        # the whole stage, which keeps them from one micro-batch to the next.
        found += 6.0 * (held if setup.pp > 1 else 2 * matmul_params(setup)) / setup.tp
    return found


def moments(setup: Setup) -> tuple[float, float]:
    """Bytes that live for a moment in the backward of a layer, and of the head."""
    rows, t, n = setup.seq * setup.micro_batch / setup.cp, setup.tp, setup.bytes_each
    layer = rows / t * 1.5 * n * _mlp_numbers(setup, False)
    if setup.recompute == "full" or (setup.recompute == "selective" and setup.software == "torchtitan"):
        layer += layer_bytes(setup, recompute="none")
    elif setup.recompute == "mlp":
        layer += half_bytes(setup, recompute="none")[1]
    logit = 4.0 * n if setup.fused_loss else 4.0 * n + 4
    if setup.software == "torchtitan" and t > 1:
        # Its loss over split logits makes each step a tensor of fp32: shifted, exponents, result, gradient, in turn.
        # DTensor keeps the gathered inputs of column-parallel matmuls where Megatron gathers them again.
        logit, layer = 18.0, layer + 2 * rows * setup.hidden * n
    return layer, rows / t * logit * setup.padded_vocab
