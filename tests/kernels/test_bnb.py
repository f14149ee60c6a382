"""Checkpoints of bitsandbytes: its own code as the oracle, and a round trip that changes no bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from provoke import provoke
from test_quantize import model_folder, rewrite

from danlu import families, tensorfile
from danlu.cli.app import main
from danlu.kernels import nf4, q4
from danlu.model import bnb
from danlu.model.load import entry, load, tensor
from danlu.model.mapped import mapped
from danlu.model.quantized import matrices
from danlu.nouns import ModelSpec

SPEC = ModelSpec("llama", 2, 128, 4, 2, 32, 192, 131, 64)
PEER = Path(__file__).parents[2] / ".peers" / "bnb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in bitsandbytes' format, made by our own writer from the floats beside it."""
    model_folder(tmp_path / "model", SPEC)
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "bnb"), "--to", "bnb"]) == 0
    return tmp_path / "bnb"


def test_a_round_trip_changes_no_bit(folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "small")]) == 0
    assert main(["convert", str(tmp_path / "small"), str(tmp_path / "again"), "--to", "bnb"]) == 0
    before, after = (tensorfile.read(each / "model.safetensors") for each in (folder, tmp_path / "again"))
    assert set(before) == set(after)
    assert all(bytes(before[name].buffer) == bytes(after[name].buffer) for name in before)


def test_the_values_are_those_of_nf4_in_the_engine_and_in_the_decoder(folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "small")]) == 0
    weights, decoder = mapped(tmp_path / "small", torch.float32), load(tmp_path / "small")
    floats = dict(load(tmp_path / "model").named_parameters())
    for ours in matrices(SPEC):
        want = nf4.dequantize(nf4.quantize_nf4(floats[ours].detach()))
        assert torch.equal(q4.dequantize(weights[ours]), want)
        assert torch.equal(q4.dequantize(decoder.get_submodule(ours.removesuffix(".weight")).weight), want)


def test_bitsandbytes_reads_ours_and_we_read_its_own(folder, tmp_path, monkeypatch):
    if not PEER.exists():
        pytest.skip("bitsandbytes is not built: danlu bench kernels --peers")
    monkeypatch.setattr(sys, "path", [*sys.path, str(PEER)])
    functional = pytest.importorskip("bitsandbytes").functional
    entries, floats = tensorfile.read(folder / "model.safetensors"), load(tmp_path / "model")
    theirs = {}
    for ours in matrices(SPEC):
        name = families.names(SPEC)[ours]
        weight = floats.get_parameter(ours).detach()
        packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        said = {"": packed} | {f".{key}": part for key, part in state.as_dict(packed=True).items()}
        codes = tensor(entries[name]) != packed  # a tie of two levels is broken in another way now and then
        assert codes.float().mean() < 0.01 and set(said) == set(bnb.PARTS)
        theirs |= {name + end: entry(part) for end, part in said.items()}
        mine = {end: tensor(entries[name + end]).clone() for end in bnb.PARTS}
        for parts in (said, mine):
            held = {name + end: entry(part) for end, part in parts.items()}
            whole = functional.QuantState.from_dict({end[1:]: parts[end] for end in bnb.PARTS if end}, "cpu")
            back = functional.dequantize_4bit(parts[""], whole)
            assert torch.equal(back, q4.dequantize(bnb.matrix(name, tuple(weight.shape), held, folder)))
    rewrite(folder, lambda held: held.update(theirs))
    bnb.read(folder, tmp_path / "small")
    bnb.write(tmp_path / "small", tmp_path / "again")
    again = tensorfile.read(tmp_path / "again" / "model.safetensors")
    for name, each in theirs.items():
        if name.endswith(bnb.STATE):
            assert json.loads(bytes(again[name].buffer)) == json.loads(bytes(each.buffer))
        else:
            assert bytes(again[name].buffer) == bytes(each.buffer), name


@pytest.mark.parametrize("end", bnb.PARTS)
def test_what_is_missing_or_of_another_kind_is_named(folder, tmp_path, end):
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda entries: entries.pop(name + end))
    with provoke("DL-DATA-023" if end in ("", bnb.STATE) else "DL-DATA-041") as caught:
        bnb.read(folder, tmp_path / "small")
    assert name in str(caught.error) and not (tmp_path / "small").exists()


def test_single_quantization_is_refused_by_name(folder, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight" + bnb.STATE
    said = json.loads(bytes(tensorfile.read(folder / "model.safetensors")[name].buffer))
    del said["nested_blocksize"]
    state = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
    rewrite(folder, lambda entries: entries.update({name: entry(state)}))
    with provoke("DL-DATA-021") as caught:
        bnb.read(folder, tmp_path / "small")
    assert "double quantization" in str(caught.error)
