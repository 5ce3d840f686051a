"""Tries guides on the compiler that an engine uses, as a process that may be lost.

`python -m tokenwire_worker.engines.guides.trial COMPILER MODEL VOCABULARY` answers as in `process`.
The compiler is xgrammar or llguidance; vLLM and TensorRT-LLM bring both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from tokenwire_worker.engines.guides.choices import choice_pattern
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.guides.process import FaultOf, answer
from tokenwire_worker.engines.port import Ability, Guide
from tokenwire_worker.engines.text import told

Compile = Callable[[Guide], None]
"""Compiles a form; raises where it can't."""


def xgrammar_compiler(model: str, vocabulary_size: int) -> Compile:
    """Loads xgrammar with the model's tokenizer."""
    xgrammar: Any = importlib.import_module("xgrammar")
    info = xgrammar.TokenizerInfo.from_huggingface(_tokenizer(model), vocab_size=vocabulary_size)
    compiler = xgrammar.GrammarCompiler(info)

    def compile_form(guide: Guide) -> None:
        compiler.compile_grammar(grammar_text(guide))

    return compile_form


def llguidance_compiler(model: str, vocabulary_size: int) -> Compile:
    """Loads llguidance with the model's tokenizer."""
    llguidance: Any = importlib.import_module("llguidance")
    adapter: Any = importlib.import_module("llguidance.hf")
    tokenizer = adapter.from_tokenizer(_tokenizer(model), vocabulary_size)
    matcher = llguidance.LLMatcher

    def compile_form(guide: Guide) -> None:
        if guide.free_prefix is not None:
            raise ValueError("a free prefix is not supported by llguidance")
        text, options = guide.text, guide.options
        forms: dict[Ability, Callable[[], Any]] = {
            Ability.GUIDED_JSON_SCHEMA: lambda: matcher.grammar_from_json_schema(text),
            Ability.GUIDED_JSON_OBJECT: lambda: matcher.grammar_from_json_schema(
                '{"type": "object"}'
            ),
            Ability.GUIDED_REGEX: lambda: matcher.grammar_from_regex(text),
            Ability.GUIDED_CHOICE: lambda: matcher.grammar_from_regex(choice_pattern(options)),
        }
        fault = matcher.validate_grammar(forms[guide.form](), tokenizer)
        if fault:
            raise ValueError(fault)

    return compile_form


COMPILERS = {"xgrammar": xgrammar_compiler, "llguidance": llguidance_compiler}


def _tokenizer(model: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(model)


def main(compiler: str, model: str, vocabulary_size: int) -> None:
    """Runs as a process; see the module."""

    def load() -> FaultOf:
        compile_form = COMPILERS[compiler](model, vocabulary_size)

        def fault(guide: Guide) -> str | None:
            try:
                compile_form(guide)
            except Exception as error:  # noqa: BLE001 - compilers raise anything
                return told(error)
            return None

        return fault

    answer(load)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
