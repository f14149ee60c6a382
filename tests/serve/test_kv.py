"""Attention over pages equals attention over whole sequences."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SPEC, decoder

from danlu.model.net import Causal, Meta
from danlu.serve.kv import Paged, Piece, page_bytes
from danlu.serve.pages import PAGE


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([None, 7, 20]), st.integers(0, 10**6))
def test_any_way_to_cut_and_batch_gives_the_same_logits(lengths, window, seed):
    rng = random.Random(seed)
    model = decoder(replace(SPEC, window=window))
    prompts = [[rng.randrange(97) for _ in range(length)] for length in lengths]
    kv = Paged(model.spec, 32, dtype=torch.float32)
    for tensor in (tensor for layer in kv._layers for tensor in layer):
        tensor.fill_(float("nan"))  # whatever is read without having been written shows
    numbers = list(range(32))
    rng.shuffle(numbers)
    tables = [[numbers.pop() for _ in range(-(-length // PAGE))] for length in lengths]
    done = [0] * len(lengths)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    with torch.inference_mode():
        while any(a < b for a, b in zip(done, lengths, strict=True)):
            todo = [i for i in range(len(lengths)) if done[i] < lengths[i] and rng.random() < 0.8]
            rng.shuffle(todo)
            if not todo:
                continue
            stops = {i: min(lengths[i], done[i] + rng.choice([1, 1, 1, 5, 30, 60])) for i in todo}
            pieces = [Piece(tables[i], done[i], stops[i]) for i in todo]
            ids = [token for i in todo for token in prompts[i][done[i] : stops[i]]]
            places = [(i, position) for i in todo for position in range(done[i], stops[i])]
            meta = Meta(torch.tensor([position for _, position in places]))
            logits = model(torch.tensor(ids), kv.at(pieces), meta)
            seen.update(dict(zip(places, logits, strict=True)))
            done = [stops.get(i, done[i]) for i in range(len(lengths))]
        for i, prompt in enumerate(prompts):
            whole = Causal(1, len(prompt))
            want = model(torch.tensor(prompt), whole, whole.meta())
            got = torch.stack([seen[i, position] for position in range(len(prompt))])
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_page_has_the_bytes_it_says():
    kv = Paged(SPEC, 10, dtype=torch.float32)
    held = sum(tensor.nbytes for layer in kv._layers for tensor in layer)
    assert held == 10 * page_bytes(SPEC, torch.float32)
