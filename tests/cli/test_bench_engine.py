"""The parts of `danlu bench engine` that are not measurements."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from provoke import provoke

from danlu.cli.bench import load, run
from danlu.model.export import export
from danlu.model.net import Decoder, init
from danlu.model.score import apart
from danlu.nouns import ModelSpec

DENSE = ModelSpec("llama", 2, 64, 4, 2, 16, 96, 128, 64)


def test_a_random_model_decodes_and_says_what_a_token_reads():
    model = load("parts/random_model").Model(DENSE, 1, tokens=32, sequences=2)
    assert model.decode(2, 2) > 0 and model.prefill(20) > 0
    assert model.weights["layers.1.mlp.up.weight"] is model.weights["layers.0.mlp.up.weight"]
    read = [name for name in model.runner.program.weights if name != "embed.weight"]
    assert model.token_bytes == sum(model.weights[name].nbytes for name in read)


def test_a_gguf_file_has_the_bytes_that_its_header_promises(tmp_path):
    peer = load("peers/llama_bench")
    peer.write(tmp_path / "small.gguf", DENSE, peer.Q4_0)
    data = (tmp_path / "small.gguf").read_bytes()
    magic, version, tensors, values = struct.unpack_from("<4sIQQ", data)
    assert (magic, version, tensors) == (b"GGUF", 3, 3 + 9 * DENSE.layers) and values > 10
    matrices = 2 * 128 * 64 + 2 * (64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 96)
    floats = 5 * 64 * 4
    assert len(data) % 32 == 0 and 0 < len(data) - matrices * 18 // 32 - floats < 4096


def test_a_shape_or_area_that_is_not_there_is_named():
    import argparse

    said = {"json": None, "rounds": 1, "quick": False, "peers": False}
    with provoke("DL-CFG-004"):
        run(argparse.Namespace(area="engine", model="no-such", **said))
    with provoke("DL-CFG-002"):
        run(argparse.Namespace(area="data", model="llama-1.1b", **said))
    with provoke("DL-CFG-004") as caught:
        run(argparse.Namespace(area="kernels", model=None, only="no-such", **said))
    assert "quality" in str(caught.error)


def test_a_folder_in_the_native_engine_is_scored_as_its_decoder(tmp_path):
    made = Decoder(DENSE).requires_grad_(False)
    init(made, 3)
    export(dict(made.named_parameters()), DENSE, tmp_path / "model")
    text = np.random.default_rng(0).integers(0, DENSE.vocab, (3, 30))
    native = load("parts/native_decoder").NativeDecoder(tmp_path / "model", 3, 29, "fp32")
    found = apart(made, native, [text])
    assert abs(found.kl) < 1e-4 and found.second == pytest.approx(found.first, rel=1e-3)


@pytest.mark.parametrize("shape", ["llama-1.1b", "yuan-102b", "qwen3-30b-a3b"])
def test_shapes_have_the_parameters_of_their_names(shape):
    billions = {"llama-1.1b": 1.1, "yuan-102b": 102.6, "qwen3-30b-a3b": 30.5}[shape]
    assert load("parts/random_model").SHAPES[shape].params / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_forecast_for_sockets_counts_the_sums_of_every_layer():
    engine = load("engine")
    token = {"linear": 1.0, "attention": 0.2, "convolution": 0.0, "reduction": 0.0, "other": 0.1}
    spec = load("parts/random_model").SHAPES["yuan-102b"]
    there, how = engine.sockets(spec, token, engine.SERVER[1] / 10)
    assert there["linear"] == pytest.approx(0.1) and set(there) == set(token)
    if load("kernels/reduce").possible():
        assert f"{3 * spec.layers} sums of 32 KiB" in how and 0 < there["reduction"] < 10
