"""The tokenizer of a GGUF file as the files of a Hugging Face folder, and back.

Two kinds exist among the families danlu reads: "gpt2", byte-level BPE with its merges, and "llama", SentencePiece's
BPE, which keeps scores instead of merges. What splits a text before BPE is only a name in GGUF (`tokenizer.ggml.pre`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu import tokens
from danlu.errors import BadTokenizer, UnsupportedModel
from danlu.events import fallback

CONTROL, USER = 3, 4  # kinds of tokens that are never split; a control token is no text either
NORMAL = 1
SPACE = "\u2581"  # SentencePiece's visible space
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Name -> what splits the text, as its model's own tokenizer.json has it; None is GPT-2's, which ByteLevel has built in.
SPLITS: dict[str, str | None] = {
    "gpt-2": None, "default": None,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + WORDS % "{1,3}",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + WORDS % "",
}  # fmt: skip
COMPOSED = ("qwen2",)  # splits whose text is brought to NFC first


def write(metadata: Mapping[str, Any], folder: Path, where: str) -> bool:
    """Write tokenizer.json and its companions into `folder`; False if the file has no tokenizer.

    Raises UnsupportedModel for a kind of tokenizer or of split that danlu does not know, BadTokenizer.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "no_vocab", "none"):
        return False
    words = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(words, list) or len(set(words)) != len(words):
        raise BadTokenizer(
            "the tokens of the file are no list of different words",
            where=where,
            why=f"tokenizer.ggml.tokens is {type(words).__name__}",
            fix="convert the model again",
        )
    if kind == "gpt2":
        text = _byte_level(metadata, words, where)
    elif kind == "llama":
        text = _sentence_piece(metadata, words)
    else:
        raise UnsupportedModel(
            f"a tokenizer of kind {kind!r}",
            where=where,
            why="danlu reads gpt2 and llama",
            fix="use the Hugging Face folder of the model",
        )
    named = {name: words[at] for name in ("bos", "eos", "unknown", "padding")
             if 0 <= (at := int(metadata.get(f"tokenizer.ggml.{name}_token_id", -1))) < len(words)}  # fmt: skip
    kinds = metadata.get("tokenizer.ggml.token_type")
    text["added_tokens"] = [
        {"id": at, "content": words[at], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": int(each) == CONTROL}
        for at, each in enumerate(kinds if kinds is not None else ()) if int(each) in (CONTROL, USER)
    ]  # fmt: skip
    first = named.get("bos") if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") else None
    if first is not None:
        text["post_processor"] = _beginning(first, words.index(first))
    (folder / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    said |= {f"{ {'unknown': 'unk', 'padding': 'pad'}.get(name, name) }_token": word for name, word in named.items()}
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        said["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    ends = [int(metadata[f"tokenizer.ggml.{name}_token_id"]) for name in ("eos", "eot")
            if f"tokenizer.ggml.{name}_token_id" in metadata]  # fmt: skip
    if ends:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    return True


def _byte_level(metadata: Mapping[str, Any], words: list[str], where: str) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in SPLITS:
        raise UnsupportedModel(
            f"a text split of kind {name!r}",
            where=where,
            why=f"danlu knows {', '.join(SPLITS)}",
            fix="use the Hugging Face folder of the model",
        )
    split = SPLITS[name]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": split is None}
    before: dict[str, Any] = bytes_of
    if split is not None:
        cut = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        before = {"type": "Sequence", "pretokenizers": [cut, bytes_of]}
    merges = [line.split(" ") for line in metadata.get("tokenizer.ggml.merges", [])]
    model = {"type": "BPE", "vocab": {word: at for at, word in enumerate(words)}, "merges": merges,
             "ignore_merges": name == "llama-bpe", "byte_fallback": False, "fuse_unk": False}  # fmt: skip
    return {"version": "1.0", "normalizer": {"type": "NFC"} if name in COMPOSED else None, "pre_tokenizer": before,
            "post_processor": None, "decoder": bytes_of, "model": model}  # fmt: skip


def _sentence_piece(metadata: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """tokenizer.json of SentencePiece's BPE: a pair may merge if its whole is a word, higher scores first."""
    at = {word: number for number, word in enumerate(words)}
    scores = metadata.get("tokenizer.ggml.scores")
    ranks = [-float(each) for each in scores] if scores is not None else list(range(len(words)))
    pairs = sorted(
        (ranks[number], at[word[:cut]], at[word[cut:]], word[:cut], word[cut:])
        for number, word in enumerate(words)
        for cut in range(1, len(word)) if word[:cut] in at and word[cut:] in at
    )  # fmt: skip
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    model = {"type": "BPE", "vocab": at, "merges": [[left, right] for *_, left, right in pairs], "byte_fallback": True,
             "fuse_unk": True, "unk_token": None if unknown is None else words[int(unknown)]}  # fmt: skip
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, {"type": "Prepend", "prepend": SPACE})
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"version": "1.0", "normalizer": {"type": "Sequence", "normalizers": spaces}, "pre_tokenizer": None,
            "post_processor": None, "decoder": {"type": "Sequence", "decoders": back}, "model": model}  # fmt: skip


def _beginning(word: str, number: int) -> dict[str, Any]:
    """A post-processor that puts one token before every text."""
    one: list[dict[str, Any]] = [{"SpecialToken": {"id": word, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    two = [*one, {"SpecialToken": {"id": word, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": one, "pair": two,
            "special_tokens": {word: {"id": word, "ids": [number], "tokens": [word]}}}  # fmt: skip


def words(folder: Path, vocab: int) -> dict[str, Any]:
    """A folder's byte-level tokenizer as metadata of a GGUF file; empty, and said aloud, if it has none of that kind.

    vocab  rows of the model's embedding; ids the tokenizer does not know get names of their own
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return {"tokenizer.ggml.model": "no_vocab"}
    text = json.loads(path.read_bytes())
    model, split = text["model"], _split_of(text.get("pre_tokenizer") or {})
    if model.get("type") != "BPE" or split is None:
        fallback("gguf.tokenizer", f"{path} is no byte-level BPE that GGUF has a name for: the file has no tokenizer")
        return {"tokenizer.ggml.model": "no_vocab"}
    names = {number: word for word, number in model["vocab"].items()}
    kinds = dict.fromkeys(names, NORMAL)
    for each in text.get("added_tokens") or ():
        names[each["id"]], kinds[each["id"]] = each["content"], CONTROL if each["special"] else USER
    merges = [line if isinstance(line, str) else " ".join(line) for line in model["merges"]]
    said: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": [names.get(at, f"[unused{at}]") for at in range(vocab)],
        "tokenizer.ggml.token_type": [kinds.get(at, CONTROL) for at in range(vocab)], "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    if ends := tokens.eos_of(folder):
        said["tokenizer.ggml.eos_token_id"] = ends[0]
    return said


def _split_of(before: Mapping[str, Any]) -> str | None:
    """GGUF's name of a pre-tokenizer, None if it has none that danlu knows."""
    steps = before.get("pretokenizers", [before])
    if not steps or steps[-1].get("type") != "ByteLevel" or len(steps) > 2:
        return None
    regex = steps[0].get("pattern", {}).get("Regex") if len(steps) == 2 else None
    return next((name for name, each in SPLITS.items() if each == regex), None)
