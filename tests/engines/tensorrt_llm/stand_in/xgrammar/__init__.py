"""A grammar compiler that knows a few bad forms by sight, and compiles nothing."""

from __future__ import annotations

import json
import os
import re
import signal


class TokenizerInfo:
    @classmethod
    def from_huggingface(cls, tokenizer, *, vocab_size):
        assert vocab_size == 4096
        return cls()


class GrammarCompiler:
    def __init__(self, info: TokenizerInfo) -> None:
        self.count = 0

    def compile_json_schema(self, schema: str) -> None:
        json.loads(schema)

    def compile_builtin_json_grammar(self) -> None: ...

    def compile_regex(self, regex: str) -> None:
        if regex == "for ever":
            while True:
                re.match("(a*)*b", "a" * 24)
        if regex == "overflow":
            os.kill(os.getpid(), signal.SIGSEGV)
        if regex == "tried":
            self.count += 1
            raise RuntimeError(f"tried {self.count} times")
        try:
            re.compile(regex)
        except re.error as error:
            raise RuntimeError(
                f"[05:03:29] /a/regex.cc:75: Regex parsing error: {error}"
            ) from error

    def compile_grammar(self, grammar: str) -> None:
        if "root ::=" not in grammar:
            raise RuntimeError("The root rule with name root is not found.\nmore")
