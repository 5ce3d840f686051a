"""Jinja's sandbox with a budget: what a template may compute, hold and write is bounded.

Jinja's own sandbox keeps a template from reaching out, not from running for ever. Here each turn of
a loop, each macro, call and filter is a step, and steps and CPU time are limited. Operations that
can make something large out of something small are checked before they are done, since none of them
can be interrupted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, ItemsView, Iterable, KeysView, Sequence, ValuesView
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from types import BuiltinMethodType
from typing import Any

import jinja2
from jinja2 import nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SIZE_LIMIT = 8 * 2**20
"""Characters of a text, or elements of a list, that a template may make: twice the largest request,
so that quoting all of one in JSON passes."""

WEIGHED_LIMIT = 200_000
"""Elements of a nested value that is written as text. A list that holds another one twice, and that
another one twice, is small in memory and endless as text."""

NUMBER_BITS_LIMIT = 4096
"""Bits of a whole number that `*` or `**` may make; a template needs 64."""

INDENT_LIMIT = 64
"""Spaces of `tojson`'s indent."""

PARTS_LIMIT = 100_000
"""Parts that `batch` and `slice` may make, as `range` in Jinja's sandbox."""

CHECK_STEPS = 64
"""Steps between looks at the clock, which costs as much as several steps."""


class BudgetError(Exception):
    """The template needs more steps or time than it was given."""


class TooLargeError(jinja2.TemplateRuntimeError):
    """The template makes something larger than any prompt."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one rendering may use."""

    steps: int
    cpu_s: float
    output_chars: int


COMPILE_BUDGET = Budget(steps=100_000, cpu_s=5.0, output_chars=SIZE_LIMIT)
"""Jinja computes what is constant in a template when it compiles it."""


class _StepCounter(CodeGenerator):
    """Compiles a step into each turn of a loop and each macro."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        self._repeats(node.body)
        super().visit_For(node, frame)

    def visit_Macro(self, node: nodes.Macro, frame: Frame) -> None:
        self._repeats(node.body)
        super().visit_Macro(node, frame)

    def visit_CallBlock(self, node: nodes.CallBlock, frame: Frame) -> None:
        self._repeats(node.body)
        super().visit_CallBlock(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _output_child_pre(self, *_: Any) -> None:
        self.write("environment.text(")  # in the place of `str`

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        if id(nodes) in self.__dict__.get("_repeated", ()):
            self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def _repeats(self, body: list[nodes.Node]) -> None:
        self.__dict__.setdefault("_repeated", set()).add(id(body))


class BudgetEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one template; renders one chat at a time."""

    code_generator_class = _StepCounter
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._steps_left = 0
        self._cpu_end_s = 0.0
        self.begin(COMPILE_BUDGET)
        self.globals.pop("lipsum")  # writes as much as it is asked for
        self.filters["join"] = self._join
        self.filters["tojson"] = _to_json
        self.filters["_counted"] = self._counted
        self.filters = {name: self._bounded(name, each) for name, each in self.filters.items()}

    def begin(self, budget: Budget) -> None:
        """Gives the next rendering its budget."""
        self._steps_left = budget.steps
        self._cpu_end_s = time.thread_time() + budget.cpu_s

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            if loop.test is not None:  # turns that the condition passes over count too
                loop.iter = nodes.Filter(
                    loop.iter, "_counted", [], [], None, None, lineno=loop.lineno, environment=self
                )
        return tree

    def step(self) -> None:
        """Spends one step.

        Raises:
            BudgetError: none is left, or no time.
        """
        left = self._steps_left = self._steps_left - 1
        if not left % CHECK_STEPS:
            self._check()

    def concat(self, pieces: Iterable[str]) -> str:
        """Returns what a macro or a `set` block wrote."""
        whole = []
        size = 0
        for piece in pieces:
            size += len(piece)
            bounded(size)
            whole.append(piece)
        return "".join(whole)

    def concatenated(self, parts: Sequence[Any]) -> str:
        """Returns what `~` makes."""
        texts = [part if type(part) is str else self.text(part) for part in parts]
        bounded(sum(map(len, texts)))
        return "".join(texts)

    def text(self, value: Any) -> str:
        """Returns any value as text, once it is known not to be endless."""
        if type(value) is str:
            return value
        if not isinstance(value, str):
            self.weigh(value)
        return str(value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Returns what the sandbox returns, sooner for what templates ask for most."""
        kind = type(obj)
        if kind is dict:
            if attribute not in _DICT_NAMES:
                try:
                    return obj[attribute]
                except KeyError:
                    return self.undefined(obj=obj, name=attribute)
        elif kind is str:
            if attribute in _TEXT_METHODS:
                return getattr(obj, attribute)
        elif kind in (Namespace, LoopContext) and not attribute.startswith("_"):
            value = getattr(obj, attribute, ...)
            if type(value) in _PLAIN:
                return value
        return super().getattr(obj, attribute)

    def weigh(self, value: Any) -> int:
        """Returns the characters of a nested value's texts; each element is a step."""
        characters = elements = 0
        waiting = [value]
        while waiting:
            each = waiting.pop()
            if isinstance(each, str):
                characters += len(each)
                continue
            if isinstance(each, Namespace):
                each = each._Namespace__attrs  # noqa: SLF001 - jinja2 has no other way
            if isinstance(each, dict):
                waiting.extend(each)
                each = each.values()
            if isinstance(each, _CONTAINERS):
                elements += len(each)
                waiting.extend(each)
                if elements > WEIGHED_LIMIT or characters > SIZE_LIMIT:
                    raise TooLargeError("writes a value as text that is too large")
        self._steps_left -= elements // CHECK_STEPS * CHECK_STEPS
        if elements >= CHECK_STEPS:
            self._check()
        return characters

    def call_binop(self, _context: Context, operator: str, left: Any, right: Any) -> Any:
        """Does `+`, `*`, `**` and `%`, once their result is known not to be too large."""
        if operator == "+":
            value = left + right
        else:
            if operator == "*":
                _check_product(left, right)
            elif operator == "**":
                _check_power(left, right)
            elif isinstance(left, str):
                self._check_format(left, right if isinstance(right, tuple) else (right,), "%")
            value = self.binop_table[operator](left, right)
        if isinstance(value, _SIZED) and len(value) > SIZE_LIMIT:
            bounded(len(value))
        return value

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the template, a method of a value or a macro: one step."""
        self.step()
        if type(function) is BuiltinMethodType:
            # It takes none of what Jinja would pass, and is safe, or could not be reached.
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            args = self._check_method(function, args, kwargs)
            value = function(*args, **kwargs)
        else:
            inner = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
            args = self._check_method(inner, args, kwargs)
            value = super().call(context, function, *args, **kwargs)
        if isinstance(value, _SIZED) and len(value) > SIZE_LIMIT:
            bounded(len(value))
        return value

    def _check_method(
        self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Checks a method that makes a text larger; returns the arguments to call it with."""
        text = getattr(method, "__self__", None)
        if not isinstance(text, str):
            return args
        name = method.__name__
        if name in _METHODS:
            bounded(_METHODS[name](text, *args, **kwargs))
        elif name in ("format", "format_map"):
            self._check_format(text, (*args, kwargs), "{")
        elif name == "join" and args:
            args = (list(args[0]), *args[1:])
            bounded(sum(len(each) + len(text) for each in args[0]))
        return args

    def _check(self) -> None:
        if self._steps_left <= 0 or time.thread_time() > self._cpu_end_s:
            raise BudgetError

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the filter as one that spends a step and checks sizes."""
        start = 1 if hasattr(function, "jinja_pass_arg") else 0
        check = _FILTERS.get(name)
        structural = name in _STRUCTURAL

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.step()
            given = args[start:]
            if not structural and given and not isinstance(given[0], str):
                self.weigh(given[0])
            if check is not None:
                check(self, *given, **kwargs)
            value = function(*args, **kwargs)
            if isinstance(value, _SIZED) and len(value) > SIZE_LIMIT:
                bounded(len(value))
            return value

        return limited

    @staticmethod
    @pass_eval_context
    def _join(
        context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | None = None
    ) -> str:
        environment: Any = context.environment
        if attribute is not None:
            value = map(make_attrgetter(environment, attribute), value)
        parts = [each if type(each) is str else environment.text(each) for each in value]
        separator = str(d)
        bounded(sum(map(len, parts)) + len(parts) * len(separator))
        return separator.join(parts)

    def _counted(self, iterable: Iterable[Any]) -> Iterable[Any]:
        for each in iterable:
            self.step()
            yield each

    def _check_format(self, form: str, values: tuple[Any, ...], mark: str) -> None:
        """Checks a format: its widths, those among the values, and all values at each mark."""
        widths = sum(int(digits[:12]) for digits in _DIGITS.findall(form))
        if "*" in form or _NESTED_FIELD.search(form):
            named = chain.from_iterable(each.values() for each in values if isinstance(each, dict))
            widths += sum(abs(each) for each in (*values, *named) if isinstance(each, int))
        characters = self.weigh(values) if values else 0
        bounded(len(form) + widths)
        bounded(form.count(mark) * characters // 4)  # rarely is each value at each mark


def bounded(size: int) -> None:
    """Raises TooLargeError where a text or list of this size is more than any prompt may have."""
    if size > SIZE_LIMIT:
        raise TooLargeError(f"makes a text or list of {size} elements; at most {SIZE_LIMIT}")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > NUMBER_BITS_LIMIT:
            raise TooLargeError("makes a number that is too large")
    elif isinstance(left, (str, list, tuple)) and isinstance(right, int):
        bounded(len(left) * right)
    elif isinstance(right, (str, list, tuple)) and isinstance(left, int):
        bounded(len(right) * left)


def _check_power(base: Any, exponent: Any) -> None:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * abs(exponent) > NUMBER_BITS_LIMIT:
        raise TooLargeError("makes a number that is too large")


def _replaced(text: str, old: str, new: str, *_count: Any) -> int:
    return len(text) + text.count(old) * max(len(new) - len(old), 0)


def _width(text: str, width: int = 0, *_fill: Any) -> int:
    return max(len(text), int(width))


def _check_indent(_: Any, text: Any, width: int | str = 4, *_rest: Any, **_options: Any) -> None:
    added = width if isinstance(width, int) else len(width)
    bounded(len(str(text)) + (str(text).count("\n") + 1) * added)


def _check_parts(_: Any, _value: Any, parts: int = 0, *_rest: Any, **options: Any) -> None:
    count = options.get("linecount", options.get("slices", parts))
    if isinstance(count, (int, float)) and count > PARTS_LIMIT:
        raise TooLargeError(f"asks for {count} parts; at most {PARTS_LIMIT}")


def _check_wrap(_: Any, *args: Any, wrapstring: str | None = None, **_options: Any) -> None:
    wrap = wrapstring or (args[3] if len(args) > 3 else None) or ""
    bounded(len(str(args[0])) * (len(wrap) + 1))


def _check_replace(_: Any, text: Any, old: Any = "", new: Any = "", *_rest: Any, **_o: Any) -> None:
    bounded(_replaced(str(text), str(_o.get("old", old)), str(_o.get("new", new))))


def _to_json(value: Any, indent: int | str | None = None, **options: Any) -> str:
    # Jinja's own filter escapes <, > and &, which a model would read literally.
    if (len(indent) if isinstance(indent, str) else indent or 0) > INDENT_LIMIT:
        raise TooLargeError(f"indents by more than {INDENT_LIMIT}")
    return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})


_SIZED = (str, list, tuple)
_PLAIN = frozenset({str, int, bool, list, dict, type(None)})
_DICT_NAMES = frozenset(dir(dict))
_TEXT_METHODS = frozenset(
    name for name in dir(str) if not name.startswith("_") and not name.startswith("format")
)
_CONTAINERS = (list, tuple, set, frozenset, KeysView, ItemsView, ValuesView)
_DIGITS = re.compile(r"\d+")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")

_METHODS: dict[str, Callable[..., int]] = {
    "replace": _replaced,
    "center": _width,
    "ljust": _width,
    "rjust": _width,
    "zfill": _width,
    "expandtabs": lambda text, tabsize=8: len(text) + text.count("\t") * int(tabsize),
    "translate": lambda text, table: len(text) * _longest(table),
}
"""Methods of texts that make a larger one: the most characters of their result."""

_FILTERS: dict[str, Callable[..., None]] = {
    "center": lambda _, text, width=80: bounded(_width(str(text), width)),
    "indent": _check_indent,
    "replace": _check_replace,
    "batch": _check_parts,
    "slice": _check_parts,
    "wordwrap": _check_wrap,
    "format": lambda self, form, *args, **kwargs: self._check_format(
        str(form), (*args, kwargs), "%"
    ),
}
"""Filters that make something larger."""

_STRUCTURAL = frozenset(
    {
        "_counted", "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float",
        "groupby", "int", "items", "join", "last", "length", "list", "map", "max", "min", "random",
        "reject", "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort", "sum",
        "unique",
    }
)  # fmt: skip
"""Filters that make no text of what they are given."""


def _longest(table: Any) -> int:
    values = table.values() if isinstance(table, dict) else table
    return max((len(each) for each in values if isinstance(each, str)), default=1)
