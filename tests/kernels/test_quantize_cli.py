"""`danlu quantize` on a model that has learnt something: half of its bits gone, its perplexity nearly the same."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from danlu.cli.app import main
from danlu.data import bpe, encode
from danlu.data.document import Document
from danlu.data.loader import Loader
from danlu.model.export import export
from danlu.model.net import Decoder, init
from danlu.model.state import Causal
from danlu.nouns import ModelSpec

DOCUMENTS = [Document(f"doc {n}", f"Document {n} counts {n * n} and {n * 31 % 97}.\n" * 3) for n in range(120)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """tokens/ and model/: 30 steps of training on text that is easy to foretell."""
    torch.set_num_threads(1)
    tmp_path = tmp_path_factory.mktemp("world")
    tokenizer = bpe.train((each.text for each in DOCUMENTS), 320)
    held = encode.held_out({each.key: len(each.text) for each in DOCUMENTS})
    encode.encode(DOCUMENTS, held, tokenizer, tmp_path / "tokens", {}, len(DOCUMENTS), lambda words, share: None)
    spec = ModelSpec("llama", 2, 64, 4, 2, 16, 128, 320, 64)
    decoder = Decoder(spec)
    init(decoder, 1)
    loader, state = Loader(tmp_path / "tokens", seq=32, batch=8, seed=1), Causal(8, 32)
    adam = torch.optim.AdamW(decoder.parameters(), 4e-3)
    for step in range(30):
        ids = torch.from_numpy(loader.batch_at(step))
        F.cross_entropy(decoder(ids[:, :-1].flatten(), state, state.meta()), ids[:, 1:].flatten()).backward()
        adam.step()
        adam.zero_grad()
    export(dict(decoder.named_parameters()), spec, tmp_path / "model", tmp_path / "tokens")
    return tmp_path


def test_perplexity_is_measured_before_and_after(world, capsys):
    out = str(world / "out.json")
    argv = ["quantize", str(world / "model"), str(world / "small"), "--tokens", str(world / "tokens"), "--json", out]
    assert main([*argv, "--data.seq", "32"]) == 0
    figures = json.loads((world / "out.json").read_text())
    before, after = figures["quant.ppl_before"], figures["quant.ppl_after"]
    assert before < 40 < 320 and before != after and 0.9 < after / before < 1.1
    assert 4.1 < figures["quant.bits_per_weight"] < 4.3 and figures["quant.sqnr_db"] > 19
    assert figures["quant.bytes_after"] < figures["quant.bytes_before"] / 3
    text = capsys.readouterr()
    assert "perplexity" in text.out and 0 < figures["quant.kl"] < 0.1


def test_a_text_is_scored_by_the_models_own_tokenizer(world):
    (world / "text.txt").write_text("".join(each.text for each in DOCUMENTS))
    text = str(world / "text.txt")
    argv = ["quantize", str(world / "model"), str(world / "small"), "--data.seq", "32", "--text", text]
    kl = {}
    for name, more in {"four": ["--codebook", "best", "--scale-search"], "eight": ["--to", "int8"]}.items():
        assert main([*argv, *more, "--json", str(world / "out.json")]) == 0
        kl[name] = json.loads((world / "out.json").read_text())["quant.kl"]
    assert 0 < kl["eight"] < kl["four"] / 10
    assert main(["quantize", str(world / "model"), str(world / "other"), "--text", str(world / "no.txt")]) == 2
    assert not (world / "other").exists()


def test_a_divergence_is_held_by_as_many_8_bits_as_it_takes(world, capsys):
    (world / "text.txt").write_text("".join(each.text for each in DOCUMENTS[:60]))
    argv = ["quantize", str(world / "model"), str(world / "small"), "--data.seq", "32", "--text",
            str(world / "text.txt"), "--json", str(world / "out.json")]  # fmt: skip
    seen = []
    for more in ([], ["--to", "int8"]):
        assert main([*argv, *more]) == 0
        seen.append(json.loads((world / "out.json").read_text()))
    four, eight = seen
    most = (four["quant.kl"] + eight["quant.kl"]) / 2
    assert main([*argv, "--kl", str(most)]) == 0
    found = json.loads((world / "out.json").read_text())
    assert found["quant.kl"] <= most and found["quant.eight"] in capsys.readouterr().out
    assert four["quant.bytes_after"] < found["quant.bytes_after"] < eight["quant.bytes_after"]
    assert main([*argv, "--kl", str(four["quant.kl"] * 2)]) == 0
    assert json.loads((world / "out.json").read_text())["quant.eight"] == "embed, head"
    for refused in ([*argv, "--kl", "1e-12"], [*argv[:5], "--kl", "0.1"]):
        assert main(refused) == 2
        assert "DL-CFG-002" in capsys.readouterr().err
    assert not list(world.glob(".*.bits"))


def test_a_misspelt_flag_is_refused_before_anything_is_written(world, capsys):
    assert main(["quantize", str(world / "model"), str(world / "never"), "--data.sek", "32"]) == 2
    assert "data.seq" in capsys.readouterr().err and not (world / "never").exists()


def test_a_folder_that_is_not_there_is_a_catalogue_error(world, capsys):
    assert main(["quantize", str(world / "nothing"), str(world / "small")]) == 5
    assert "DL-DATA-020" in capsys.readouterr().err
