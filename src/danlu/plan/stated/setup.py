"""A training run of any framework as its user would state it: the question that the stack models answer.

`stack_memory` and `stack_time` speak of runs on real cards with tensor, data and context parallelism; cost.py and
memory.py of the plans that `danlu train` runs itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from danlu.nouns import Latent


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: `count` of width `ffn` of which `used` run per token, beside a shared one."""

    count: int
    used: int
    ffn: int
    shared_ffn: int = 0
    dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """One run. 0 stands for "not stated" in tp, pp, interleave and micro_batch; `completed` fills them.

    link             bytes/s of one card to other hosts, one way; None for a run inside one host
    global_batch, micro_batch   sequences; tokens of a sequence are `seq`
    zero             stage of sharding over data-parallel ranks, 3 for FSDP
    items            embedding + layers + head of each stage where they are uneven, else ()
    head_dim         0 where it is hidden / heads
    attention_kernel  generation of fused attention: 1 as in arXiv 2205.14135, 2 as in 2307.08691, 3 as in 2407.08608
                     or in cuDNN from version 9
    kernels          norms, activations and rotary embeddings are one kernel each: Megatron's own where nothing is said
    reduce_bytes     of one number of a gradient as data-parallel cards send it; 0 for the software's habit
    zero_ranks       data-parallel ranks that share states, where these are not all: inside a host; 0 for all
    seen             keys that a query of fused attention looks at on average, where that is not half of `seq`: windows
    overlap_tp       tensor-parallel messages of both passes are sent in parts beside their matmuls
    overlap_back     only those of the backward, beside gradients of weights: Megatron's habit since 2022 (arXiv
                     2205.05198, section 4.2.2)
    """

    card: str
    cards: int
    cards_per_host: int
    link: float | None
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    gated: bool
    vocab: int
    seq: int
    global_batch: int
    micro_batch: int = 0
    tp: int = 0
    pp: int = 0
    dp: int = 1
    cp: int = 1
    ep: int = 1
    interleave: int = 1
    recompute: str = "none"
    seq_parallel: bool = False
    zero: int = 0
    precision: str = "bf16"
    software: str = "Megatron-LM"
    compiled: bool = False
    async_tp: bool = False
    flash: bool = True
    dropout: bool = False
    overlap_dp: bool = False
    overlap_tp: bool = False
    overlap_back: bool = False
    experts: Experts | None = None
    latent: Latent | None = None
    items: tuple[int, ...] = ()
    head_dim: int = 0
    attention_kernel: int = 2
    kernels: bool = False
    reduce_bytes: int = 0
    zero_ranks: int = 0
    seen: float = 0.0

    @property
    def width(self) -> int:
        """Numbers of all query heads of a token."""
        return self.heads * self.head_dim or self.hidden

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one pipeline in a step."""
        return max(1, self.global_batch // (self.dp * self.micro_batch))

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each stage; even, with what is left over on the first ones, where nothing else is stated."""
        if self.items:
            ends = [1 if i == 0 else 0 for i in range(self.pp)]
            ends[-1] += 1
            return tuple(count - end for count, end in zip(self.items, ends, strict=True))
        base, extra = divmod(self.layers, self.pp)
        return tuple(base + (i < extra) for i in range(self.pp))

    @property
    def sharing(self) -> int:
        """Ranks among which the states of a parameter are shared where they are at all."""
        return min(self.zero_ranks or self.dp * self.cp, self.dp * self.cp)

    @property
    def fused(self) -> bool:
        """Whether norms, activations and their like are one kernel each: the software's own, or a compiler's."""
        return self.compiled or self.kernels or self.software.startswith("Megatron")

    @property
    def fused_loss(self) -> bool:
        """Megatron's loss makes the gradient in place of the logits; the plain one keeps both and a softmax."""
        return self.software.startswith("Megatron")

    @property
    def bytes_each(self) -> int:
        """Bytes of one number of an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def padded_vocab(self) -> int:
        """Vocabulary rounded up so that every tensor-parallel rank has a multiple of 128 (Megatron's rule)."""
        step = 128 * self.tp
        return -(-self.vocab // step) * step


def completed(setup: Setup) -> Setup:
    """The run with what it leaves open filled by the software's habits: the first of `choices`."""
    return choices(setup)[0]


def choices(setup: Setup) -> tuple[Setup, ...]:
    """The runs that a statement with gaps may mean; people publish the fastest one that fits.

    tensor parallelism  inside a host: the most cards of it that divide the model-parallel size and the heads
    micro_batch         as many micro-batches as stages under torchtitan's pipelines (its default), else 1, 2, 4, 8
    interleave          chunks of a stage that divide its layers (its items, where these are stated), up to 4
    """
    tp, pp = setup.tp, setup.pp
    if not tp or not pp:
        both = setup.cards // (setup.dp * setup.cp)
        tp = tp or (both // pp if pp else max(n for n in range(1, setup.cards_per_host + 1)
                                              if both % n == 0 and setup.heads % n == 0))  # fmt: skip
        pp = pp or both // tp
    each = max(1, setup.global_batch // setup.dp)
    sizes: tuple[int, ...] = (setup.micro_batch,)
    if not setup.micro_batch:
        sizes = tuple(n for n in (1, 2, 4, 8) if each % n == 0)
        if setup.software == "torchtitan" and pp > 1:
            sizes = (max(1, each // pp),)
    chunks: tuple[int, ...] = (setup.interleave,)
    if not setup.interleave:
        stages = setup.items or (setup.layers // pp,) * pp
        whole = sum(stages) >= setup.layers
        chunks = tuple(n for n in (2, 3, 4) if pp > 1 and whole and all(items % n == 0 for items in stages))
        chunks = chunks or (2 if pp > 1 else 1,)
    return tuple(replace(setup, tp=tp, pp=pp, micro_batch=size, interleave=n) for size in sizes for n in chunks)
