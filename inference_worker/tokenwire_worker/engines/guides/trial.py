"""Tries guides on the compiler that an engine uses, as a process that may be lost.

`python -m tokenwire_worker.engines.guides.trial COMPILER MODEL VOCABULARY` answers as in `process`.
The compiler is xgrammar or llguidance; vLLM and TensorRT-LLM bring both.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tokenwire_worker.engines.guides.choices import choice_pattern
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.guides.process import Tries, answer
from tokenwire_worker.engines.guides.walk import WALK_OUTPUTS, Walk
from tokenwire_worker.engines.port import Ability, Guide
from tokenwire_worker.engines.text import told

Compile = Callable[[Guide], None]
"""Compiles a form; raises where it can't."""

WalkFault = Callable[[Guide], str | None]
"""Draws an output of a form that compiles; returns what is wrong with its cost, or None."""


def xgrammar_compiler(model: str, vocabulary_size: int) -> tuple[Compile, WalkFault]:
    """Loads xgrammar with the model's tokenizer."""
    xgrammar: Any = importlib.import_module("xgrammar")
    info = xgrammar.TokenizerInfo.from_huggingface(_tokenizer(model), vocab_size=vocabulary_size)
    compiler = xgrammar.GrammarCompiler(info)
    mask = xgrammar.allocate_token_bitmask(1, vocabulary_size)
    bits = mask.numpy().view(np.uint8)[0]

    def compile_form(guide: Guide) -> None:
        compiler.compile_grammar(grammar_text(guide))

    def walk_fault(guide: Guide) -> str | None:
        # The compiler keeps what it has compiled.
        compiled = compiler.compile_grammar(grammar_text(guide))
        walk = Walk(vocabulary_size)
        for seed in range(WALK_OUTPUTS):
            output = xgrammar.GrammarMatcher(compiled)
            drawn = random.Random(seed)  # noqa: S311 - nothing is to be secret
            while not (walk.is_over or output.is_terminated()):
                output.fill_next_token_bitmask(mask)
                allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
                going_on = np.setdiff1d(allowed, info.stop_token_ids)
                output.accept_token(int(drawn.choice(going_on if going_on.size else allowed)))
                walk.take()
        return walk.fault()

    return compile_form, walk_fault


def llguidance_compiler(model: str, vocabulary_size: int) -> tuple[Compile, WalkFault]:
    """Loads llguidance with the model's tokenizer.

    Its masks have bounds of their own: it ends an output whose next mask takes too much.
    """
    llguidance: Any = importlib.import_module("llguidance")
    adapter: Any = importlib.import_module("llguidance.hf")
    tokenizer = adapter.from_tokenizer(_tokenizer(model), vocabulary_size)
    matcher = llguidance.LLMatcher

    def compile_form(guide: Guide) -> None:
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

    return compile_form, lambda _: None


COMPILERS = {"xgrammar": xgrammar_compiler, "llguidance": llguidance_compiler}


def _tokenizer(model: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(model)


def main(compiler: str, model: str, vocabulary_size: int) -> None:
    """Runs as a process; see the module."""

    def load() -> Tries:
        compile_form, walk_fault = COMPILERS[compiler](model, vocabulary_size)

        def fault(guide: Guide) -> str | None:
            try:
                compile_form(guide)
            except Exception as error:  # noqa: BLE001 - compilers raise anything
                return told(error)
            return None

        return Tries(fault, walk_fault)

    answer(load)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
