"""Text to ids and back: equal to transformers, whole characters in a stream, wrong tokenizers refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from tokenizers import Tokenizer as Hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from danlu.events import fallbacks
from danlu.tokens import Tokenizer

TEXT = ["The furnace is hot. 丹炉 refines elixirs 🔥🔥 and naïve café owners", "def f(x):\n    return x + 1\n"]
CHATML = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if tools is not none %}{{ tools }}{% endif %}"
    "{{ messages | tojson }}{{ eos_token }}{{ strftime_now('%Y') }}"
)


def byte_level(folder: Path, *, first: bool = False) -> None:
    bpe = Hf(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    if first:
        bpe.post_processor = processors.TemplateProcessing("<|end|> $A", special_tokens=[("<|end|>", 0)])
    bpe.save(str(folder / "tokenizer.json"))
    eos = {"content": "<|im_end|>", "__type": "AddedToken"}
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def byte_fallback(folder: Path) -> None:
    """A tokenizer of Llama 2's make: words after a space mark, single bytes for what it does not know."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *"▁abcdefghijklmnopqrstuvwxyz"]
    bpe = Hf(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])  # fmt: skip
    bpe.add_special_tokens(["<unk>", "<s>", "</s>"])
    bpe.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Tokenizer]:
    found = {}
    for make in (byte_level, byte_fallback):
        folder = tmp_path_factory.mktemp(make.__name__)
        make(folder)
        found[make.__name__] = Tokenizer(folder)
    return found


@pytest.mark.parametrize("first", [False, True])
def test_ids_text_and_chat_are_those_of_transformers(tmp_path, first):
    from transformers import AutoTokenizer

    byte_level(tmp_path, first=first)
    ours, theirs = Tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXT, "", " \n", "<|im_start|>odd 🤖"):
        assert ours.encode(text) == theirs(text).input_ids
        assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text).input_ids, skip_special_tokens=True)
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "<b>"}]
    assert ours.chat(messages) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.vocab == len(theirs) and ours.eos == (theirs.eos_token_id,) and ours.has_template


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["byte_level", "byte_fallback"]), text=st.text(max_size=30))
def test_a_stream_says_the_text_and_never_half_a_character(made, kind, text):
    tokenizer = made[kind]
    stream = tokenizer.stream()
    ids = tokenizer.encode(text)
    pieces = [stream.push(token) for token in ids] + [stream.rest()]
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["byte_level", "byte_fallback"]), data=st.data())
def test_a_stream_of_any_ids_ends_and_says_something(made, kind, data):
    tokenizer = made[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab - 1), max_size=60))
    stream = tokenizer.stream()
    said = "".join(stream.push(token) for token in ids) + stream.rest()
    clean = [text.replace("\ufffd", "") for text in (said, tokenizer.decode(ids))]
    assert len(clean[0]) >= 0.5 * len(clean[1]) - 2


def test_the_ids_that_end_an_answer_come_from_the_folder(tmp_path):
    byte_level(tmp_path)
    assert Tokenizer(tmp_path).eos == (2,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert Tokenizer(tmp_path).eos == (7,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert Tokenizer(tmp_path).eos == (5, 6)


def test_templates_are_found_where_models_keep_them(tmp_path):
    byte_level(tmp_path)
    hello = [{"role": "user", "content": "hello"}]
    said = {"chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert Tokenizer(tmp_path).chat(hello) == "D"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert Tokenizer(tmp_path).chat(hello) == "hello!"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    plain = Tokenizer(tmp_path)
    assert not plain.has_template and plain.chat(hello) == "user: hello\n\nassistant:"


def test_messages_a_template_refuses_are_the_senders_fault(tmp_path):
    byte_level(tmp_path)
    with provoke("DL-DATA-025") as caught:
        Tokenizer(tmp_path).chat([{"role": "tool", "content": "x"}])
    assert "no tools" in caught.error.why


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages.__class__.__mro__[1].__subclasses__() }}"])
def test_a_broken_or_hostile_template_gives_our_error(tmp_path, template):
    byte_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with provoke("DL-DATA-024" if "for" in template else "DL-DATA-025"):
        Tokenizer(tmp_path).chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("damage", ["absent", "text", "config", "vocab", "eos", "template"])
def test_a_tokenizer_that_cannot_be_meant_is_refused(tmp_path, damage):
    byte_level(tmp_path)
    if damage == "absent":
        (tmp_path / "tokenizer.json").unlink()
    elif damage == "text":
        (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    elif damage == "config":
        (tmp_path / "tokenizer_config.json").write_text("[]")
    elif damage == "eos":
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ["<|end|>"]}))
    elif damage == "template":
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": [{"name": "default", "template": 3}]})
        )
    else:
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 100}))
    with provoke("DL-DATA-024") as caught:
        Tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.error) and (damage != "vocab" or "100" in caught.error.why)


def test_a_tokenizer_much_smaller_than_the_model_is_said(tmp_path):
    byte_level(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50_000}))
    before = fallbacks["tokenizer.small"]
    Tokenizer(tmp_path)
    assert fallbacks["tokenizer.small"] == before + 1


def lacking(folder: str) -> None:
    sys.modules["tokenizers"] = None  # as the import system sees a package that is not there
    with provoke("DL-ENV-001") as caught:
        Tokenizer(Path(folder))
    assert "pip install" in caught.error.fix


def test_without_the_package_the_error_says_what_to_install(tmp_path):
    code = f"import test_tokens; test_tokens.lacking({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
