"""The eight nouns of danlu, and the small values they are made of.

Frozen, standard library only, no behaviour beyond what follows from the numbers (what a unit holds is recipe.py's).
Seconds, bytes and FLOP everywhere. Two words are used all over the house:

unit    the smallest piece a pipeline cut may fall between. A model is a row of units:
        "embed", "layers.0.attn", "layers.0.mlp", ..., "head" (the final norm belongs to "head").
dtype   "fp32", "bf16", "fp16", "fp8", "int8", "nf4". A plan to train may also say FP8's other words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from danlu import recipe

DTYPE_BYTES: Mapping[str, float] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "nf4": 4.127 / 8}

# What a plan to train calls products in 8 bits: on every card; on cards that have them, elsewhere in bf16; on cards
# that have them, elsewhere emulated.
FP8 = ("fp8", "fp8-mixed", "fp8-emulated")


def kept_as(dtype: str) -> str:
    """The dtype of weights, activations and messages of a plan: 8 bits are only what products read."""
    return "bf16" if dtype in FP8 else dtype


@dataclass(frozen=True, slots=True)
class Rate:
    """One measured point of a card's speed: how fast one kind of operator runs at one size.

    op      operator kind, for example "matmul", "attention", "elementwise", "call" (docs/formats.md lists them)
    dtype   element type it ran in
    shape   sizes that matter to the operator, for a matmul (rows, inner, columns)
    per_s   work per second at that size: FLOP/s, bytes/s or calls/s, as the operator kind says
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    per_s: float


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator, a fraction of one, or a CPU slice. Rates are measured and sustained, never brochure peaks.

    flops      FLOP/s of a large matmul, by dtype
    mem_bw     bytes/s of reading memory
    cores      CPU cores it may use; for an emulated card this is its speed, 0 for a card that is no CPU
    rates      efficiency by shape, empty when only the large-matmul rate is known
    health     "ok", "slow" or "quarantined"
    """

    name: str
    vendor: str
    model: str
    flops: Mapping[str, float]
    mem_bytes: int
    mem_bw: float
    host: str = "local"
    cores: float = 0.0
    rates: tuple[Rate, ...] = ()
    health: str = "ok"

    @property
    def emulated(self) -> bool:
        """True for a card whose speed is paced, not real; every figure of it is printed with that label."""
        return self.vendor == "emulated"


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two cards (or two hosts): `latency_s` of a message plus bytes / `bandwidth` (bytes/s, one way).

    Only the bytes keep it busy: the next message follows at once.
    """

    a: str
    b: str
    latency_s: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Time for one message of `size` bytes on an idle link (the alpha-beta model)."""
        return self.latency_s + size / self.bandwidth


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that holds cards: its own memory in bytes, and the name of what it is."""

    name: str
    mem_bytes: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Cards, the links between them, and their hosts, as probed or declared."""

    name: str
    cards: tuple[Card, ...]
    links: tuple[Link, ...] = ()
    hosts: tuple[Host, ...] = ()

    def card(self, name: str) -> Card:
        """The card of that name; KeyError if the fleet has none."""
        for card in self.cards:
            if card.name == name:
                return card
        raise KeyError(name)

    def without(self, names: Collection[str]) -> Fleet:
        """The fleet when those cards are gone."""
        left = tuple(card for card in self.cards if card.name not in names)
        links = tuple(link for link in self.links if not {link.a, link.b} & set(names))
        return replace(self, cards=left, links=links)

    def link(self, a: str, b: str) -> Link | None:
        """The link between two cards: their own, else the one between their hosts, else None (not connected)."""
        ends = [{a, b}, {self.card(a).host, self.card(b).host}]
        for pair in ends:
            for link in self.links:
                if {link.a, link.b} == pair:
                    return link
        return None


@dataclass(frozen=True, slots=True)
class Group:
    """Many cards that are alike: what a large fleet is made of, where no card has a name of its own.

    count      cards; `per_host` of them share a host
    flops      FLOP/s of a large dense 16-bit matmul, as published; what runs reach of it is the cost model's affair
    link       bytes/s of one card to the cards of its host, one way
    network    bytes/s of one card to other hosts, one way, after oversubscription
    site       where the group stands
    watts      of one card at work
    price      of one card for one hour, in any currency; 0 where nobody said
    host_link  bytes/s of one card to its host's memory, one way; 0 where nobody said: nothing is kept there
    host_mem_bytes  of the host's memory that one card may fill
    disk_link, disk_bytes  the same of the host's disks: bytes/s of one card, read or written, and bytes for one card
    fp8        whether it multiplies 8-bit floats
    """

    card: str
    count: int
    flops: float
    mem_bytes: int
    mem_bw: float
    link: float
    network: float
    per_host: int = 8
    site: str = "here"
    watts: float = 0.0
    price: float = 0.0
    host_link: float = 0.0
    host_mem_bytes: int = 0
    disk_link: float = 0.0
    disk_bytes: int = 0
    fp8: bool = False


@dataclass(frozen=True, slots=True)
class GroupedFleet:
    """A fleet too large to name its cards: groups, and bytes/s of one card between two sites, one way.

    lines   between sites by name, where they differ from `between_sites`
    """

    name: str
    groups: tuple[Group, ...]
    between_sites: float = 1.25e9
    lines: tuple[Link, ...] = ()

    def line(self, a: str, b: str) -> float:
        """Bytes/s of one card from one site to another."""
        said = [link.bandwidth for link in self.lines if {link.a, link.b} == {a, b}]
        return said[0] if said else self.between_sites

    @property
    def cards(self) -> int:
        """Cards of all groups."""
        return sum(group.count for group in self.groups)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Rotary scaling of Llama 3.x: frequencies below `original / low` stretched by `factor`, blended up to `/ high`."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True, slots=True)
class Latent:
    """Ranks and widths of latent attention (DeepSeek-V2, arXiv 2405.04434): what replaces q, k and v.

    q_rank, kv_rank  numbers of a token from which its queries, its keys and values are made; q_rank 0: not queries
    head, rope   width of a head's query and key without positions, and with them
    value        width of a head's value
    """

    q_rank: int
    kv_rank: int
    head: int
    rope: int
    value: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The numbers of a decoder; no tensors.

    recipe      sub-layers of one layer, in order; each is one unit of the pipeline; kinds are those of recipe.py:
                "attn", "lfa" (attention behind Yuan's local filter), "mlp", "moe"
    ffn         width inside the gated MLP; of one expert where there are experts
    window      sliding-window attention span in tokens, None for full attention
    positions   longest context the model was made for, in tokens
    experts     0 for a dense MLP, else the number of experts of which `experts_used` run per token
    norm_topk   the weights of the experts that run are scaled to sum to one
    shared_ffn  width of the expert that every token goes through, behind a sigmoid gate; 0 for none

    What only a planner knows, and `danlu train` does not run:
    unwindowed  layers that attend to all tokens in spite of `window`
    gated       False for an MLP of two matrices, as GPT's
    latent      of latent attention, whose `head_dim` is a value's
    dense_layers, dense_ffn  the first layers of a mixture that have one MLP instead, and its width
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    experts: int = 0
    experts_used: int = 0
    recipe: tuple[str, ...] = ("attn", "mlp")
    norm_topk: bool = True
    shared_ffn: int = 0
    unwindowed: int = 0
    gated: bool = True
    latent: Latent | None = None
    dense_layers: int = 0
    dense_ffn: int = 0

    @property
    def units(self) -> tuple[str, ...]:
        """Names of all units in order: embed, every sub-layer of every layer, head."""
        body = (f"layers.{i}.{'dense' if i < self.dense_layers and part in recipe.MLPS else part}"
                for i in range(self.layers) for part in self.recipe)  # fmt: skip
        return ("embed", *body, "head")

    def unit_params(self, unit: str) -> int:
        """Number of parameters a unit holds. A tied head owns none of its own but the final norm."""
        return recipe.params(self, recipe.kind_of(unit))

    @property
    def params(self) -> int:
        """Number of parameters of the whole model."""
        return sum(self.unit_params(unit) for unit in self.units)


@dataclass(frozen=True, slots=True)
class Stage:
    """A range of units on a set of cards.

    cards    names; more than one means tensor parallelism inside the stage
    start    index of the first unit; `stop` is one past the last
    shares   split vector over the cards (attention heads of each), empty for one card
    recompute  "none", "selective" or "full"
    experts  whole experts of each card; empty where the cards share every expert's ffn
    """

    cards: tuple[str, ...]
    start: int
    stop: int
    shares: tuple[int, ...] = ()
    recompute: str = "none"
    experts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Replica:
    """One more copy of the model: a pipeline of its own, that takes its own part of every step's micro-batches.

    orders   as the plan's, where its schedule is "zb"
    context  tokens of every sequence that it computes; 0 for all. Pipelines that follow each other until theirs come to
             whole sequences are together one copy (context parallelism): parts of one sequence, the first one first
    experts  experts of each layer that it holds; 0 for all. Pipelines that follow each other until theirs come to all
             of them send each other the tokens that want them (expert parallelism), be they copies or parts of one
    """

    stages: tuple[Stage, ...]
    micro_batches: int
    orders: tuple[str, ...] = ()
    context: int = 0
    experts: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan should cost when it runs; `stage_` fields have one entry per rank, in most plans a stage.

    step_s          seconds per optimizer step
    tokens_per_s    trained tokens per second
    stage_busy_s    seconds each stage computes in one step
    stage_bytes     peak bytes each stage's card needs
    """

    step_s: float
    tokens_per_s: float
    stage_busy_s: tuple[float, ...]
    stage_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who computes what, in which order, and what that should cost.

    schedule      order of instructions: "1f1b", "1f1b:N", or "zb" for the `orders` given
    micro_batch   sequences per micro-batch; `micro_batches` of them make one step
    seq           tokens per sequence
    dtype         element type of weights and activations; 8 bits (FP8) are of what products of sub-layers read
    orders        for "zb", what each stage computes in order, a letter each: F forward, B backward, I and W the two
                  halves of a backward (to the input, to the weights); the n-th of a letter is of micro-batch n, and
                  the n-th of B and I together
    replicas      further copies of the model beside the one of `stages`, each with micro-batches of its own
    context, experts  as a Replica's, of the pipeline of `stages`
    """

    model: ModelSpec
    fleet: Fleet
    stages: tuple[Stage, ...]
    schedule: str
    micro_batches: int
    micro_batch: int
    seq: int
    dtype: str = "fp32"
    forecast: Forecast | None = None
    orders: tuple[str, ...] = ()
    replicas: tuple[Replica, ...] = ()
    context: int = 0
    experts: int = 0

    @property
    def pipelines(self) -> tuple[Replica, ...]:
        """Every copy of the model, or part of one: that of `stages` first, then `replicas`."""
        return (Replica(self.stages, self.micro_batches, self.orders, self.context, self.experts), *self.replicas)

    @property
    def emulated(self) -> str:
        """What of it is paced or imitated, not real, as people are told; "" where nothing is."""
        cards = any(card.emulated for card in self.fleet.cards)
        numbers = self.dtype == "fp8-emulated" and any("fp8" not in card.flops for card in self.fleet.cards)
        return ", ".join(("emulated",) * cards + ("fp8 emulated",) * numbers)

    @property
    def sequences(self) -> int:
        """Sequences of one step, over all copies of the model."""
        tokens = sum(each.micro_batches * (each.context or self.seq) for each in self.pipelines)
        return self.micro_batch * tokens // self.seq

    @property
    def layers_per_stage(self) -> tuple[float, ...]:
        """Layers of each stage; half a layer when a cut falls between attention and MLP. embed and head count 0."""
        units, per_layer = self.model.units, len(self.model.recipe)
        body = [sum(1 for unit in units[s.start : s.stop] if unit.startswith("layers.")) for s in self.stages]
        return tuple(count / per_layer for count in body)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to run: a command, what it needs, and how urgent it is.

    argv            the command
    cards           names of the cards it wants, in rank order
    host            name of the host it must run on
    latency_class   "batch", "interactive" or "service"
    """

    name: str
    argv: tuple[str, ...]
    cards: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    latency_class: str = "batch"
    host: str = "local"


@dataclass(frozen=True, slots=True)
class Block:
    """A named piece of bytes.

    key       what it is; a KV page's key hashes its whole prefix
    tier      "card", "host", "disk" or "peer"
    version   counts rewrites of a block that may change (a swapped tensor); 0 for one that never does
    checksum  of the bytes, None where nobody reads it back
    """

    key: str
    size: int
    tier: str
    version: int = 0
    checksum: int | None = None
