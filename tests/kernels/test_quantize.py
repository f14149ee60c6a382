"""A quantized folder: written whole, read back to the same weights, refused by name when it is not what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import families, tensorfile
from danlu.errors import DanluError
from danlu.kernels import nf4
from danlu.model.export import export
from danlu.model.load import load, tensor
from danlu.model.net import Causal, Decoder, init
from danlu.model.quantize import quantize
from danlu.model.quantized import Nf4Linear, matrices
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

torch.set_num_threads(1)
SPECS = {
    "llama": ModelSpec("llama", 2, 96, 4, 2, 24, 160, 131, 64),
    "llama-tied": ModelSpec("llama", 2, 128, 4, 4, 32, 192, 131, 64, tied=True),
    "qwen2": ModelSpec("qwen2", 2, 64, 4, 2, 16, 100, 131, 64, qkv_bias=True),
    "qwen3": ModelSpec("qwen3", 2, 64, 4, 2, 20, 100, 131, 64, qk_norm=True),
}


def model_folder(folder: Path, spec: ModelSpec) -> Decoder:
    decoder = Decoder(spec)
    init(decoder, 7)
    with torch.no_grad():
        for parameter in decoder.parameters():  # so that no vector is the neutral one
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.2, 0.2, len(parameter)))
    export(dict(decoder.named_parameters()), spec, folder)
    (folder / "tokenizer.json").write_text("{}")
    return decoder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A quantized folder of two layers, and its model beside it."""
    model_folder(tmp_path / "model", SPECS["llama"])
    quantize(tmp_path / "model", tmp_path / "small")
    return tmp_path / "small"


def rewrite(folder: Path, change) -> None:
    """Write the folder's tensors again after `change(entries)`."""
    path = folder / "model.safetensors"
    entries = {name: Entry(e.dtype, e.shape, bytes(e.buffer)) for name, e in tensorfile.read(path).items()}
    change(entries)
    tensorfile.write(path, entries)


@pytest.mark.parametrize("name", SPECS)
def test_a_quantized_folder_computes_with_the_quantized_weights(tmp_path, name):
    spec = SPECS[name]
    whole = model_folder(tmp_path / "model", spec)
    quantize(tmp_path / "model", tmp_path / "small")
    decoder = load(tmp_path / "small")
    with torch.no_grad():
        for ours, parameter in whole.named_parameters():
            if ours in matrices(spec):
                parameter.copy_(nf4.dequantize(nf4.quantize_nf4(parameter)))
            elif ours in ("embed.weight", "head.weight"):
                parameter.copy_(parameter.bfloat16())
        ids, state = torch.arange(30) % spec.vocab, Causal(2, 15)
        there, here = (each(ids, state, state.meta()) for each in (whole, decoder))
    assert sum(isinstance(module, Nf4Linear) for module in decoder.modules()) == len(matrices(spec)) == 14
    assert (there - here).norm() / there.norm() < 1e-3
    assert (tmp_path / "small" / "tokenizer.json").read_text() == "{}"


def test_the_report_counts_the_bytes_of_the_files(tmp_path):
    spec = replace(SPECS["llama"], hidden=256, ffn=512, head_dim=64)
    model_folder(tmp_path / "model", spec)
    seen = []
    report = quantize(tmp_path / "model", tmp_path / "small", lambda name, done, size: seen.append((done, size)))
    assert seen[-1] == (report.bytes_before, report.bytes_before) and len(seen) == len(families.names(spec))
    assert 4.12 < report.bits_per_weight < 4.14 and report.sqnr_db > 20.5
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    assert 0 < size - report.bytes_after < 10_000  # the header
    assert report.file_bits_per_weight == pytest.approx(report.bytes_after * 8 / spec.params)


def test_a_part_of_the_units_loads_alone(small):
    whole, part = load(small), load(small, 2, 4)
    assert part.units == ("layers.0.mlp", "layers.1.attn")
    q, same = (decoder.get_submodule("layers.1.attn.q").weight for decoder in (whole, part))
    assert torch.equal(q.packed, same.packed)


def test_another_dtype_turns_activations_not_scales(small):
    decoder = load(small, dtype=torch.bfloat16).to(torch.float32).to(torch.bfloat16)
    state = Causal(1, 5)
    with torch.no_grad():
        assert decoder(torch.arange(5), state, state.meta()).dtype == torch.bfloat16
    assert decoder.get_submodule("layers.0.attn.q").weight.scale.dtype == torch.float32


def test_weights_that_are_not_finite_are_named(tmp_path):
    model_folder(tmp_path / "model", SPECS["llama"])
    bad = torch.full((160, 96), float("nan"))
    rewrite(tmp_path / "model", lambda e: e.update({
        "model.layers.1.mlp.up_proj.weight": Entry("F32", (160, 96), bad.numpy().tobytes())}))
    with provoke("DL-DATA-040") as caught:
        quantize(tmp_path / "model", tmp_path / "small")
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.error) and "15360 weights of 15360" in str(caught.error)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_quantized_folder_is_not_quantized_again(small, tmp_path):
    with provoke("DL-CFG-002"):
        quantize(small, tmp_path / "smaller")


def test_a_folder_that_is_no_model_is_not_replaced(small, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("keep me")
    with provoke("DL-CFG-002"):
        quantize(tmp_path / "model", tmp_path / "notes")
    assert (tmp_path / "notes" / "one.txt").read_text() == "keep me"
    quantize(tmp_path / "model", small)  # an older model folder is


@pytest.mark.parametrize("version", [2, "1", None, True, []])
def test_an_unknown_version_is_refused(small, version):
    path = small / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"danlu_quant": version}))
    with provoke("DL-DATA-062"):
        load(small)


@pytest.mark.parametrize("end", ["", ".absmax", ".scale", ".offset"])
def test_a_missing_or_misshapen_part_is_named(small, end):
    name = "model.layers.1.self_attn.k_proj.weight" + end
    kept = tensorfile.read(small / "model.safetensors")[name]
    rewrite(small, lambda entries: entries.pop(name))
    with provoke("DL-DATA-041") as caught:
        load(small)
    assert f"{name} is missing" in str(caught.error)
    rewrite(small, lambda entries: entries.update({name: Entry(kept.dtype, (1, *kept.shape), bytes(kept.buffer))}))
    with provoke("DL-DATA-041") as caught:
        load(small)
    assert f"{name} is {kept.dtype}" in str(caught.error)


def test_a_scale_that_is_not_finite_is_refused(small):
    name = "model.layers.0.mlp.gate_proj.weight.offset"
    inf = torch.tensor(float("inf")).numpy().tobytes()
    rewrite(small, lambda entries: entries.update({name: Entry("F32", (), inf)}))
    with provoke("DL-DATA-041"):
        load(small)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_folder_gives_our_error_or_finite_weights(tmp_path_factory, data):
    """Flip or cut bytes anywhere: never a crash, never a read beyond the file."""
    folder = tmp_path_factory.mktemp("damaged")
    model_folder(folder / "model", replace(SPECS["llama"], layers=1))
    quantize(folder / "model", folder / "small")
    path = folder / "small" / "model.safetensors"
    blob = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 3000), st.integers(0, len(blob) - 1)))
        blob[at % len(blob)] = data.draw(st.integers(0, 255))
    path.write_bytes(blob[: data.draw(st.one_of(st.just(len(blob)), st.integers(0, len(blob))))])
    try:
        decoder = load(folder / "small")
    except DanluError as error:
        assert error.code.startswith("DL-DATA")
        return
    state = Causal(1, 3)
    with torch.no_grad():
        assert decoder(torch.arange(3), state, state.meta()).shape == (3, 131)


def test_quantizing_again_gives_the_same_bytes(small, tmp_path):
    quantize(tmp_path / "model", tmp_path / "again")
    assert (small / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    packed = tensor(tensorfile.read(small / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    assert packed.shape == (160, 64)  # 96 columns are two blocks of 64


@pytest.mark.procs
def test_a_killed_quantize_leaves_the_older_folder(small, tmp_path):
    before = (small / "model.safetensors").read_bytes()
    code = (
        "import os, signal, sys; from pathlib import Path; from danlu.model.quantize import quantize\n"
        "end = lambda name, done, size: done > size / 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), end)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "model"), str(small)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert (small / "model.safetensors").read_bytes() == before and os.path.exists(small / "config.json")
