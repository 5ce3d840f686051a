"""Text generation from a terminal: a client of a Tokenwire frontend.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 69 no server reached, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tokenwire import __version__
from tokenwire.cli import (
    attach,
    bench,
    cancel,
    chat,
    completion,
    conformance,
    connection,
    detokenize,
    evaluate,
    generate,
    lora,
    models,
    tokenize,
    top,
    trace,
    workers,
)
from tokenwire.cli.failures import CommandError, describe
from tokenwire.errors import TokenwireError, UnreachableError

FAILED = 1
USAGE = 2
UNREACHABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""
INTERRUPTED = 130
"""What a shell reports of a command that SIGINT ended; likewise below for SIGPIPE."""
PIPE_CLOSED = 141

_COMMANDS = {
    "generate": generate,
    "chat": chat,
    "attach": attach,
    "cancel": cancel,
    "tokenize": tokenize,
    "detokenize": detokenize,
    "models": models,
    "workers": workers,
    "lora": lora,
    "top": top,
    "trace": trace,
    "bench": bench,
    "conformance": conformance,
    "evaluate": evaluate,
    "completion": completion,
}
_READ_A_TEXT = (generate.run, chat.run, tokenize.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; wrong usage ends the process with 2."""
    if completion.ASKED in os.environ:
        completion.answer(_parser(whole=True))
    args, unknown = _parser().parse_known_args(arguments)
    if unknown:
        _refuse(args, unknown)
    args.words = list(sys.argv[1:] if arguments is None else arguments)
    # A terminal that can't show a character shows a substitute, where Python would raise.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with connection.client(args) as client:
            args.run(client, args)
        sys.stdout.flush()
    except TokenwireError as error:
        code = UNREACHABLE if isinstance(error, UnreachableError) else FAILED
        return _say(describe(error, args.target), code)
    except CommandError as error:
        return _say(str(error), FAILED)
    except BrokenPipeError:
        # The reader has seen enough. What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (OSError, TypeError, ValueError) as error:
        return _say(str(error), USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _refuse(args: argparse.Namespace, unknown: Sequence[str]) -> NoReturn:
    """Ends the process with 2, with what stands in place of the first word that nothing reads."""
    command: _LineParser = args.command
    option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    if option in command.options:
        command.error(f"{option} goes after the command: {command.prog} {option}")
    if option is not None:
        near = difflib.get_close_matches(option, command.options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        command.error(f"unknown option {option}{hint}")
    hint = "; put quotes around a text with spaces" if args.run in _READ_A_TEXT else ""
    command.error(f"unexpected argument {unknown[0]!r}{hint}")


def _say(line: str, code: int) -> int:
    sys.stdout.flush()
    print(f"tokenwire: {line}", file=sys.stderr)
    return code


class _LineParser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would list every option first."""

    configure_later: Callable[[argparse.ArgumentParser], None] | None = None
    """Adds a command's own arguments once that command is the one that was chosen."""

    def configure(self) -> None:
        """Adds the command's own arguments, where they are not there yet."""
        configure, self.configure_later = self.configure_later, None
        if configure is not None:
            connection.configure(self, subcommand=True)
            configure(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with the command's own arguments."""
        self.configure()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the process with 2."""
        line = message.removeprefix("argument ")
        self.exit(USAGE, f"tokenwire: {line}; see {self.prog} --help\n")

    @property
    def options(self) -> list[str]:
        """Every option, as it is written."""
        return [name for action in self._actions for name in action.option_strings]


def _parser(*, whole: bool = False) -> argparse.ArgumentParser:
    """Returns the parser; `whole` with the arguments of every command."""
    parser = _LineParser(
        prog="tokenwire",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tokenwire {__version__}")
    connection.configure(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=module.run, command=command)
        command.configure_later = module.configure
        if whole:
            command.configure()
    return parser
