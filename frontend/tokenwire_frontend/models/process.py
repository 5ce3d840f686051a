"""A process that tokenises and renders: `python -m tokenwire_frontend.models.process FD`.

FD is its end of a socket pair. Each frame in is a job, each frame out its result, one at a time. It
ends when the frontend closes the other end, or is gone.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tokenwire_service.errors import InvalidRequestError
from tokenwire_service.signals import STOPS, leave_to_parent

from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.chat_template import ChatTemplateError, ChatTemplates
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.files import ModelFilesError, read_files
from tokenwire_frontend.models.sandbox import Budget, BudgetError
from tokenwire_frontend.models.tokenizer import fewest_tokens

HEADER = struct.Struct("<I")
"""Bytes of the frame that follows."""

MEMORY_LIMIT_BYTES = 4 * 2**30
"""Of this process: a template that makes too much fails, before the machine does. A vocabulary of
256k ids takes 0.2 GiB, a text of 4 MiB up to 1 GiB while it is tokenised."""

TRIM_BYTES = 2**20
"""After a job of this size, memory is given back to the system, which malloc would keep."""


class _TooManyTokensError(Exception):
    """The text has, or has at least, this many tokens: more than were asked for."""

    def __init__(self, count: int, *, at_least: bool = False) -> None:
        super().__init__(count, at_least)


class _TextTooLargeError(Exception):
    """The text has this many bytes: more than were asked for."""


class Jobs:
    """What the process does, by the name of the job."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[Encoder, ChatTemplates, int | None]] = {}

    def load(self, key: str, files: dict[str, bytes]) -> dict[str, Any]:
        """Takes a model; returns what the frontend has to know of it."""
        read = read_files(files)
        encoder = Encoder(read.tokenizer)
        description = encoder.describe(read.tokenizer)
        try:
            templates = ChatTemplates(read.templates, read.special_tokens)
        except ChatTemplateError as error:
            raise ModelFilesError(f"its chat template {error}") from error
        self._models[key] = encoder, templates, description["bytes_per_token"]
        return {
            "tokenizer": description,
            "has_chat_template": bool(templates),
            "defaults": {
                name: getattr(read.defaults, name) for name in type(read.defaults).__slots__
            },
        }

    def encode(
        self, key: str, text: str, special: bool, offsets: bool, most_tokens: int
    ) -> list[bytes]:
        """Returns the columns of a text's tokens: ids and, where asked for, starts and ends."""
        if offsets and len(text) > most_tokens:  # counted first, since offsets cost the most
            self.encode(key, text, special, offsets=False, most_tokens=most_tokens)
        columns = self._models[key][0].encode(
            text, add_special_tokens=special, with_offsets=offsets
        )
        if len(columns[0]) > most_tokens:
            raise _TooManyTokensError(len(columns[0]))
        return [column.tobytes() for column in columns]

    def encode_each(self, key: str, texts: list[str]) -> list[bytes]:
        """Returns the ids of each text, without special tokens."""
        encoder, *_ = self._models[key]
        return [encoder.encode(text, add_special_tokens=False)[0].tobytes() for text in texts]

    def chat(
        self,
        key: str,
        chat: tuple[Any, ...],
        field: str,
        special: bool,
        budget: tuple[int, float, int],
        most_tokens: int,
        tokenises: bool,
    ) -> tuple[str, bytes, tuple[float, float, float]]:
        """Renders a chat and, if it is asked to, tokenises it.

        Returns:
            Text, ids, and time.monotonic() of the beginning, between the two, and of the end.
        """
        encoder, templates, bytes_per_token = self._models[key]
        began_s = time.monotonic()
        prompt = ChatPrompt(*chat)
        variables = chat_variables(prompt, field)
        text = templates.choose(variables).render(
            variables, Budget(*budget), continues_final=prompt.continue_final_message
        )
        rendered_s = time.monotonic()
        fewest = fewest_tokens(text, bytes_per_token)
        if fewest > most_tokens:
            raise _TooManyTokensError(fewest, at_least=True)
        ids = array("I")
        if tokenises:
            [ids] = encoder.encode(text, add_special_tokens=special)
        if len(ids) > most_tokens:
            raise _TooManyTokensError(len(ids))
        return text, ids.tobytes(), (began_s, rendered_s, time.monotonic())

    def decode(self, key: str, ids: bytes, skip_special: bool, most_bytes: int) -> str:
        """Returns the text of ids."""
        encoder, *_ = self._models[key]
        text = encoder.decode(array("I", ids), skip_special_tokens=skip_special)
        size = len(text.encode())
        if size > most_bytes:
            raise _TextTooLargeError(size)
        return text


def result(work: Callable[[], Any]) -> tuple[str, Any]:
    """Returns what becomes of a job, in the form that the frontend reads."""
    try:
        return "done", work()
    except BudgetError:
        return "budget", None
    except ChatTemplateError as error:
        return "template", str(error)
    except ModelFilesError as error:
        return "files", str(error)
    except InvalidRequestError as error:
        return "invalid", [(each.field, each.description) for each in error.violations]
    except _TooManyTokensError as error:
        return "too_many", error.args
    except _TextTooLargeError as error:
        return "too_large", error.args[0]
    except BaseException as error:  # noqa: BLE001 - a panic of `tokenizers` is no Exception
        return "fault", f"{type(error).__name__}: {error}"[:1000]


def main() -> None:
    """Runs as a process; see the module."""
    leave_to_parent(*STOPS)
    with suppress(OSError, ValueError):  # a lower limit may be set already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one text at a time
    jobs = Jobs()
    channel = socket.socket(fileno=int(sys.argv[1]))
    with suppress(OSError), channel.makefile("rb") as incoming:  # OSError: the frontend is gone
        while header := incoming.read(HEADER.size):
            size = HEADER.unpack(header)[0]
            name, *arguments = marshal.loads(incoming.read(size))  # noqa: S302 - the frontend's own
            answer = marshal.dumps(result(lambda: getattr(jobs, name)(*arguments)))  # noqa: B023
            channel.sendall(HEADER.pack(len(answer)))
            channel.sendall(answer)
            if size + len(answer) > TRIM_BYTES:
                del arguments, answer
                _give_back()


def _give_back() -> None:
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
