"""From words on the command line to one command's `run`.

A command is one file of this package with three names: `__doc__` (its help, ending with an example),
`arguments(parser)` and `run(args) -> int`. Files import heavy rooms inside `run`, so that `--help` answers at once.
argparse was chosen by measurement: 0.05 s for `--help` against 0.50 s with a library that draws its help with rich.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from danlu.cli import interrupts

if TYPE_CHECKING:
    from danlu.errors import DanluError

COMMANDS = {
    "demo": "live a model's whole life on an unequal emulated fleet",
    "doctor": "check this machine, with a fix for everything that is wrong",
    "probe": "measure this machine's cards and links",
    "prep": "turn text folders into clean, packed tokens",
    "store": "small files: add, get, ls, rm, merge, stat, verify",
    "plan": "split a model over any mix of cards, with a forecast",
    "train": "train a model by its plan",
    "convert": "turn a GGUF file into a model folder, or back",
    "launch": "train over several hosts: ssh, Slurm, Ray, Kubernetes text",
    "runs": "list, show and compare training runs",
    "quantize": "turn a model folder into a 4-bit one",
    "serve": "answer over the OpenAI API",
    "chat": "talk to a model in the terminal",
    "export": "write a Hugging Face folder from a checkpoint",
    "bench": "measure, beside the peers, every number we quote",
    "config": "check, explain or describe run.yaml",
    "completion": "print a completion script for bash, zsh or fish",
    "test": "run the tests of this checkout",
    "version": "print versions of what matters",
}

UNDER = {  # commands of two words; the first is one of COMMANDS
    "plan check": "score the predictor on published runs",
    "plan fit": "calibrate cards by the logs of your own runs",
    "plan verify": "check the certificate of a plan's gap",
    "prep why": "why a document was dropped or kept, with the numbers",
}


def module_of(name: str) -> ModuleType:
    """The file behind a command. `config` is the library that every command reads, so its command has another name."""
    return importlib.import_module(f"danlu.cli.{'show_config' if name == 'config' else name.replace(' ', '_')}")


def parser_of(name: str, parent: Any = None) -> argparse.ArgumentParser:
    """The argument parser of one command; `parent` is a sub-parser group, None for a parser that stands alone."""
    module = module_of(name)
    options: dict[str, Any] = {
        "description": module.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False,
    }  # fmt: skip
    if parent is None:
        parser = argparse.ArgumentParser(prog=f"danlu {name}", **options)
    else:
        parser = parent.add_parser(name, help=COMMANDS[name], **options)
    module.arguments(parser)
    return parser


def divide(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """(words of the command itself, words such as `--train.steps 50` that set keys of run.yaml).

    An option the parser does not know is a key, and the word after it its value; config.load refuses it if no key has
    that name. A command that passes words on (`danlu test -k name`) gets all it does not know in `overrides`.
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    overrides: list[str] = []
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if parser.get_default("passes_on"):
            (own if word in known else overrides).append(word)
        elif not word.startswith("--") or word.partition("=")[0] in known:
            own.append(word)
        else:
            valued = "=" not in word and todo and not todo[0].startswith("--")
            overrides += [word, *([todo.pop(0)] if valued else [])]
    return own, overrides


def overview() -> str:
    """The text of `danlu --help`."""
    every = {name: text for each in COMMANDS for name, text in _with_under(each).items()}
    width = max(map(len, every))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in every.items())
    return (
        "usage: danlu COMMAND [options]\n\n"
        "danlu (丹炉) runs large models on the compute people really have.\n\n"
        f"{rows}\n\n"
        "danlu COMMAND --help shows a command's options and an example.\n"
        "Start here:  ./danlu demo\n"
    )


def _with_under(name: str) -> dict[str, str]:
    """A command and those of two words that begin with it."""
    return {name: COMMANDS[name], **{each: text for each, text in UNDER.items() if each.split()[0] == name}}


def _no_such_command(name: str) -> DanluError:
    import difflib

    from danlu.errors import UnknownPlugin

    near = difflib.get_close_matches(name, COMMANDS, 1)
    return UnknownPlugin(
        f"danlu has no command {name!r}",
        why=f"it has: {', '.join(COMMANDS)}",
        fix=f"danlu {near[0]} --help" if near else "danlu --help",
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 ok, 2 usage, 3 environment, 4 resource, 5 data, 70 ours, 128 + signal."""
    words = sys.argv[1:] if argv is None else argv
    from danlu.errors import DanluError

    try:
        if argv is None:
            interrupts.unwind()
        code = _command(words)
        sys.stdout.flush()  # a full disk or a reader that left is met here, not at the interpreter's end
        return code
    except DanluError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        return 130
    except Exception as error:
        from danlu.cli import unforeseen

        if unforeseen.reader_left(error):  # `danlu ... | head`
            return 0
        known = unforeseen.entry_of(error, words)
        print(known, file=sys.stderr)
        return known.exit_code


def _command(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    taken = 2 if " ".join(words[:2]) in UNDER else 1
    name = "version" if words[0] == "--version" else " ".join(words[:taken])
    if name not in COMMANDS and name not in UNDER:
        raise _no_such_command(name)
    parser = parser_of(name)
    own, overrides = divide(words[taken:], parser)
    args = parser.parse_intermixed_args(own)  # names may stand on both sides of an option
    if overrides and not parser.get_default("passes_on"):
        from danlu.cli.config import parse_overrides

        flags = [option for action in parser._actions for option in action.option_strings]
        parse_overrides(overrides, flags)  # a misspelt option is refused also by a command that reads no key
    args.overrides = overrides
    return int(module_of(name).run(args))
