"""Jinja's sandbox with a budget: what a template may compute, hold and write is bounded.

Jinja's own sandbox keeps a template from reaching out, not from running for ever. Here each turn of
a loop, each macro, call and filter is a step, and steps and CPU time are limited. Operations that
can make something large out of something small are checked before they are done, since none of them
can be interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, ItemsView, Iterable, KeysView, Sequence, ValuesView
from dataclasses import dataclass
from functools import wraps
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tokenwire_frontend.models.template_sizes import (
    FILTER_CHECKS,
    METHOD_SIZES,
    SIZE_LIMIT,
    TooLargeError,
    bounded,
    check_format,
    check_power,
    check_product,
    to_json,
)

WEIGHED_LIMIT = 200_000
"""Elements of a nested value that is written as text. A list that holds another one twice, and that
another one twice, is small in memory and endless as text."""

CHECK_STEPS = 64
"""Steps between looks at the clock, which costs as much as several steps."""


class BudgetError(Exception):
    """The template needs more steps or time than it was given."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one rendering may use."""

    steps: int
    cpu_s: float
    output_chars: int


COMPILE_BUDGET = Budget(steps=100_000, cpu_s=5.0, output_chars=SIZE_LIMIT)
"""Jinja computes what is constant in a template when it compiles it."""


class _Dict:
    """`dict` of templates: makes dicts, and reaches no method that changes one."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` of templates, whose names can't begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        names = dict(*args[1:], **kwargs)
        for name in names:
            _check_name(name)
        Namespace.__init__(args[0], names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace can't have a name that begins with `_`: {name!r}")


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
        escapes = frame.eval_ctx.autoescape and not frame.eval_ctx.volatile
        self.write(f"{'markup_join' if escapes else 'str_join'}(environment.texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def _output_child_pre(self, *child: Any) -> None:
        super()._output_child_pre(*child)  # `str(` or `escape(`
        self.write("environment.weighed(")

    def _output_child_post(self, *child: Any) -> None:
        self.write(")")
        super()._output_child_post(*child)

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
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.filters["join"] = self._join
        self.filters["tojson"] = to_json
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

    def texts(self, parts: Sequence[Any]) -> list[str]:
        """Returns what `~` joins, once it is known not to be too large."""
        texts = [part if isinstance(part, str) else str(self.weighed(part)) for part in parts]
        bounded(sum(map(len, texts)))
        return texts

    def weighed(self, value: Any) -> Any:
        """Returns any value, once it is known not to be endless as text."""
        if not isinstance(value, str):
            self.weigh(value)
        return value

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
        elif kind in (_Namespace, LoopContext) and not attribute.startswith("_"):
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
                check_product(left, right)
            elif operator == "**":
                check_power(left, right)
            elif isinstance(left, str):
                values = right if isinstance(right, tuple) else (right,)
                check_format(left, values, "%", self.weigh(values))
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
        if name in METHOD_SIZES:
            bounded(METHOD_SIZES[name](text, *args, **kwargs))
        elif name in ("format", "format_map"):
            check_format(text, (*args, kwargs), "{", self.weigh((*args, kwargs)))
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
        check = FILTER_CHECKS.get(name)
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
        parts = [
            each if isinstance(each, str) else str(environment.weighed(each)) for each in value
        ]
        bounded(sum(map(len, parts)) + len(parts) * len(str(d)))
        joined: str = FILTERS["join"](context, parts, d)
        return joined

    def _counted(self, iterable: Iterable[Any]) -> Iterable[Any]:
        for each in iterable:
            self.step()
            yield each


_SIZED = (str, list, tuple)
_PLAIN = frozenset({str, int, bool, list, dict, type(None)})
_DICT_NAMES = frozenset(dir(dict))
_TEXT_METHODS = frozenset(
    name for name in dir(str) if not name.startswith("_") and not name.startswith("format")
)
_CONTAINERS = (list, tuple, set, frozenset, KeysView, ItemsView, ValuesView)
_STRUCTURAL = frozenset(
    {
        "_counted", "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float",
        "groupby", "int", "items", "join", "last", "length", "list", "map", "max", "min", "random",
        "reject", "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort", "sum",
        "unique",
    }
)  # fmt: skip
"""Filters that make no text of what they are given."""
