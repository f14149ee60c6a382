"""Seconds of a step of a training run on datacenter cards, from amounts (stack_work.py) and a few fitted constants.

A stage's micro-batch takes its FLOP at the card's rate plus weighted bytes (a matmul with a small side is slowed by its
bytes), plus what communication is not hidden. The pipeline takes m times the slowest stage, and once the others,
divided by the chunks of a stage (Narayanan et al., arXiv 2104.04473, section 2.2, for unequal stages). Links follow the
alpha-beta model; a group that spans hosts is bound by the host links of the ranks it has on one host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from danlu.errors import BadRows
from danlu.plan.stated.setup import Setup
from danlu.plan.stated.stack_work import AMOUNTS, Work

BY_CARD = ("cards", "others")
SHARED_BUS = 40e9  # bytes/s one way: below it cards of a host are joined by PCIe through its sockets
WIDE = 5e14  # dense FLOP/s: cards of the Hopper generation and later
FULL_WATTS = 700.0  # of a card beyond WIDE that is not limited
SHARING = 0.8  # rings that cross sockets at once get 1 / n**SHARING of the link each: one alone does not fill it


@dataclass(frozen=True, slots=True)
class Rated:
    """What is published about a card: dense FLOP/s of 16-bit matmuls, bytes, bytes/s of memory, bytes/s of its link.

    link    to cards of its host, one way
    watts   None for a card that runs at its full power
    """

    name: str
    flops: float
    mem_bytes: float
    mem_bw: float
    link: float
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class Constants:
    """What is fitted; all of it positive, all of it about software and cards in general. The defaults are the priors.

    matmul, attention   share of the dense rate that large matmuls, and fused attention, reach
    wide_attention      the same on cards beyond WIDE (FlashAttention-2 reaches 35 % of an H100: arXiv 2407.08608)
    wide                share of `matmul` that such cards reach in a run: one trainer's paired tables give an H100 0.67
                        to 0.74 of an A100's utilisation (mosaicml/llm-foundry, 13B to 3B), 0.8 of it matmuls
    first_flash, third_flash   speed of the first generation of fused attention up to WIDE, and of the third, beside
                        the second (25 to 40 % of an A100 beside 50 to 73: arXiv 2307.08691; 1.5 to 2: 2407.08608)
    narrow              speed of an fp8 matmul beside a 16-bit one
    matmul_bytes, pass_bytes, score_bytes   weights of bytes against the card's memory bandwidth (kernels reach 80 %)
    eager_bytes         the same of what eager torch makes of gated models, all of whose kernels are counted
    fused               what a compiled step still costs of its passes and of issuing, beside the counts of stack_work
    link, bus, socket, network   share of a link's rate that collectives reach: inside a host by its own link, by PCIe,
                        from socket to socket (NCCL's graph/topo.h has 10 to 16 GB/s beside 32 of PCIe), between hosts
                        (84 to 92 of 100 GB/s in nccl-tests issues 100, 119, 175)
    alpha_s             seconds of one message of a collective
    kernel_s            seconds of one kernel that shrink with nothing: its issuing, its start and its last wave
    unhidden            share of overlapped tensor- and context-parallel communication that still costs time
    contended           the same of overlapped gradients; of overlapped gathers, of the seconds their bytes take inside
                        a host: one that waits for a slow network takes neither memory nor multiprocessors meanwhile
    straggle            share of a step that every doubling of the cards adds: all wait for the slowest
    cards               efficiency of a card beside the average, by name
    others              the same for seconds of all that is no matmul or attention: what calibration may set
    """

    matmul: float = 0.82
    attention: float = 0.55
    wide_attention: float = 0.3
    wide: float = 0.82
    first_flash: float = 0.55
    third_flash: float = 1.7
    narrow: float = 1.5
    matmul_bytes: float = 1.0
    pass_bytes: float = 1.25
    eager_bytes: float = 1.25
    score_bytes: float = 1.25
    fused: float = 0.9
    link: float = 0.7
    bus: float = 0.6
    socket: float = 0.4
    network: float = 0.8
    alpha_s: float = 8e-6
    kernel_s: float = 1.7e-5
    unhidden: float = 0.65
    contended: float = 0.3
    straggle: float = 0.01
    cards: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Of what a calibration sets: a search keeps what it asked for by its constants."""
        return hash((self.matmul, tuple(sorted(self.cards.items())), tuple(sorted(self.others.items()))))


@lru_cache(maxsize=1)
def published() -> Constants:
    """The constants of stack_constants.yaml, fitted to all tables of bench/truth and bench/truth/more."""
    return loads(files("danlu.plan.stated").joinpath("stack_constants.yaml").read_text(encoding="utf-8"))


def read(path: Path) -> Constants:
    """Constants of a file that `dumps` wrote. Raises BadRows for one that cannot be read, or is something else."""
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise BadRows(f"{path} holds no constants of time", why=str(error),
                      fix=f"danlu plan check bench/truth/*.csv --fit {path}") from error  # fmt: skip


def loads(text: str) -> Constants:
    """Constants of a YAML text that `dumps` wrote; ones it leaves out are the priors. Raises TypeError, ValueError."""
    values: dict[str, Any] = dict(yaml.safe_load(text))
    by_card = {name: values.pop(name, None) or {} for name in BY_CARD}
    by_card = {name: {str(card): float(value) for card, value in each.items()} for name, each in by_card.items()}
    numbers = {name: float(value) for name, value in values.items()}
    for name, value in [*numbers.items(), *(pair for each in by_card.values() for pair in each.items())]:
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}")
    every: dict[str, Any] = {**numbers, **by_card}
    return Constants(**every)


def dumps(constants: Constants, by: str = "") -> str:
    """Constants as YAML, to four figures: they are known to less. `by`: what fitted them, if not the tables."""
    plain = asdict(constants)
    short: dict[str, Any] = {name: float(f"{plain[name]:.4g}") for name in plain if name not in BY_CARD}
    short |= {name: {card: float(f"{value:.4g}") for card, value in plain[name].items()} for name in BY_CARD}
    tables, here = "bench/truth/*.csv bench/truth/more/*.csv", "src/danlu/plan/stated/stack_constants.yaml"
    return f"# Fitted: {by or f'danlu plan check {tables} --fit {here}'}\n" + yaml.safe_dump(short, sort_keys=False)


def seconds(run: Setup, amounts: Work, card: Rated, constants: Constants) -> float:
    """Seconds of one step of a completed run on such cards.

    Constants may also hold arrays of one shape (many points, as a fit's slopes want); so does what comes back then.
    """
    c, m = constants, run.micro_batches
    price = prices(run, card, c)
    busy = amounts.stages @ price
    busy[-1] += amounts.head @ price
    if amounts.gather_bytes:
        group = _group(run, card, c, run.sharing)
        gathered = amounts.gather_bytes / (between(run, c, 1) if run.software == "DeepSpeed" and run.link else group)
        both = np.minimum(busy, gathered) * (c.contended if run.software == "DeepSpeed" else 1.0)
        if run.overlap_dp:
            slower = np.minimum(
                gathered, amounts.gather_bytes / _inside(run, card, c, 2)
            )  # what PCIe takes may be more
            both = np.minimum(busy, slower) * c.contended
        busy = np.maximum(busy, gathered) + both
    slow = busy.max(axis=0)
    pipeline: float = m * slow + (busy.sum(axis=0) - slow) / run.interleave
    return (pipeline + reduced_seconds(run, amounts, card, c)) * waiting(run.cards, c)


def waiting(cards: int, constants: Constants) -> float:
    """How many times as long a step of so many cards takes because each waits for the slowest: grows with log2."""
    return 1.0 + constants.straggle * math.log2(max(1, cards))


def reduced_seconds(run: Setup, amounts: Work, card: Rated, c: Constants) -> float:
    """Seconds once a step, after the pipeline: tied tables and gradients are reduced, the optimizer runs."""
    tied: float = amounts.tied_bytes * prices(run, card, c)[AMOUNTS.index("pp_bytes")] if amounts.tied_bytes else 0.0
    return tied + once_seconds(run, amounts.dp_bytes, amounts.adam_bytes, card, c)


def prices(run: Setup, card: Rated, c: Constants) -> npt.NDArray[Any]:
    """Seconds of one of each of AMOUNTS in such a run on such a card."""
    rate, memory = _flops(run, card, c), card.mem_bw
    fused = c.wide_attention if card.flops > WIDE else c.attention
    if run.attention_kernel == 1 and card.flops <= WIDE:
        fused = fused * c.first_flash  # on later cards the second one, made for these, gains nothing (arXiv 2407.08608)
    elif run.attention_kernel == 3:
        fused = fused * c.third_flash
    inside = _inside(run, card, c, run.tp)
    tp = inside if run.tp <= run.cards_per_host else between(run, c, run.cards_per_host)
    hidden_tp = c.unhidden if run.async_tp or run.overlap_tp else 1.0
    passes = (c.fused if run.compiled else 1.0) * c.pass_bytes / memory
    across = run.tp * run.cp * run.pp > run.cards_per_host
    pp = between(run, c, 1) if across and run.link else inside
    cp = inside if run.tp * run.cp <= run.cards_per_host else between(run, c, 1)
    experts, abroad = 1 / _inside(run, card, c, run.ep), _abroad(run)
    messages = c.unhidden if run.interleave > 1 and run.overlap_dp else 1.0  # sent while other chunks are computed
    each = [
        1 / rate, 1 / (rate * c.narrow), c.matmul / (rate * fused) if run.flash else 1 / rate,
        c.matmul_bytes / memory, passes, c.eager_bytes / memory, c.score_bytes / memory, hidden_tp / tp,
        c.unhidden / tp, hidden_tp * c.alpha_s, messages / pp,
        c.unhidden / cp, np.maximum(experts, abroad / between(run, c, 1)) if abroad else experts,
        c.kernel_s * (c.fused if run.compiled else 1.0),
    ]  # fmt: skip
    found = np.array(each if np.ndim(rate) == 0 else np.broadcast_arrays(*each))
    found[AMOUNTS.index("matmul_bytes") :] *= c.others.get(card.name, 1.0)
    return found


def once_seconds(run: Setup, dp_bytes: float, adam_bytes: float, card: Rated, c: Constants) -> float:
    """Seconds of what happens once a step: gradients reduced over data-parallel cards, the optimizer."""
    reduced = dp_bytes / _group(run, card, c, run.dp * run.cp) * (c.contended if run.overlap_dp else 1.0)
    return c.others.get(card.name, 1.0) * (reduced + adam_bytes / card.mem_bw)


def _abroad(run: Setup) -> float:
    """Share of what a card sends to experts that leaves its host.

    A token goes once to each host that has any of its experts, whose links then carry it to all of them there.
    """
    hosts = run.ep * (1 if run.seq_parallel else run.tp) / run.cards_per_host
    if run.experts is None or run.ep == 1 or hosts <= 1:
        return 0.0
    reached = (hosts - 1) * (1 - (1 - 1 / hosts) ** run.experts.used)
    return float(reached / (run.experts.used * (run.ep - 1) / run.ep))


def _flops(run: Setup, card: Rated, c: Constants) -> float:
    """FLOP/s that large matmuls reach: fp32 runs use the tensor cores' 19-bit format at half the rate of 16 bits."""
    power = min(1.0, ((card.watts or FULL_WATTS) / FULL_WATTS) ** 0.5) * c.wide if card.flops > WIDE else 1.0
    return card.flops * power * c.cards.get(card.name, 1.0) * c.matmul * (0.5 if run.precision == "fp32" else 1.0)


def _inside(run: Setup, card: Rated, c: Constants, ranks: int, apart: int = 1) -> float:
    """Bytes/s one way of a card in a collective of `ranks` cards of one host that lie `apart` from each other.

    Cards joined by PCIe cross from socket to socket over one link, which all groups that span the host share.
    """
    if card.link > SHARED_BUS:
        return card.link * c.link
    if ranks * apart <= run.cards_per_host / 2:
        return card.link * c.bus
    share: float = np.minimum(c.bus, c.socket / apart**SHARING)
    return card.link * share


def between(run: Setup, c: Constants, rails: float) -> float:
    """Bytes/s one way between hosts of a group that has `rails` of its ranks on one host."""
    return (run.link or 25e9) * c.network * rails


def _group(run: Setup, card: Rated, c: Constants, ranks: int) -> float:
    """Bytes/s one way of a card in a collective of `ranks` data-parallel cards, which lie `tp` cards apart."""
    inner = max(1, run.cards_per_host // run.tp)
    if ranks <= inner or run.link is None:
        return _inside(run, card, c, ranks, run.tp)
    slower: float = np.minimum(between(run, c, inner), _inside(run, card, c, 2))
    return slower
