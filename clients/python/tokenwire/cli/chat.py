"""Chat with a model: one answer to MESSAGE, or a conversation without one.

In a conversation, Ctrl-C stops the answer that is running, /reset starts over, and /exit or Ctrl-D
leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from tokenwire import Client
from tokenwire.cli import arguments, generation_options
from tokenwire.cli.failures import describe
from tokenwire.cli.printing import print_stream
from tokenwire.errors import TokenwireError
from tokenwire.types import ChatMessage


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "message", metavar="MESSAGE", nargs="?", help="what to say; -: standard input"
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions for the conversation")
    parser.add_argument(
        "--tools",
        type=arguments.tools_file,
        metavar="FILE.json",
        help="tools that the model may call: a JSON list",
    )
    parser.add_argument(
        "--tool-choice",
        type=arguments.tool_choice,
        metavar="auto|none|required|NAME",
        help="whether it calls tools, or which",
    )
    parser.add_argument(
        "--template-arguments",
        type=arguments.json_object,
        metavar="JSON",
        help='variables of the chat template, such as {"enable_thinking": true}',
    )
    generation_options.configure(parser)


def run(client: Client, args: argparse.Namespace) -> None:
    """Prints one answer, or holds a conversation."""
    chat = Conversation(client, args)
    if args.message is not None:
        chat.say(arguments.text(args.message))
    else:
        chat.hold()


class Conversation:
    """The turns so far, and the options that every turn is answered with."""

    def __init__(self, client: Client, args: argparse.Namespace) -> None:
        self._client = client
        self._args = args
        self._options = generation_options.given(args)
        self._messages: list[ChatMessage] = []
        self._reset()

    def _reset(self) -> None:
        system = self._args.system
        self._messages = [ChatMessage("system", system)] if system else []

    def say(self, content: str) -> None:
        """Prints the answer to a message, and keeps both; of a stopped answer, what had come."""
        asked = [*self._messages, ChatMessage("user", content)]
        args = self._args
        stream = self._client.stream(
            chat=asked, max_delay=args.max_delay, content=args.content, **self._options
        )
        try:
            print_stream(stream, args, count=args.n or 1, limited=args.max_tokens is not None)
        finally:
            answer = stream.message()
            if answer.content or answer.tool_calls:
                self._messages = [*asked, answer]

    def hold(self) -> None:
        """Answers line after line of standard input."""
        interactive = sys.stdin.isatty()
        if interactive:
            print("Ctrl-C stops an answer, /reset starts over, /exit leaves.")
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401, PLC0415 - gives `input` editing and a history
        while (line := self._next_line("> " if interactive else "")) != "/exit":
            if line == "/reset":
                self._reset()
            elif line:
                self._answer(line, interactive=interactive)

    def _next_line(self, prompt: str) -> str:
        try:
            return arguments.line(prompt).strip()
        except EOFError:
            return "/exit"
        except KeyboardInterrupt:
            print("\n/exit or Ctrl-D leaves")
            return ""

    def _answer(self, line: str, *, interactive: bool) -> None:
        try:
            self.say(line)
        except KeyboardInterrupt:
            print("[stopped]")
        except TokenwireError as error:
            if not interactive:
                raise
            print(f"tokenwire: {describe(error, self._args.target)}", file=sys.stderr)
