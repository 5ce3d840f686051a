"""A chat template's environment whose operations keep the marks of MarkedText."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.compiler import Frame
from jinja2.runtime import Context

from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_frontend.models.marked_text import PLANES, MarkedText, Marks, plain
from tokenwire_frontend.models.sandbox import Budget, BudgetEnvironment, _StepCounter

_ON_PLAIN = frozenset(
    {
        "e", "escape", "float", "forceescape", "int", "replace", "striptags", "title", "urlencode",
        "urlize", "wordcount",
    }
)  # fmt: skip
"""Filters that look into a text; what they make of one is the caller's as a whole."""


class _Marking(_StepCounter):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.noted(")
        super().visit_Concat(node, frame)
        self.write(")")


class MarkingEnvironment(BudgetEnvironment):
    """Renders one chat at a time; `marks` are the chat's."""

    code_generator_class = _Marking
    marks = Marks(PLANES[0])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: self._marking(name, each) for name, each in self.filters.items()}

    def concat(self, pieces: Iterable[str]) -> str:
        """As `BudgetEnvironment.concat`."""
        return self.marks.noted(super().concat(pieces))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As `BudgetEnvironment.call_binop`."""
        return self.noted(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `BudgetEnvironment.call`."""
        if isinstance(getattr(function, "__self__", None), MarkedText):
            # As of other methods of texts, which do not take what Jinja passes to functions.
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
        return self.noted(super().call(context, function, *args, **kwargs))

    def noted(self, value: Any) -> Any:
        """Returns a text that was made of others as MarkedText where it has marks."""
        return self.marks.noted(value) if type(value) is str else value

    def _marking(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the filter as one that keeps marks."""
        place = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def marking(*args: Any, **kwargs: Any) -> Any:
            given = args[place] if len(args) > place else None
            if not isinstance(given, MarkedText) or name not in _ON_PLAIN:
                return self.noted(function(*args, **kwargs))
            value = function(*args[:place], plain(given), *args[place + 1 :], **kwargs)
            if name == "replace":  # known by now to be not too large
                return _replaced(given, *args[place + 1 :], **kwargs)
            return self.marks.mark(value) if isinstance(value, str) else value

        return marking


class MarkingTemplate(ChatTemplate):
    """As ChatTemplate, for a chat whose texts have marks."""

    environment = MarkingEnvironment
    _environment: MarkingEnvironment

    def render_marked(
        self, variables: dict[str, Any], budget: Budget, marks: Marks, *, continues_final: bool
    ) -> str:
        """Returns a chat as text in which all that the caller wrote is marked; see `render`."""
        # Roles are the contract's.
        messages = [
            {key: each if key == "role" else marks.mark_all(each) for key, each in message.items()}
            for message in variables["messages"]
        ]
        marked = {name: marks.mark_all(each) for name, each in variables.items()}
        marked["messages"] = messages
        self._environment.marks = marks
        try:
            text = self.render(marked, budget, continues_final=continues_final)
        except ChatTemplateError as error:
            raise ChatTemplateError(marks.unmarked(str(error))) from error
        return marks.unescaped(str(text))

    def _write(self, variables: dict[str, Any], budget: Budget) -> str:
        whole: str = self._environment.noted(super()._write(variables, budget))
        return whole


def _replaced(text: str, old: Any, new: Any, count: int | None = None) -> str:
    old, new = (each if isinstance(each, str) else str(each) for each in (old, new))
    return text.replace(old, new, -1 if count is None else count)
