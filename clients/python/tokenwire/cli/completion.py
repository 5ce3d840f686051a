"""Print a script that completes this command and both services in a shell.

Bash: source <(tokenwire completion bash)
Zsh:  tokenwire completion zsh > "${fpath[1]}/_tokenwire"
Fish: tokenwire completion fish > ~/.config/fish/completions/tokenwire.fish
"""

from __future__ import annotations

import argparse

from tokenwire import Client
from tokenwire.cli.failures import CommandError

ASKED = "_ARGCOMPLETE"
"""A variable that the shell's script sets."""

COMMANDS = ("tokenwire", "tokenwire-frontend", "tokenwire-worker")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell")


def run(_: Client, args: argparse.Namespace) -> None:
    """Prints the script."""
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - of the extra `cli`
    except ImportError:
        raise CommandError("completion requires argcomplete: pip install argcomplete") from None
    if args.shell == "fish":  # which takes one command to a script
        scripts = [shellcode([each], shell=args.shell) for each in COMMANDS]
    else:
        scripts = [shellcode(COMMANDS, shell=args.shell)]
    print("\n".join(scripts))


def answer(parser: argparse.ArgumentParser) -> None:
    """Answers where the shell's script asks, and ends the process; returns otherwise."""
    try:
        import argcomplete  # noqa: PLC0415 - as above
    except ImportError:
        return
    argcomplete.autocomplete(parser)
