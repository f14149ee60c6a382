"""What a thread that has slept pays when it goes on: caches, code and clock rate are those of whoever ran meanwhile.

An emulated card sleeps after every instruction, and a card of a pipeline waits for its neighbours, so its instructions
begin after a pause; a loop that is timed without one shows less. The more an instruction touches the more is cold, but
most of it is code: a layer of a hundred kilobytes pays nearly what a whole stage does, so a small layer is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

ROWS, WIDTH, HEAD = 32, 64, 32  # of the layer: 0.3 ms forward, 0.6 ms backward
TIMES = 12
LEAST_S = 1e-7  # what is not seen at all costs this: a rate must be finite


def after(pauses: tuple[float, ...], now: Callable[[], float] = time.thread_time) -> Iterator[tuple[str, int, float]]:
    """(operator, microseconds of the pause, seconds more than without it), for every operator and pause.

    pauses  seconds of sleep. Operators: "wake" a layer's forward, "wake_back" its backward, "wake_one" one product
    Cost: 3 * TIMES * sum(pauses) and 2 ms for every sample.
    """
    begin, instructions = small_layer()
    for pause in pauses:
        more: dict[str, list[float]] = {name: [] for name in instructions}
        for _ in range(TIMES):
            took: list[list[float]] = []
            for length in (0.0, 0.0, pause):  # the first one is still cold from the pause before
                given, one = begin(), list[float]()
                for run in instructions.values():
                    if length:
                        time.sleep(length)
                    start = now()
                    given = run(given)
                    one.append(now() - start)
                took.append(one)
            for name, tight, woken in zip(instructions, *took[1:], strict=True):
                more[name].append(woken - tight)
        for name, each in more.items():
            yield name, round(pause * 1e6), max(LEAST_S, statistics.median(each))


def small_layer() -> tuple[Callable[[], Any], dict[str, Callable[[Any], Any]]]:
    """What the first of the instructions is given, and the instructions, each given what the one before it made."""
    import torch
    import torch.nn.functional as F

    shapes = ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
    weights = [torch.randn(shape).mul_(0.1).requires_grad_() for shape in shapes]
    qkv, o, both, down = weights
    for weight in weights:
        weight.grad = torch.zeros_like(weight)

    def begin() -> Any:
        return torch.randn(ROWS, WIDTH).requires_grad_()

    def forward(x: Any) -> Any:
        h = F.rms_norm(x, (WIDTH,))
        q, k, v = (each.view(1, ROWS, -1, HEAD).transpose(1, 2) for each in F.linear(h, qkv).chunk(3, 1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(ROWS, WIDTH)
        x = x + F.linear(seen, o)
        a, b = F.linear(F.rms_norm(x, (WIDTH,)), both).chunk(2, 1)
        return x + F.linear(F.silu(a) * b, down)

    def backward(y: Any) -> Any:
        y.backward(y.detach())
        return y.detach()

    def product(y: Any) -> Any:
        assert o.grad is not None
        return o.grad.addmm_(y.t(), y)

    return begin, {"wake": forward, "wake_back": backward, "wake_one": product}
