"""A byte-level BPE vocabulary learned from documents, kept as a folder that Hugging Face's AutoTokenizer loads too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import atomic, native
from danlu.data import bytelevel, learn
from danlu.errors import MissingPackage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"  # stands between documents
FILE = "tokenizer.json"


def train(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab` tokens: END, the 256 bytes, and the most frequent merges. Deterministic.

    Cost: about 10 MB/s natively. Raises MissingPackage.
    """
    return _natively(texts, vocab) if native.runs("ref") else by_package(texts, vocab)


def by_package(texts: Iterable[str], vocab: int) -> Tokenizer:
    """The same by the tokenizers package's own trainer: what `train` must equal, and what runs without a compiler."""
    tokenizers = _package()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], show_progress=False, initial_alphabet=sorted(bytelevel.WRITTEN.values())
    )
    tokenizer = _byte_level(tokenizers.models.BPE())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _natively(texts: Iterable[str], vocab: int) -> Tokenizer:
    names = [END, *sorted(bytelevel.WRITTEN.values())]
    number = {name: number for number, name in enumerate(names)}
    cut = _byte_level(_package().models.BPE()).pre_tokenizer.pre_tokenize_str
    found = learn.merges(texts, vocab, [number[bytelevel.WRITTEN[byte]] for byte in range(256)],
                         lambda text: [text[begin:end] for _, (begin, end) in cut(text)])  # fmt: skip
    merges: list[tuple[str, str]] = []
    for left, right, joined in found.tolist():
        merges.append((names[left], names[right]))
        if joined == len(names):  # else two merges spell the same token
            names.append(names[left] + names[right])
    tokenizer = _byte_level(_package().models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.add_special_tokens([END])
    return tokenizer


def _byte_level(model: Any) -> Tokenizer:
    tokenizers = _package()
    tokenizer: Tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json. Raises DiskFull."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "add_bos_token": False, "add_eos_token": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1 << 20,
    }  # fmt: skip
    texts = {FILE: tokenizer.to_str(), "tokenizer_config.json": json.dumps(config, indent=1)}
    for name, text in texts.items():
        atomic.write(folder / name, text.encode(), lasting=False)
    atomic.keep([folder, *(folder / name for name in texts)])


def load(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote."""
    tokenizer: Tokenizer = _package().Tokenizer.from_file(str(folder / FILE))
    return tokenizer


def _package() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingPackage(
            "the package tokenizers is not installed", why=str(error), fix="pip install 'danlu[data]'"
        ) from error
    return tokenizers
