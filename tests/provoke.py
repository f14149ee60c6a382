"""`with provoke("DL-...")`: the block must raise that entry of the catalogue, with every field filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from danlu.errors import DanluError


class Caught:
    """Holds the error after the block."""

    error: DanluError


@contextmanager
def provoke(code: str) -> Iterator[Caught]:
    """Run the block; fail unless it raises the catalogue error `code` with what, why and fix."""
    caught = Caught()
    try:
        yield caught
    except DanluError as error:
        assert error.code == code, f"expected {code}, met {error}"
        assert error.what and error.why and error.fix, f"{code} has an empty field"
        caught.error = error
    else:
        raise AssertionError(f"{code} was not raised")
