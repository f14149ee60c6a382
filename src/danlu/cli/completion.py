"""Print a shell completion script.

example:
  danlu completion bash > ~/.local/share/bash-completion/completions/danlu
"""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, help="whose syntax to print")


def run(args: argparse.Namespace) -> int:
    """Build every command's parser and let shtab write it as shell text."""
    import shtab

    from danlu.cli.app import COMMANDS, parser_of

    whole = argparse.ArgumentParser(prog="danlu")
    commands = whole.add_subparsers(dest="command")
    for name in COMMANDS:
        parser_of(name, commands)
    print(shtab.complete(whole, args.shell))
    return 0
