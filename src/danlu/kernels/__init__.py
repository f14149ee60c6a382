"""The operator library: one name per operator, the best implementation this card has behind it."""

from danlu.kernels import ops


def describe() -> str:
    """One line for people: what runs for every operator, and why."""
    return "; ".join(f"{c.operator}: {c.isa} ({c.why})" for c in ops.describe())
