"""Text to token ids and back, as the model's folder says; chat messages to text by its template.

The `tokenizers` package does the work and is loaded when the first Tokenizer is made.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from danlu.errors import BadMessages, BadTokenizer, MissingPackage
from danlu.events import fallback

# What belongs to a tokenizer in a Hugging Face folder.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "chat_template.jinja", "generation_config.json")  # fmt: skip
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MOST_HELD = 16  # tokens a stream holds back at most; a character takes 4 bytes, so more than that is no text


class Tokenizer:
    """The tokenizer of a folder.

    vocab  one more than the largest id
    eos    ids that end an answer: generation_config.json's, else config.json's, else the tokenizer's own
    """

    def __init__(self, folder: Path) -> None:
        """Raises BadTokenizer (unreadable, or with ids the folder's model does not have), MissingPackage."""
        try:
            import tokenizers
        except ImportError as error:
            raise MissingPackage(
                "the package tokenizers is missing", why=str(error), fix="pip install 'tokenizers>=0.20'"
            ) from error
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception for what it cannot parse
            raise BadTokenizer(
                "the tokenizer cannot be read",
                where=str(path),
                why=f"{type(error).__name__}: {error}",
                fix=f"ls -l {path}; fetch it again from where the model came from",
            ) from error
        self.vocab: int = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self._match(folder)
        self.eos = eos_of(folder)
        said = _json(folder / "tokenizer_config.json")
        self._words = {key: _content(said.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        self._template = _template(folder, said)
        self.has_template = self._template is not None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids. `special` adds what the model wants around a prompt (a first token); not for text of chat()."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that makes the model answer: encode it with special=False.

        Raises BadMessages when the template refuses them, BadTokenizer when the template itself is broken.
        """
        import jinja2

        try:
            text: str = _compiled(self._template or PLAIN_TEMPLATE).render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None,
                **{name: word for name, word in self._words.items() if word is not None},
            )  # fmt: skip
        except jinja2.TemplateSyntaxError as error:
            raise BadTokenizer(
                "the chat template is broken",
                where=f"line {error.lineno}",
                why=str(error),
                fix="correct chat_template in tokenizer_config.json, or remove it",
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
            raise BadMessages(
                "the model's chat template refuses these messages",
                why=str(error),
                fix="send messages as {role, content}, user and assistant in turn",
            ) from error
        return text

    def stream(self) -> Stream:
        """A detokenizer for one answer."""
        return Stream(self)

    def _match(self, folder: Path) -> None:
        """Hold the ids against the vocabulary of the model that lies in the same folder, if one does."""
        rows = _json(folder / "config.json").get("vocab_size")
        if not isinstance(rows, int):
            return
        if self.vocab > rows:
            raise BadTokenizer(
                "the tokenizer is not this model's",
                where=str(folder),
                why=f"its ids go up to {self.vocab - 1}, the model has {rows} of them",
                fix="take tokenizer.json from the folder the model came from",
            )
        if self.vocab < 0.9 * rows:
            fallback("tokenizer.small", f"the tokenizer knows {self.vocab} of the model's {rows} ids: is it its own?")


class Stream:
    """Text of an answer as its tokens arrive; never half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._ids: list[int] = []  # the last tokens given out, as context for the next, then those held back
        self._given = 0

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        self._ids.append(token)
        text = self._new()
        if text.endswith("\ufffd") and len(self._ids) - self._given <= MOST_HELD:
            return ""
        return self._give(text)

    def rest(self) -> str:
        """What is still held back when the answer ends."""
        return self._give(self._new())

    def _new(self) -> str:
        # Decoded together with the tokens before: some tokenizers drop the space in front of the first word.
        return self._decode(self._ids)[len(self._decode(self._ids[: self._given])) :]

    def _give(self, text: str) -> str:
        if text:
            self._ids = self._ids[self._given :]
            self._given = len(self._ids)
        return text


def eos_of(folder: Path) -> tuple[int, ...]:
    """Ids that end an answer, as transformers would choose them; empty if the folder names none."""
    for name in ("generation_config.json", "config.json"):
        said = _json(folder / name).get("eos_token_id")
        if said is not None:
            ids = said if isinstance(said, list) else [said]
            if not all(type(each) is int for each in ids):
                raise BadTokenizer(
                    f"eos_token_id in {name} is no id",
                    where=str(folder / name),
                    why=f"it is {said!r}",
                    fix="write the number of the token that ends an answer",
                )
            return tuple(ids)
    word = _content(_json(folder / "tokenizer_config.json").get("eos_token"))
    tokenizer = _json(folder / "tokenizer.json")
    added = {each.get("content"): each.get("id") for each in tokenizer.get("added_tokens") or ()}
    return (added[word],) if word is not None and word in added else ()


def _json(path: Path) -> dict[str, Any]:
    """A JSON mapping; empty if the file is missing. Raises BadTokenizer if it is there and is none."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"its top level is {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise BadTokenizer(
            f"{path.name} is unreadable", where=str(path), why=str(error), fix="fetch it again"
        ) from error
    return found


def _content(word: Any) -> str | None:
    """A special token, which is written as its text or as a mapping that has it."""
    found = word.get("content") if isinstance(word, dict) else word
    return found if isinstance(found, str) else None


def _template(folder: Path, said: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in tokenizer_config.json, alone or as the one named "default"."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    found = said.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default", next(iter(named.values()), None))
    if found is not None and not isinstance(found, str):
        raise BadTokenizer(
            "the chat template is no text",
            where=str(folder / "tokenizer_config.json"),
            why=f"it is {type(found).__name__}",
            fix="correct or remove chat_template",
        )
    return found


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """The template, in jinja's sandbox with what Hugging Face templates expect to find."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(text: str) -> None:
        raise TemplateError(text)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    room.filters["tojson"] = tojson
    room.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return room.from_string(template)
