"""A quantized folder: written whole, read back to the same weights, refused by name when it is not what it says."""

from __future__ import annotations

import json
import os
import shutil
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
from danlu.kernels import nf4, q4
from danlu.model.export import export
from danlu.model.load import entry, load, tensor
from danlu.model.mapped import mapped
from danlu.model.net import Causal, Decoder, init
from danlu.model.quantize import BEST, Recipe, quantize, small
from danlu.model.quantized import PARTS_1, Q4Linear, matrices
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
def folder(tmp_path: Path) -> Path:
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
                parameter.copy_(q4.dequantize(small(ours, parameter, Recipe(), 4)[0]))
            elif ours in ("embed.weight", "head.weight"):
                parameter.copy_(q4.dequantize(small(ours, parameter, Recipe(), 8)[0]))
        ids, state = torch.arange(30) % spec.vocab, Causal(2, 15)
        there, here = (each(ids, state, state.meta()) for each in (whole, decoder))
    assert sum(isinstance(module, Q4Linear) for module in decoder.modules()) == len(matrices(spec)) == 14
    assert (there - here).norm() / there.norm() < 1e-3
    assert (tmp_path / "small" / "tokenizer.json").read_text() == "{}"


def test_the_report_counts_the_bytes_of_the_files(tmp_path):
    spec = replace(SPECS["llama"], hidden=256, ffn=512, head_dim=64)
    model_folder(tmp_path / "model", spec)
    seen = []
    report = quantize(tmp_path / "model", tmp_path / "small", lambda name, done, size: seen.append((done, size)))
    assert seen[-1] == (report.bytes_before, report.bytes_before) and len(seen) == len(families.names(spec))
    assert 4.13 < report.bits_per_weight < 4.15 and report.sqnr_db > 20.5
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    assert 0 < size - report.bytes_after < 10_000  # the header
    assert report.file_bits_per_weight == pytest.approx(report.bytes_after * 8 / spec.params)


def test_a_part_of_the_units_loads_alone(folder):
    whole, part = load(folder), load(folder, 2, 4)
    assert part.units == ("layers.0.mlp", "layers.1.attn")
    q, same = (decoder.get_submodule("layers.1.attn.q").weight for decoder in (whole, part))
    assert torch.equal(q.codes, same.codes)


def test_another_dtype_turns_activations_not_scales(folder):
    decoder = load(folder, dtype=torch.bfloat16).to(torch.float32).to(torch.bfloat16)
    state = Causal(1, 5)
    with torch.no_grad():
        assert decoder(torch.arange(5), state, state.meta()).dtype == torch.bfloat16
    assert decoder.get_submodule("layers.0.attn.q").weight.scale.dtype == torch.float32


def test_weights_that_are_not_finite_are_named(tmp_path):
    model_folder(tmp_path / "model", SPECS["llama"])
    bad = torch.full((160, 96), float("nan"))
    rewrite(
        tmp_path / "model",
        lambda e: e.update({"model.layers.1.mlp.up_proj.weight": Entry("F32", (160, 96), bad.numpy().tobytes())}),
    )
    with provoke("DL-DATA-040") as caught:
        quantize(tmp_path / "model", tmp_path / "small")
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.error) and "15360 weights of 15360" in str(caught.error)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_quantized_folder_is_not_quantized_again(folder, tmp_path):
    with provoke("DL-CFG-002"):
        quantize(folder, tmp_path / "smaller")


def test_a_folder_that_is_no_model_is_not_replaced(folder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("keep me")
    with provoke("DL-CFG-002"):
        quantize(tmp_path / "model", tmp_path / "notes")
    assert (tmp_path / "notes" / "one.txt").read_text() == "keep me"
    quantize(tmp_path / "model", folder)  # what danlu wrote itself is
    assert (folder / "config.json").exists()


def test_a_model_of_somebody_else_is_never_replaced(folder, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(tmp_path / "model", theirs, ignore=shutil.ignore_patterns(".danlu"))
    for out, why in ((theirs, "only copy"), (tmp_path / "model", "replace those")):
        weights = (out / "model.safetensors").read_bytes()
        with provoke("DL-CFG-002") as caught:
            quantize(tmp_path / "model", out)
        assert why in caught.error.why and (out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("version", [3, "1", None, True, [], 0])
def test_an_unknown_version_is_refused(folder, version):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"danlu_quant": version}))
    with provoke("DL-DATA-062"):
        load(folder)


@pytest.mark.parametrize("end", ["", ".absmax", ".scale", ".levels"])
def test_a_missing_or_misshapen_part_is_named(folder, end):
    name = "model.layers.1.self_attn.k_proj.weight" + end
    kept = tensorfile.read(folder / "model.safetensors")[name]
    rewrite(folder, lambda entries: entries.pop(name))
    with provoke("DL-DATA-041") as caught:
        load(folder)
    assert f"{name} is missing" in str(caught.error)
    rewrite(folder, lambda entries: entries.update({name: Entry(kept.dtype, (1, *kept.shape), bytes(kept.buffer))}))
    with provoke("DL-DATA-041") as caught:
        load(folder)
    assert f"{name} is {kept.dtype}" in str(caught.error)


def test_a_scale_that_is_not_finite_is_refused(folder):
    name = "model.layers.0.mlp.gate_proj.weight.levels"
    inf = torch.full((16,), float("inf")).numpy().tobytes()
    rewrite(folder, lambda entries: entries.update({name: Entry("F32", (16,), inf)}))
    with provoke("DL-DATA-041"):
        load(folder)


@settings(max_examples=25, deadline=None)
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


def test_quantizing_again_gives_the_same_bytes(folder, tmp_path):
    quantize(tmp_path / "model", tmp_path / "again")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    codes = tensor(tensorfile.read(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    assert codes.shape == (10, 2, 512)  # 160 rows are ten groups of 16, 96 columns two blocks of 64


@pytest.mark.procs
def test_a_killed_quantize_leaves_the_older_folder(folder, tmp_path):
    before = (folder / "model.safetensors").read_bytes()
    code = (
        "import os, signal, sys; from pathlib import Path; from danlu.model.quantize import quantize\n"
        "end = lambda name, done, size: done > size / 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), end)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "model"), str(folder)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert (folder / "model.safetensors").read_bytes() == before and os.path.exists(folder / "config.json")


def test_a_folder_of_version_1_means_what_it_meant(tmp_path):
    whole, names = model_folder(tmp_path / "model", SPECS["llama"]), families.names(SPECS["llama"])
    old = {ours: nf4.quantize_nf4(dict(whole.named_parameters())[ours]) for ours in matrices(whole.spec)}

    def change(entries: dict[str, Entry]) -> None:
        for ours, matrix in old.items():
            entries |= {names[ours] + end: entry(getattr(matrix, field)) for field, end in PARTS_1.items()}

    rewrite(tmp_path / "model", change)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"danlu_quant": 1}))
    decoder, weights = load(tmp_path / "model"), mapped(tmp_path / "model", torch.float32)
    for ours, matrix in old.items():
        loaded = decoder.get_submodule(ours.removesuffix(".weight")).weight
        assert torch.equal(q4.dequantize(loaded), nf4.dequantize(matrix))
        assert torch.equal(q4.dequantize(weights[ours]), nf4.dequantize(matrix))


def test_8_bits_leave_a_hundredth_of_the_noise_and_lie_where_the_file_is(tmp_path):
    whole = model_folder(tmp_path / "model", replace(SPECS["llama"], hidden=256, ffn=512, head_dim=64))
    reports = [quantize(tmp_path / "model", tmp_path / str(i), recipe=Recipe(eight=eight))
               for i, eight in enumerate([(), ("mlp.down",), ("",)])]  # fmt: skip
    assert reports[0].sqnr_db < reports[1].sqnr_db and reports[2].sqnr_db > 40
    assert 4.1 < reports[0].bits_per_weight < reports[1].bits_per_weight < reports[2].bits_per_weight < 8.4
    for ours, weight in mapped(tmp_path / "2", torch.float32).items():
        if isinstance(weight, q4.Q4):
            exact = dict(whole.named_parameters())[ours]
            assert (q4.dequantize(weight) - exact).norm() < 0.01 * exact.norm()
            assert all(part.codes.data_ptr() % 64 == 0 for part in (weight, weight.rest))


def test_the_best_codebook_is_taken_matrix_by_matrix(tmp_path):
    model_folder(tmp_path / "model", SPECS["llama"])
    least = quantize(tmp_path / "model", tmp_path / "best", recipe=Recipe(BEST, search=True))
    others = [quantize(tmp_path / "model", tmp_path / "one", recipe=Recipe(name, search=True)).sqnr_db
              for name in ("nf4", "fp4", "iq4nl", "fitted")]  # fmt: skip
    assert least.sqnr_db >= max(others) and sum(least.codebooks.values()) == 16


def test_what_is_not_there_is_refused_before_anything_is_written(tmp_path):
    model_folder(tmp_path / "model", SPECS["llama"])
    with provoke("DL-CFG-002") as caught:
        quantize(tmp_path / "model", tmp_path / "out", recipe=Recipe(eight=("mlp.downs",)))
    assert "mlp.down," in str(caught.error)
    with provoke("DL-CFG-004"):
        quantize(tmp_path / "model", tmp_path / "out", recipe=Recipe("nf5"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_matrix_is_in_memory_at_a_time(tmp_path):
    spec = ModelSpec("llama", 8, 512, 8, 8, 64, 512, 131, 64)
    model_folder(tmp_path / "model", spec)
    seen = []
    quantize(tmp_path / "model", tmp_path / "small", lambda *_: seen.append(anonymous()))
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size > 50e6 and max(seen) - seen[0] < size / 4


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
