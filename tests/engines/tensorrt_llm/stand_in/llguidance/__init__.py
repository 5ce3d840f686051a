"""A compiler of guides that says what is wrong the way llguidance does, and compiles nothing."""

from __future__ import annotations

import json
import re


class LLMatcher:
    @staticmethod
    def grammar_from_json_schema(schema: str) -> tuple[str, str]:
        return "json", schema

    @staticmethod
    def grammar_from_regex(regex: str) -> tuple[str, str]:
        return "regex", regex

    @staticmethod
    def validate_grammar(grammar: tuple[str, str], tokenizer: tuple[str, int]) -> str:
        kind, text = grammar
        assert tokenizer[1] == 4096
        try:
            unknown = [key for key in json.loads(text) if key == "not"] if kind == "json" else None
            re.compile(text if kind == "regex" else "")
        except re.error as error:
            return f'at 1(8): invalid regex "{text}" (in regex):\n    {text}\n    ^\nerror: {error}'
        except ValueError as error:
            return str(error)
        return f"Unimplemented keys: {json.dumps(unknown)}" if unknown else ""
