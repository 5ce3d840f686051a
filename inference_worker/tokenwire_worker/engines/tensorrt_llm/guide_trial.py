"""Tries guides on xgrammar, the compiler within TensorRT-LLM, as a process that may be lost.

`python -m tokenwire_worker.engines.tensorrt_llm.guide_trial MODEL VOCABULARY` says `{}` once it is
ready, and answers each line of standard input, `{"form": ..., "text": ..., "options": [...]}`, with
one line, `{"fault": null or what is wrong}`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from tokenwire_worker.engines.port import Ability
from tokenwire_worker.engines.tensorrt_llm.choices import choice_grammar

_PLACE = re.compile(r"^(\[[0-9:]+\] )?\S+\.(cc|cpp|h|hpp):\d+: ")


def compile_form(compiler: Any, asked: dict[str, Any]) -> None:
    """Compiles a form; raises whatever the compiler does."""
    form, text = Ability(asked["form"]), asked["text"]
    forms: dict[Ability, Callable[[], Any]] = {
        Ability.GUIDED_JSON_SCHEMA: lambda: compiler.compile_json_schema(text),
        Ability.GUIDED_JSON_OBJECT: compiler.compile_builtin_json_grammar,
        Ability.GUIDED_REGEX: lambda: compiler.compile_regex(text),
        Ability.GUIDED_GRAMMAR: lambda: compiler.compile_grammar(text),
        Ability.GUIDED_CHOICE: lambda: compiler.compile_grammar(choice_grammar(asked["options"])),
    }
    forms[form]()


def told(error: BaseException) -> str:
    """Returns what an error says, without where in the compiler's sources it was raised."""
    line = str(error).strip().partition("\n")[0]
    return _PLACE.sub("", line) or type(error).__name__


def main(model: str, vocabulary_size: int) -> None:
    """Answers until standard input ends."""
    # What libraries print goes elsewhere: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Packages that TensorRT-LLM brings.
    xgrammar: Any = importlib.import_module("xgrammar")
    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary_size)
    compiler = xgrammar.GrammarCompiler(info)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        fault = None
        try:
            compile_form(compiler, json.loads(line))
        except Exception as error:  # noqa: BLE001 - compilers raise anything
            fault = told(error)
        print(json.dumps({"fault": fault}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
