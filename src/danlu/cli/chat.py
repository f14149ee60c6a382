"""Talk to a model in the terminal. Ctrl-C interrupts an answer, Ctrl-D leaves.

MODEL is a Hugging Face folder or one that `danlu quantize` wrote. What was said before is not computed again.

example:
  danlu chat runs/demo/nf4 --prompt "def read("
"""

from __future__ import annotations

import argparse
import queue
import sys
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.serve.asks import Event
    from danlu.serve.open import Opened
    from danlu.serve.sample import Sampling


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, what to say, and how it draws its words."""
    from danlu.cli.serve import model_arguments

    model_arguments(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and leave")
    parser.add_argument("--system", metavar="TEXT", help="instruction before the conversation")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of one answer (default: the context)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest word (default 0.7)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")


def run(args: argparse.Namespace) -> int:
    """One answer with --prompt, else a conversation."""
    from danlu.cli import config
    from danlu.cli.doctor import memory_bytes
    from danlu.cli.serve import model_folder, settings_of, share_cores, starter
    from danlu.errors import BadValue

    text = config.load(args.config, args.overrides)
    if not 0 <= args.temperature <= 2 or (args.max_tokens is not None and args.max_tokens < 1):
        raise BadValue(
            "no such answer",
            where="command line",
            why=f"temperature is {args.temperature:g} (0 to 2), max tokens {args.max_tokens} (1 or more)",
            fix="--temperature 0.7 --max-tokens 200",
        )
    folder = model_folder(args, text)
    share_cores()
    from danlu.serve.open import open_engine  # with torch behind it: not before the words are known to be right
    from danlu.serve.sample import Sampling

    with closing(open_engine(folder, settings_of(args, text), memory_bytes()[1], starter)) as opened:
        opened.engine.start()
        sampling = Sampling(args.temperature, seed=args.seed)
        history = [{"role": "system", "content": args.system}] if args.system else []
        try:
            if args.prompt is not None:
                _turn(opened, [*history, {"role": "user", "content": args.prompt}], args.max_tokens, sampling)
                return 0
            return _converse(opened, history, args.max_tokens, sampling)
        finally:
            opened.engine.stop(0.0)
            opened.engine.join(5.0)


def _converse(opened: Opened, history: list[dict[str, str]], most: int | None, sampling: Sampling) -> int:
    from danlu.errors import PromptTooLong

    print("Ctrl-C interrupts an answer, Ctrl-D leaves.", file=sys.stderr)
    kept = len(history)  # a system message is never forgotten
    while True:
        try:
            words = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if not words.strip():
            continue
        history.append({"role": "user", "content": words})
        while True:
            try:
                history.append({"role": "assistant", "content": _turn(opened, history, most, sampling)})
                break
            except PromptTooLong as error:
                if len(history) <= kept + 2:
                    print(error, file=sys.stderr)
                    del history[kept:]
                    break
                print("(the context is full: the oldest question and its answer are forgotten)", file=sys.stderr)
                del history[kept : kept + 2]


def _turn(opened: Opened, history: list[dict[str, str]], most: int | None, sampling: Sampling) -> str:
    """Print one answer as it comes; returns its text. Ctrl-C ends it early. Raises PromptTooLong, AnswerFailed."""
    from danlu.serve.asks import Ask, End, Failed, Said

    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    name = opened.engine.submit(Ask(tuple(opened.voice.encode_chat(history)), most, sampling), events.put)
    said: list[str] = []
    try:
        while True:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Said | End):
                said.append(event.text)
                print(event.text, end="", flush=True)
            if isinstance(event, End):
                break
    except KeyboardInterrupt:
        opened.engine.cancel(name)
    print()
    return "".join(said)
