"""Tries guides on the compiler that an engine uses, as a process that may be lost.

`python -m tokenwire_worker.engines.guides.trial COMPILER MODEL VOCABULARY` says `{}` once it is
ready, and answers each line of standard input, `{"form": ..., "text": ..., "options": [...]}`, with
one line, `{"fault": null or what is wrong}`. The compiler is xgrammar or llguidance; vLLM and
TensorRT-LLM bring both.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from tokenwire_worker.engines.guides.choices import choice_grammar, choice_pattern
from tokenwire_worker.engines.port import Ability

LONGEST_FAULT = 300
"""Characters of what is wrong; llguidance repeats the whole form."""

_PLACE = re.compile(r"^(\[[0-9:]+\] )?\S+\.(cc|cpp|h|hpp):\d+: ")

Compile = Callable[[dict[str, Any]], None]
"""Compiles a form; raises where it can't."""


def xgrammar_compiler(model: str, vocabulary_size: int) -> Compile:
    """Loads xgrammar with the model's tokenizer."""
    xgrammar: Any = importlib.import_module("xgrammar")
    info = xgrammar.TokenizerInfo.from_huggingface(_tokenizer(model), vocab_size=vocabulary_size)
    compiler = xgrammar.GrammarCompiler(info)

    def compile_form(asked: dict[str, Any]) -> None:
        text, options = asked["text"], asked["options"]
        forms: dict[Ability, Callable[[], Any]] = {
            Ability.GUIDED_JSON_SCHEMA: lambda: compiler.compile_json_schema(text),
            Ability.GUIDED_JSON_OBJECT: compiler.compile_builtin_json_grammar,
            Ability.GUIDED_REGEX: lambda: compiler.compile_regex(text),
            Ability.GUIDED_GRAMMAR: lambda: compiler.compile_grammar(text),
            Ability.GUIDED_CHOICE: lambda: compiler.compile_grammar(choice_grammar(options)),
        }
        forms[Ability(asked["form"])]()

    return compile_form


def llguidance_compiler(model: str, vocabulary_size: int) -> Compile:
    """Loads llguidance with the model's tokenizer."""
    llguidance: Any = importlib.import_module("llguidance")
    adapter: Any = importlib.import_module("llguidance.hf")
    tokenizer = adapter.from_tokenizer(_tokenizer(model), vocabulary_size)
    matcher = llguidance.LLMatcher

    def compile_form(asked: dict[str, Any]) -> None:
        text, options = asked["text"], asked["options"]
        forms: dict[Ability, Callable[[], Any]] = {
            Ability.GUIDED_JSON_SCHEMA: lambda: matcher.grammar_from_json_schema(text),
            Ability.GUIDED_JSON_OBJECT: lambda: matcher.grammar_from_json_schema(
                '{"type": "object"}'
            ),
            Ability.GUIDED_REGEX: lambda: matcher.grammar_from_regex(text),
            Ability.GUIDED_CHOICE: lambda: matcher.grammar_from_regex(choice_pattern(options)),
        }
        fault = matcher.validate_grammar(forms[Ability(asked["form"])](), tokenizer)
        if fault:
            raise ValueError(fault)

    return compile_form


COMPILERS = {"xgrammar": xgrammar_compiler, "llguidance": llguidance_compiler}


def _tokenizer(model: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(model)


def told(error: BaseException) -> str:
    """Returns what an error says in one line, without where in the sources it was raised."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A regular expression's error is drawn below it, and said in the last line.
    line = lines[-1] if lines[-1].startswith("error: ") else lines[0]
    return _PLACE.sub("", line).removeprefix("error: ")[:LONGEST_FAULT]


def main(compiler: str, model: str, vocabulary_size: int) -> None:
    """Answers until standard input ends."""
    # What libraries print goes elsewhere: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    compile_form = COMPILERS[compiler](model, vocabulary_size)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        fault = None
        try:
            compile_form(json.loads(line))
        except Exception as error:  # noqa: BLE001 - compilers raise anything
            fault = told(error)
        print(json.dumps({"fault": fault}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
