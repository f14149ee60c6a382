"""A byte-level BPE vocabulary learned from documents, kept as a folder that Hugging Face's AutoTokenizer loads too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import atomic
from danlu.errors import MissingPackage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"  # stands between documents
FILE = "tokenizer.json"


def train(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab` tokens: END, the 256 bytes, and the most frequent merges. Deterministic."""
    tokenizers = _package()
    tokenizer: Tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json. Raises DiskFull."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "add_bos_token": False, "add_eos_token": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1 << 20,
    }  # fmt: skip
    atomic.write(folder / FILE, tokenizer.to_str().encode())
    atomic.write(folder / "tokenizer_config.json", json.dumps(config, indent=1).encode())


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
