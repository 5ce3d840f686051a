"""A process that tokenises and renders: `python -m tokenwire_frontend.models.process FD`.

FD is its end of a socket pair. Each frame in is a job, each frame out its result, one at a time. It
ends when the frontend closes the other end, or is gone.
"""

from __future__ import annotations

import ctypes
import json
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
from dataclasses import dataclass
from typing import Any

from tokenwire_service.errors import InvalidRequestError, invalid
from tokenwire_service.signals import HANDLED, leave_to_parent

from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.core.parsers.choice import choose
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.added_tokens import AddedTokens
from tokenwire_frontend.models.cache_counts import CacheCounts
from tokenwire_frontend.models.chat_template import (
    DEFAULT,
    TOOL_USE,
    ChatTemplate,
    ChatTemplateError,
    ChatTemplates,
)
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.fast_encoder import NotFastError, encodes_at_once
from tokenwire_frontend.models.files import ModelFilesError, read_files
from tokenwire_frontend.models.literal_encoder import LiteralEncoder
from tokenwire_frontend.models.marked_text import PLANES, Marks, planes
from tokenwire_frontend.models.marking_template import MarkingTemplate
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


@dataclass(frozen=True, slots=True)
class _Model:
    encoder: Encoder
    added: AddedTokens
    literal: LiteralEncoder
    templates: ChatTemplates[ChatTemplate]
    marking: ChatTemplates[MarkingTemplate]
    """The same templates, for chats with `escape_control_tokens`."""
    bytes_per_token: int | None

    def check_fits(self, text: str, most_tokens: int) -> None:
        fewest = fewest_tokens(text, self.bytes_per_token)
        if fewest > most_tokens:
            raise _TooManyTokensError(fewest, at_least=True)


class Jobs:
    """What the process does, by the name of the job."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def load(
        self, key: str, files: dict[str, bytes], fast: bool = True, cache_bytes: int = 0
    ) -> dict[str, Any]:
        """Takes a model; returns what the frontend has to know of it.

        Args:
            key: what it will be called.
            files: its files by name.
            fast: whether `fastokens` is to encode where it can.
            cache_bytes: see FastEncoder.remember.
        """
        read = read_files(files)
        encoder = Encoder(read.tokenizer)
        whole = json.loads(read.tokenizer)
        description = encoder.describe(whole)
        slow_because, at_once = "", False
        if fast:
            try:
                quick = encoder.quicken(read.tokenizer, whole)
            except NotFastError as error:
                slow_because = str(error)
            else:
                at_once = encodes_at_once(quick)
                quick.remember(cache_bytes)
        try:
            templates = ChatTemplates(ChatTemplate, read.templates, read.special_tokens)
            marking = ChatTemplates(MarkingTemplate, read.templates, read.special_tokens)
        except ChatTemplateError as error:
            raise ModelFilesError(f"its chat template {error}") from error
        self._models[key] = _Model(
            encoder,
            encoder.finder(whole),
            encoder.literal(),
            templates,
            marking,
            description["bytes_per_token"],
        )
        return {
            "tokenizer": description,
            "slow_because": slow_because,
            "encodes_at_once": at_once,
            "has_chat_template": bool(templates),
            "formats": choose(
                read.templates.get(TOOL_USE) or read.templates.get(DEFAULT),
                encoder.added_tokens,
                read.formats_config,
            ),
            "formats_config": read.formats_config,
            "defaults": {
                name: getattr(read.defaults, name) for name in type(read.defaults).__slots__
            },
        }

    def cache_counts(self) -> CacheCounts:
        """Returns what all models' encoders remember, and how often that has served."""
        return sum((each.encoder.cache_counts() for each in self._models.values()), CacheCounts())

    def encode(
        self, key: str, text: str, special: bool, offsets: bool, most_tokens: int
    ) -> list[bytes]:
        """Returns the columns of a text's tokens: ids and, where asked for, starts and ends."""
        if offsets and len(text) > most_tokens:  # counted first, since offsets cost the most
            self.encode(key, text, special, offsets=False, most_tokens=most_tokens)
        columns = self._models[key].encoder.encode(
            text, add_special_tokens=special, with_offsets=offsets
        )
        if len(columns[0]) > most_tokens:
            raise _TooManyTokensError(len(columns[0]))
        return [column.tobytes() for column in columns]

    def encode_each(self, key: str, texts: list[str]) -> list[bytes]:
        """Returns the ids of each text, without special tokens."""
        encoder = self._models[key].encoder
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
    ) -> tuple[str, int, bytes, tuple[float, float, float]]:
        """Renders a chat and, if it is asked to, tokenises it.

        Returns:
            Text, the plane of its marks, ids, and time.monotonic() of the beginning, between the
            two, and of the end. There are marks, and a plane other than 0, where a chat with
            `escape_control_tokens` is not tokenised: `literal` does that.
        """
        began_s = time.monotonic()
        text, plane = self._written(key, ChatPrompt(*chat), field, Budget(*budget))
        if not plane:
            self._models[key].check_fits(text, most_tokens)
        rendered_s = time.monotonic()
        ids = b""
        if tokenises and plane:
            text, ids = self.literal(key, text, plane, special, most_tokens)
            plane = 0
        elif tokenises:
            [ids] = self.encode(key, text, special, offsets=False, most_tokens=most_tokens)
        return text, plane, ids, (began_s, rendered_s, time.monotonic())

    def turn(
        self,
        key: str,
        chat: tuple[Any, ...],
        field: str,
        budget: tuple[int, float, int],
        most_tokens: int,
    ) -> tuple[str, str, int, bytes, bytes, tuple[float, float]]:
        """Renders the chat of a conversation's turn.

        Returns:
            Text, the same with marks, their plane, where the text's added tokens begin and their
            ids, and time.monotonic() of the beginning and the end. Without
            `escape_control_tokens` the text has no marks and the plane is 0.
        """
        began_s = time.monotonic()
        marked, plane = self._written(key, ChatPrompt(*chat), field, Budget(*budget))
        model, text = self._models[key], marked
        if plane:
            text, caller = Marks(plane).unmarked(marked), planes(marked)
            places, ids = model.added.find(
                text, lambda start, end: caller.find(plane, start, end) < 0
            )
        else:
            places, ids = model.added.find(text)
        model.check_fits(text, most_tokens)
        times = began_s, time.monotonic()
        return text, marked, plane, places.tobytes(), ids.tobytes(), times

    def _written(self, key: str, chat: ChatPrompt, field: str, budget: Budget) -> tuple[str, int]:
        """Returns a rendered chat, and the plane of its marks, or 0 where it has none."""
        model, variables = self._models[key], chat_variables(chat, field)
        goes_on = chat.continue_final_message
        if not chat.escape_control_tokens:
            template = model.templates.choose(variables)
            return template.render(variables, budget, continues_final=goes_on), 0
        marks = _marks_for(variables, field)
        marking = model.marking.choose(variables)
        text = marking.render_marked(variables, budget, marks, continues_final=goes_on)
        return text, marks.plane

    def literal(
        self, key: str, marked: str, plane: int, special: bool, most_tokens: int
    ) -> tuple[str, bytes]:
        """Returns the text of a rendered chat without its marks, and its ids."""
        model = self._models[key]
        marks = Marks(plane)
        text = marks.unmarked(marked)
        model.check_fits(text, most_tokens)
        ids = model.literal.encode(marked, marks, add_special_tokens=special)
        if len(ids) > most_tokens:
            raise _TooManyTokensError(len(ids))
        return text, ids.tobytes()

    def decode(self, key: str, ids: bytes, skip_special: bool, most_bytes: int) -> str:
        """Returns the text of ids."""
        text = self._models[key].encoder.decode(array("I", ids), skip_special_tokens=skip_special)
        size = len(text.encode())
        if size > most_bytes:
            raise _TextTooLargeError(size)
        return text


def _marks_for(variables: dict[str, Any], field: str) -> Marks:
    taken = planes(json.dumps(variables, ensure_ascii=False))
    for plane in PLANES:
        if plane not in taken:
            return Marks(plane)
    raise invalid(
        f"{field}.escape_control_tokens",
        "is not supported with characters of both of Unicode's planes for private use",
    )


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
    leave_to_parent(*HANDLED)
    with suppress(OSError, ValueError):  # a lower limit may be set already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one text at a time
    jobs = Jobs()
    channel = socket.socket(fileno=int(sys.argv[1]))
    with suppress(OSError), channel.makefile("rb") as incoming:  # OSError: the frontend is gone
        while header := incoming.read(HEADER.size):
            size = HEADER.unpack(header)[0]
            name, *arguments = marshal.loads(incoming.read(size))  # noqa: S302 - the frontend's own
            done = result(lambda: getattr(jobs, name)(*arguments))  # noqa: B023
            answer = marshal.dumps((*done, tuple(jobs.cache_counts())))
            channel.sendall(HEADER.pack(len(answer)))
            channel.sendall(answer)
            if size + len(answer) > TRIM_BYTES:
                del arguments, done, answer
                _give_back()


def _give_back() -> None:
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
