"""A grammar compiler that knows a few bad forms by sight, and compiles nothing."""

from __future__ import annotations

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

    def compile_grammar(self, grammar: str) -> None:
        if '"for ever"' in grammar:
            while True:
                re.match("(a*)*b", "a" * 24)
        if '"overflow"' in grammar:
            os.kill(os.getpid(), signal.SIGSEGV)
        if '"tried"' in grammar:
            self.count += 1
            raise RuntimeError(f"tried {self.count} times")
        if '"unknown"' in grammar:
            raise RuntimeError("[05:03:29] /a/grammar.cc:75: EBNF parser error: unknown\nmore")
        assert "root ::=" in grammar
