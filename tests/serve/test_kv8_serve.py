"""Serving with keys and values in 8 bits."""

from __future__ import annotations

import queue

import folder as folders
import pytest
import torch
from provoke import provoke

from danlu.kernels import ops
from danlu.serve.asks import Ask, End, Failed, Said
from danlu.serve.open import Settings, open_engine
from danlu.serve.sample import Sampling


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny")
    folders.write(path)
    return path


def say(opened, tokens: list[int], count: int) -> tuple[list[int], int]:
    """The answer's tokens, and how many of the prompt's were found in pages."""
    events: queue.SimpleQueue = queue.SimpleQueue()
    opened.engine.submit(Ask(tuple(tokens), count, Sampling(0.0), ignore_end=True), events.put)
    said: list[int] = []
    while True:
        match events.get(timeout=30):
            case Said(_, pick):
                said.append(pick.token)
            case End() as end:
                return said, end.cached
            case Failed(error):
                raise error


def test_a_found_prefix_in_8_bits_gives_the_same_answer_in_a_quarter_of_the_memory(tiny):
    opened = open_engine(tiny, Settings(card="cpu", kv="int8", kv_bytes=2**20))
    plain = open_engine(tiny, Settings(card="cpu", kv_bytes=2**20))
    opened.engine.start()
    try:
        prompt = [i * 7 % 300 for i in range(100)]
        cold, warm = say(opened, prompt, 12), say(opened, prompt, 12)
        assert cold == (warm[0], 0) and warm[1] >= 96
        stats = opened.engine.stats
        assert stats.kv_bytes == opened.kv_bytes
        assert stats.kv_token_bytes < 0.3 * plain.engine.stats.kv_token_bytes and opened.pages > 3 * plain.pages
    finally:
        opened.engine.stop(0.0)
        opened.engine.join(5.0)


def test_8_bits_without_the_native_engine_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(ops, "find", lambda name: None)
    with provoke("DL-CFG-002") as caught:
        open_engine(tiny, Settings(card="cpu", kv="int8"))
    assert "8 bits" in caught.error.what
