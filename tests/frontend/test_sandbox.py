"""A template that runs away ends, soon and small, whatever it runs away with."""

# ruff: noqa: E501 - templates are easier to read in one line

from __future__ import annotations

import time
import tracemalloc

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_frontend.models.sandbox import Budget, BudgetError

BUDGET = Budget(steps=200_000, cpu_s=1.0, output_chars=2**20)

VARIABLES = {"messages": [{"role": "user", "content": "hi"}], "tools": None}


def growing(step: str, start: str = "'aa'") -> str:
    """A template that makes a value larger in each of 60 turns, and writes its length."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}"
        "{{ ns.x | length }}"
    )


def nested(use: str) -> str:
    """A list that holds a list twice, 60 deep, and what is done with it."""
    return (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% endfor %}" + use
    )


ENDLESS = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that pass over all": (
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}"
    ),
    "macros": (
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
    ),
    "filters": "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "filters of filters": "{% for i in range(9999) %}{{ range(9999) | map('string') | list }}{% endfor %}",
    "calls": "{% for i in range(99999) %}{{ 'a'.upper().lower().upper() }}{% endfor %}",
    "a call block": "{% macro a() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call a() %}{% for i in range(99999) %}{% endfor %}{% endcall %}",
}

TOO_LARGE = [
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{{ 'a' * 10 ** 9 }}",
    "{{ 1000000000 * 'a' }}",
    "{{ ([1] * 1000000000) | length }}",
    "{{ ((1, 2) * 1000000000) | length }}",
    "{{ ('a' * 99 * 99 * 99) * 99 * 99 }}",
    "{{ 2 ** 1000000000 }}",
    "{{ (2 ** 4000) * (2 ** 4000) }}",
    growing("{% set ns.x = ns.x * ns.x %}", "3"),
    growing("{% set ns.x = ns.x + ns.x %}"),
    growing("{% set ns.x = ns.x + ns.x %}", "[1]"),
    growing("{% set ns.x = ns.x ~ ns.x %}"),
    growing("{% set ns.x = ns.x | replace('a', 'aaaaaaaa') %}"),
    growing("{% set ns.x = ns.x | replace(old='a', new='aaaaaaaa') %}"),
    growing("{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}"),
    growing("{% set ns.x = ns.x.replace('', ns.x) %}"),
    growing("{% set ns.x = (ns.x | safe).replace('a', 'aaaaaaaa') %}"),
    growing("{% set ns.x = ns.x.join([ns.x, ns.x]) %}"),
    growing("{% set ns.x = [ns.x, ns.x] | join(ns.x) %}"),
    growing("{% set ns.x = '%s%s%s%s%s%s%s%s' % ((ns.x,) * 8) %}"),
    growing("{% set ns.x = '{0}{0}{0}{0}{0}{0}{0}{0}'.format(ns.x) %}"),
    growing("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    growing("{% set ns.x %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}"),
    growing("{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns.x = m(ns.x) %}"),
    *(
        nested(use)
        for use in (
            "{{ ns.x }}",
            "{{ ns.x | tojson }}",
            "{{ ns.x | string }}",
            "{{ ns.x | pprint }}",
            "{{ ns.x | join }}",
            "{{ '%s' % ns.x }}",
            "{{ '{}'.format(ns.x) }}",
            "{{ ns.x ~ 'a' }}",
            "{{ ns.x | upper }}",
            "{{ {'a': ns.x}.values() }}",
            "{{ [ns] }}",
            "{{ ns.x | urlencode }}",
            "{{ '%s' | format(ns.x) }}",
            "{{ {'a': ns.x} | xmlattr }}",
            "{{ raise_exception(ns.x) }}",
            "{% autoescape true %}{{ ns.x }}{{ ns.x ~ 'a' }}{{ [ns.x] | join }}{% endautoescape %}",
        )
    ),
    "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a' | center(width=1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.rjust(1000000000, 'b') }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ 'a\tb'.expandtabs(1000000000) }}",
    "{{ 'a\tb'.expandtabs(tabsize=1000000000) }}",
    "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}",
    "{{ ('a\n' * 1000) | indent(1000000) }}",
    "{{ ('a\n' * 1000000) | indent('x' * 1000000) }}",
    "{{ ('ab' * 1000000) | wordwrap(1, wrapstring='x' * 10000) }}",
    "{{ [1] | tojson(indent=1000000000) }}",
    "{{ [1, 2] | tojson(separators=('x' * 1000000, ':')) }}",
    "{{ [1, 2] | batch(1000000000, 'x') | list | length }}",
    "{{ [1, 2] | slice(1000000000) | list | length }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}",
    "{{ '%01000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ '{:{}000000000}'.format(1, 1) }}",
    "{{ '{:{}}'.format(1, '1000000000') }}",
    "{{ '{:{0[a][0]}}'.format({'a': [1000000000]}) }}",
    "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "{{ '{x:{w}}'.format_map({'x': 1, 'w': 1000000000}) }}",
    "{{ ('a' * 1000000).join(['b'] * 1000000) }}",
    "{{ (['b'] * 1000000) | join('a' * 1000000) }}",
    "{{ (['b' * 1000000] * 1000000) | join }}",
    "{{ ([{'a': 'b' * 1000000}] * 100000) | join(attribute='a') }}",
    "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% for i in range(90000) %}" + "x" * 1000 + "{% endfor %}",
]


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_exceeds_its_budget(name):
    began_s = time.thread_time()
    with pytest.raises(BudgetError):
        ChatTemplate(ENDLESS[name], {}).render(VARIABLES, BUDGET)
    assert time.thread_time() - began_s < 2 * BUDGET.cpu_s


@pytest.mark.parametrize("source", TOO_LARGE)
def test_what_is_too_large_is_refused_before_it_is_made(source):
    tracemalloc.start()
    try:
        with pytest.raises(ChatTemplateError):
            ChatTemplate(source, {}).render(VARIABLES, BUDGET)
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


def test_text_writers_of_no_use_to_a_chat_are_not_there():
    with pytest.raises(ChatTemplateError, match="'lipsum' is undefined"):
        ChatTemplate("{{ lipsum(n=1000000) }}", {}).render(VARIABLES, BUDGET)


def test_a_long_chat_costs_a_small_part_of_its_budget():
    source = (
        "{% for m in messages %}{% if m.role == 'user' and loop.index0 % 2 == 0 %}"
        "{{ '<|' + m.role + '|>' ~ m.content | trim }}{% else %}{{ m | tojson }}{% endif %}"
        "{% endfor %}"
    )
    messages = [{"role": "user", "content": f"message {number}"} for number in range(4096)]
    budget = Budget(steps=40_000, cpu_s=10.0, output_chars=2**20)
    text = ChatTemplate(source, {}).render({"messages": messages}, budget)
    assert text.count("message ") == 4096


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ns is undefined }}{{ messages.y is defined }}", "TrueFalse"),
        ("{% set ns = namespace(a=none) %}{{ ns.a is none }}{{ ns.b is defined }}", "TrueFalse"),
        ("{{ {'items': 1}.items() | list }}{{ {'a': 1}.a }}{{ {'a': 1}['a'] }}", "[('items', 1)]11"),
        ("{{ {'a': 1}.b is defined }}{{ {'a': 1}.get('b', 2) }}", "False2"),
        ("{{ 'a,b'.split(',') | last }}{{ ' a '.strip() }}{{ 'ab'[1:] }}", "bab"),
        ("{{ '%s-%5.1f|%%' % ('a', 2.25) }}{{ '{:>3}{x}'.format('a', x=1) }}", "a-  2.2|%  a1"),
        ("{{ '20241231 %s' % 'a' }}{{ '2024 {:>{w}}'.format('a', w=3) }}", "20241231 a2024   a"),
        ("{{ [1, 'a', none, true] }}{{ (1, 2) }}{{ {'k': 'v'} }}", "[1, 'a', None, True](1, 2){'k': 'v'}"),
        ("{{ 7 % 3 }}{{ 2 ** 3 }}{{ 3 * 'ab' }}{{ [1] + [2] }}{{ 'a' ~ 1 ~ none }}", "18ababab[1, 2]a1None"),
        ("{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/2 2/2 "),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% else %}x{% endfor %}", "01"),
        ("{% macro m(x, y=2) %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}{% call m(1) %}c{% endcall %}", "12c"),
        ("{{ ['b', 'a'] | sort | join('-') }}{{ [{'a': 1}] | map(attribute='a') | list }}", "a-b[1]"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{% endfilter %}", "a1B"),
    ],
)  # fmt: skip
def test_what_templates_do_is_as_in_jinja(source, text):
    plain = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    assert plain.from_string(source).render(VARIABLES) == text
    assert ChatTemplate(source, {}).render(VARIABLES, BUDGET) == text
