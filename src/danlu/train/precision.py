"""How a rank multiplies: in the element type of its decoder, or in 8-bit floats where the plan asks for them."""

from __future__ import annotations

import torch

from danlu.errors import NoFloat8
from danlu.fleet.driver import Driver, Float8
from danlu.model import fp8
from danlu.model.products import PLAIN, Products
from danlu.nouns import FP8, Card
from danlu.train.job import NOT_FP8


def products(dtype: str, driver: Driver, card: Card, name: str) -> Products:
    """The products of a rank's sub-layers; the card itself is asked, whatever the fleet says of it.

    name  what the rank is called in an error
    Raises NoFloat8 where the plan wants 8 bits on every card and this one has none.
    """
    if dtype not in FP8:
        return PLAIN
    found = driver.fp8(card)
    if isinstance(found, Float8):
        return fp8.Float8(getattr(torch, found.ahead), getattr(torch, found.behind))
    if dtype == "fp8":
        raise NoFloat8(f"{card.name} cannot multiply 8-bit floats", where=name, why=found, fix=NOT_FP8)
    return fp8.Float8(multiply=fp8.emulated) if dtype == "fp8-emulated" else PLAIN


def words(found: Products) -> str:
    """How a rank of a plan in 8 bits multiplies, for its log."""
    if not isinstance(found, fp8.Float8):
        return "products in bf16: the card has no fp8"
    return "products in emulated fp8" if found.multiply is fp8.emulated else "products in fp8"
