"""A torch loop gets the same global order from any number of ranks and workers, resumed at any step."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch
from provoke import provoke
from torch.utils.data import DataLoader

from danlu.data import bpe, encode
from danlu.data.dataset import TokenBatches
from danlu.data.document import Document
from danlu.data.loader import Loader

DOCUMENTS = [Document(f"doc {n}", f"Document {n} counts {n * n} and {n * 31 % 97}.\n" * 3) for n in range(120)]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = bpe.train((each.text for each in DOCUMENTS), 320)
    held = encode.held_out({each.key: len(each.text) for each in DOCUMENTS})
    encode.encode(DOCUMENTS, held, tokenizer, folder, {}, len(DOCUMENTS), lambda words, share: None)
    return folder


def batches(tokens, count: int, *, workers: int = 0, ranks: int = 1, state=None) -> list[torch.Tensor]:
    """What `ranks` ranks with so many workers each give, put together."""
    parts = []
    for rank in range(ranks):
        data = TokenBatches(tokens, seq=16, batch=4, seed=1, rank=rank, ranks=ranks)
        if state:
            data.load_state_dict(state)
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        parts.append(list(islice(loader, count)))
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


@pytest.mark.procs
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (3, 1), (2, 2), (0, 4)])
def test_the_order_is_the_loaders_with_any_workers_and_ranks(tokens, workers, ranks):
    load = Loader(tokens, seq=16, batch=4, seed=1)
    state = json.loads(json.dumps(TokenBatches(tokens, seq=16, batch=4, seed=1).state_dict(5)))
    assert len(json.dumps(state)) < 1024
    found = batches(tokens, 7, workers=workers, ranks=ranks, state=state)
    assert all(np.array_equal(load.batch_at(5 + n), each.numpy()) for n, each in enumerate(found))


def test_another_order_and_a_split_that_does_not_divide_are_refused(tokens):
    state = TokenBatches(tokens, seq=16, batch=4, seed=1).state_dict(3)
    with provoke("DL-DATA-067"):
        TokenBatches(tokens, seq=16, batch=4, seed=2).load_state_dict(state)
    with provoke("DL-CFG-002"):
        TokenBatches(tokens, seq=16, batch=4, seed=1, ranks=3)
