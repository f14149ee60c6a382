"""GGUF files: the numbers are ggml's, models go in and out unchanged, and a damaged file is refused by name."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from test_model_load import MODELS, reference, same, tokenizer
from tokenizers import Tokenizer as Hf
from tokenizers import models, trainers

from danlu import ggml, gguf
from danlu.cli.app import main
from danlu.errors import BadGguf, BadModel, UnsupportedModel, WrongWeights
from danlu.model import gguf as model
from danlu.model import gguf_tokens
from danlu.model.load import load, parameters, spec_of

theirs = pytest.importorskip("gguf")


@pytest.mark.parametrize("kind", ggml.BLOCKS)
def test_blocks_are_what_ggml_says(kind):
    rng = np.random.default_rng(1)
    block = ggml.BLOCKS[kind]
    if kind in ("F32", "F16", "BF16"):
        raw = ggml.encoded(kind, rng.normal(size=(40, 64)).astype(np.float32)).reshape(40, -1)
    else:
        raw = rng.integers(0, 256, (64, block.bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = theirs.quants.dequantize(raw, theirs.GGMLQuantizationType[kind]).reshape(-1)
        np.testing.assert_array_equal(ggml.floats(kind, raw), expected)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_weights_are_written_as_ggml_does(kind):
    weights = np.random.default_rng(2).normal(size=(7, 96)).astype(np.float32)
    weights[3, 32:64] = 0
    expected = theirs.quants.quantize(weights, theirs.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(ggml.encoded(kind, weights), expected.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("case", MODELS)
def test_a_model_goes_through_a_file_unchanged(case, tmp_path):
    reference_model = reference(*MODELS[case])
    reference_model.save_pretrained(tmp_path / "in")
    spec, tensors = parameters(tmp_path / "in")
    model.write(tensors, spec, tmp_path / "model.gguf", "F32")
    for each in theirs.GGUFReader(tmp_path / "model.gguf").tensors:  # another reader finds the same bytes
        mine = gguf.read(tmp_path / "model.gguf").tensors[each.name]
        assert bytes(mine.buffer) == each.data.tobytes() and list(mine.shape) == each.shape.tolist()[::-1]
    assert main(["convert", str(tmp_path / "model.gguf"), str(tmp_path / "out")]) == 0
    same(load(tmp_path / "out"), reference_model)
    assert spec_of(tmp_path / "out") == spec


def test_q_and_k_of_llama_turn_as_llama_cpp_wants_them(tmp_path):
    whole = torch.arange(24.0).view(12, 2)  # two heads of 6 rows
    found = model.pairs(whole, 2)
    assert found[:6, 0].tolist() == [0, 6, 2, 8, 4, 10] and model.halves(found, 2).equal(whole)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_convert_writes_what_llama_cpp_keeps(kind, tmp_path, capsys):
    reference("llama", {"hidden_size": 64, "vocab_size": 257}).save_pretrained(tmp_path / "in")
    tokenizer(tmp_path / "in")
    before = json.loads((tmp_path / "in" / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps(before | {"eos_token_id": 0}))
    (tmp_path / "in" / "generation_config.json").unlink()
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "m.gguf"), "--to", kind]) == 0
    reader = theirs.GGUFReader(tmp_path / "m.gguf")
    assert {each.tensor_type.name for each in reader.tensors} == {"F32", "F16", kind.upper()}  # F16: a row cuts a block
    assert reader.get_field("tokenizer.ggml.model").contents() == "gpt2"
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out"), "--to", "fp32"]) == 0
    for name, value in parameters(tmp_path / "in")[1].items():
        error = (parameters(tmp_path / "out")[1][name] - value).abs().max() / value.abs().max()
        assert error < (6e-3 if kind == "q8_0" else 5e-4)
    text = "a b  é 12\n"
    mine, was = (Hf.from_file(str(tmp_path / each / "tokenizer.json")) for each in ("out", "in"))
    assert mine.encode(text).ids == was.encode(text).ids
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 0


def test_a_sentence_piece_tokenizer_comes_from_its_scores(tmp_path):
    trained = Hf(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    text = ["the\u2581cat\u2581sat\u2581on\u2581the\u2581mat", "\u2581that\u2581hat"] * 9
    trained.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False))  # fmt: skip
    made = json.loads(trained.to_str())["model"]
    words = sorted(made["vocab"], key=made["vocab"].get)
    rank = {"".join(pair): -float(at) for at, pair in enumerate(made["merges"])}
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(words) - 259)
    said = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": np.array(kinds),
        "tokenizer.ggml.scores": np.array([rank.get(word, -1e4) for word in words], np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    assert gguf_tokens.write(said, tmp_path, "test")
    mine = Hf.from_file(str(tmp_path / "tokenizer.json"))
    assert mine.encode("the cat sat").ids == [1, *trained.encode("\u2581the\u2581cat\u2581sat").ids]
    assert mine.decode(mine.encode("that héat").ids) == "that héat"
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [2]}


def file_of(tmp_path):
    reference("llama", {"hidden_size": 32, "num_hidden_layers": 1}).save_pretrained(tmp_path / "in")
    spec, tensors = parameters(tmp_path / "in")
    model.write(tensors, spec, tmp_path / "m.gguf", "Q8_0", gguf_tokens.words(tmp_path / "in", spec.vocab))
    return (tmp_path / "m.gguf").read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damaged_header_gets_through_or_reads_past_the_end(tmp_path_factory, data):
    """Whatever bytes change, the file reads (and every tensor lies inside it) or is refused by name."""
    path = tmp_path_factory.getbasetemp() / "fuzz"
    if not path.exists():
        path.mkdir()
        (path / "whole").write_bytes(file_of(path))
    raw = bytearray((path / "whole").read_bytes())
    header = len(raw) - sum(len(each.buffer) for each in gguf.loads(memoryview(bytes(raw))).tensors.values())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, header - 1))
        raw[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8]))
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    try:
        found = gguf.loads(memoryview(bytes(raw)))
    except BadGguf as error:
        assert error.why and error.fix
        return
    for tensor in found.tensors.values():
        with np.errstate(all="ignore"):
            assert tensor.floats().size == np.prod(tensor.shape)


@pytest.mark.parametrize(("change", "says"), [
    (lambda raw: b"GGML" + raw[4:], "is no GGUF file"),
    (lambda raw: raw[:4] + struct.pack("<I", 9) + raw[8:], "version 9"),
    (lambda raw: raw[:8] + struct.pack("<Q", 1 << 60) + raw[16:], "truncated"), (lambda raw: raw[:-40], "truncated"),
    (lambda raw: raw[:20], "too short"),
])  # fmt: skip
def test_a_damaged_file_says_what_is_wrong(tmp_path, change, says):
    (tmp_path / "bad.gguf").write_bytes(change(file_of(tmp_path)))
    with provoke("DL-DATA-026") as caught:
        gguf.read(tmp_path / "bad.gguf")
    assert says in caught.error.what and "bad.gguf" in str(caught.error)


def test_what_danlu_has_no_decoder_for_is_refused(tmp_path, capsys):
    file_of(tmp_path)
    file = gguf.read(tmp_path / "m.gguf")
    changes = [
        ("general.architecture", "mamba", "DL-DATA-021"),
        ("llama.rope.scaling.type", "yarn", "DL-DATA-021"),
        ("llama.feed_forward_length", 40, "DL-DATA-023"),
        ("llama.block_count", 2, "DL-DATA-023"),
    ]
    for key, value, code in changes:
        changed = gguf.File(file.metadata | {key: value}, file.tensors)
        with provoke(code):
            model.sources(changed, model.spec_of(changed, "x"), None, "x")
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "other.gguf")]) == 2
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out"), "--to", "q8_0"]) == 2
    assert "danlu convert" in capsys.readouterr().err


NUMBERS = ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
           "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon", "rope.freq_base",
           "rope.dimension_count", "attention.sliding_window", "expert_used_count", "expert_count"]  # fmt: skip
LIES = st.integers() | st.floats() | st.text(max_size=5) | st.booleans() | st.lists(st.integers(), max_size=3)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from([0, 1, -1, 0.0]) | LIES, min_size=1, max_size=3))
def test_numbers_that_lie_are_refused_or_make_a_model(tmp_path_factory, changes):
    if "file" not in READ:
        home = tmp_path_factory.mktemp("lies")
        file_of(home)
        READ["file"] = gguf.read(home / "m.gguf")
    file = READ["file"]
    changed = gguf.File(file.metadata | {f"llama.{key}": value for key, value in changes.items()}, file.tensors)
    with suppress(BadModel, UnsupportedModel, WrongWeights):
        assert model.spec_of(changed, "x").head_dim > 0


READ: dict[str, gguf.File] = {}


def test_a_folder_in_the_way_is_never_replaced_by_a_file(tmp_path):
    file_of(tmp_path)
    (tmp_path / "folder.gguf").mkdir()
    spec, tensors = parameters(tmp_path / "in")
    with provoke("DL-CFG-002"):
        model.write(tensors, spec, tmp_path / "folder.gguf", "F16")
