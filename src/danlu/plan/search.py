"""Which units go to which card."""

from __future__ import annotations

from danlu.nouns import Fleet, ModelSpec, Plan, Stage


def even(spec: ModelSpec, fleet: Fleet, *, micro_batch: int, micro_batches: int, seq: int, dtype: str = "fp32") -> Plan:
    """The plan of a system that takes all cards for equal: whole layers, as many on each card as on the next.

    Left-over layers go to the first cards; embed and head ride on the first and the last stage. A card without a layer
    is left out.
    """
    cards = fleet.cards[: spec.layers]
    per_layer = len(spec.recipe)
    base, extra = divmod(spec.layers, len(cards))
    stages, at = [], 0
    for number, card in enumerate(cards):
        units = per_layer * (base + (number < extra)) + (number == 0) + (number == len(cards) - 1)
        stages.append(Stage((card.name,), at, at + units))
        at += units
    return Plan(spec, fleet, tuple(stages), "1f1b", micro_batches, micro_batch, seq, dtype)
