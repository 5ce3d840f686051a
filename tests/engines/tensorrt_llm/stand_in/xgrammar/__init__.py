"""A grammar compiler that knows a few bad forms by sight, and compiles nothing."""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np


class TokenizerInfo:
    stop_token_ids = (0,)

    @classmethod
    def from_huggingface(cls, tokenizer, *, vocab_size):
        assert vocab_size == 4096
        return cls()


class GrammarCompiler:
    def __init__(self, info: TokenizerInfo) -> None:
        self.count = 0

    def compile_grammar(self, grammar: str) -> str:
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
        return grammar


class GrammarMatcher:
    """Lets the ids 0, 1 and 2 through; a grammar of "ambiguous" computes for 50 ms at each."""

    def __init__(self, compiled: str) -> None:
        self.grammar = compiled

    def fill_next_token_bitmask(self, mask: Mask) -> bool:
        mask.words[:] = 0
        mask.words[0, 0] = 0b111
        until_s = time.process_time() + (0.05 if '"ambiguous"' in self.grammar else 0)
        while time.process_time() < until_s:
            pass
        return True

    def accept_token(self, token: int) -> bool:
        assert type(token) is int
        assert token in {1, 2}, "the end, where there is another way"
        return True

    def is_terminated(self) -> bool:
        return False


class Mask:
    """What allocate_token_bitmask returns: a tensor of torch."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = words

    def numpy(self) -> np.ndarray:
        return self.words


def allocate_token_bitmask(batch_size: int, vocab_size: int) -> Mask:
    return Mask(np.full((batch_size, -(-vocab_size // 32)), -1, np.int32))
