"""What sharing states over replicas costs (Rajbhandari et al., ZeRO, arXiv 1910.02054): seconds of one parameter.

Level 1 shares the optimizer's states: gradients are reduced and weights gathered once a step. Level 2 shares gradients
too: they are reduced after every micro-batch, for no card has room to sum them. Level 3 shares weights too: they are
gathered before each use, forward and backward. Messages of a micro-batch run beside the unit's own work, and a share
of them still costs time (Constants.contended).
"""

from __future__ import annotations

from dataclasses import replace

from danlu.nouns import Group, ModelSpec
from danlu.plan.groups.unit_cost import Stack, Way, setup_of
from danlu.plan.stated.setup import Setup
from danlu.plan.stated.stack_time import Constants, Rated, once_seconds

WEIGHT, GRADIENT = 2.0, 4.0  # bytes of one parameter in a message
STATES = 12.0  # bytes of fp32 master weight, mean and variance
COUNT = 1e9  # parameters that are asked for at once
LAYERS = 2  # whose gathered weights and unshared gradients are on a card at a time: one runs, the next arrives
PASSING = {1: 0.0, 2: GRADIENT, 3: WEIGHT + GRADIENT}  # bytes of a parameter that lie there for a moment


def once(
    spec: ModelSpec, card: Rated, way: Way, ranks: int, *, seq: int, stack: Stack, constants: Constants
) -> float:  # fmt: skip
    """Seconds once a step of one parameter on a card: messages, optimizer."""
    run = _shared_by(ranks, setup_of(spec, card, way, seq, stack), way, stack)
    everyone = run.dp * run.cp
    sent = {1: WEIGHT + GRADIENT, 2: WEIGHT, 3: 0.0}[way.zero] * (everyone - 1) / everyone
    return once_seconds(run, COUNT * sent, COUNT * 34.0 / everyone, card, constants) / COUNT


def _shared_by(ranks: int, run: Setup, way: Way, stack: Stack) -> Setup:
    """The run with so many pipelines; on cards of several groups half of a gradient's ranks are on a host at most."""
    run = replace(run, dp=ranks, cards=ranks * way.cards)
    if not stack.apart or ranks == 1:
        return run
    return replace(run, cards_per_host=min(run.cards_per_host, way.tp * (ranks * way.cp // 2)))


def away(group: Group, way: Way, ranks: int, held: float, room: float) -> tuple[float, float]:
    """(bytes of a card, seconds once a step) of one parameter whose optimizer states lie where `way.offload` says.

    held   bytes of a card if they did not; room  bytes that a card has
    States come and go once a step, one after the other. Where host or disk ends first, a parameter counts as so many
    more bytes of the card that no card can have more of them than the place holds.
    """
    states = STATES / (ranks * way.cp)
    link, place = ((group.host_link, group.host_mem_bytes) if way.offload == "host" else
                   (group.disk_link, group.disk_bytes))  # fmt: skip
    return max(held - states, states * room / place), 2 * states / link


def spilled(group: Group, kept: float, room: float) -> tuple[float, float]:
    """(bytes of a card, seconds each way) of `kept` bytes of activations that wait in the host's memory.

    They go while the forward of the next unit runs and come back while the backward of the one behind does (vDNN, Rhu
    et al., arXiv 1602.08124, section 3), at bytes over the link's rate. As in `away`, they count as so many bytes of
    the card that the host is never asked for more than it has.
    """
    return kept * room / group.host_mem_bytes, kept / group.host_link


def each(
    spec: ModelSpec, card: Rated, way: Way, ranks: int, *, seq: int, stack: Stack, constants: Constants
) -> tuple[float, float]:  # fmt: skip
    """Seconds of a micro-batch's messages of one parameter, (forward, backward), if nothing ran beside them."""
    if way.zero == 1:
        return 0.0, 0.0
    run = replace(_shared_by(ranks, setup_of(spec, card, way, seq, stack), way, stack), overlap_dp=False)
    everyone = run.dp * run.cp
    a_byte = once_seconds(run, COUNT * (everyone - 1) / everyone, 0.0, card, constants) / COUNT
    gathered = WEIGHT if way.zero == 3 else 0.0
    return gathered * a_byte, (gathered + GRADIENT) * a_byte
