"""What becomes of a job of a tokenizer process."""

from __future__ import annotations

from typing import Any

from tokenwire_service.errors import FieldViolation, InvalidRequestError
from tokenwire_service.wording import counted

from tokenwire_frontend.models.files import ModelFilesError


class TokenizerFaultError(Exception):
    """A job failed in a way that no text should make it fail: a fault of the code."""


class TooManyTokensError(Exception):
    """A text has more tokens than were asked for.

    Args:
        count: how many it has.
        at_least: whether it may have more than that.
    """

    def __init__(self, count: int, *, at_least: bool) -> None:
        super().__init__(count, at_least)
        self.count = count
        self.told = f"{'at least ' if at_least else ''}{counted(count, 'token')}"


class TextTooLargeError(Exception):
    """Ids have a text of more bytes than were asked for; `size` says how many."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class BudgetSpentError(Exception):
    """The chat needs more than its rendering's budget."""


class TemplateFailedError(Exception):
    """The template refused the chat or failed on it."""


def read_result(kind: str, value: Any) -> Any:
    """Returns a job's result, or raises what it failed with."""
    match kind:
        case "done":
            return value
        case "budget":
            raise BudgetSpentError
        case "template":
            raise TemplateFailedError(value)
        case "files":
            raise ModelFilesError(value)
        case "invalid":
            raise InvalidRequestError([FieldViolation(*each) for each in value])
        case "too_many":
            count, at_least = value
            raise TooManyTokensError(count, at_least=at_least)
        case "too_large":
            raise TextTooLargeError(value)
    raise TokenizerFaultError(value)
