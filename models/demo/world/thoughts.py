"""What the model thinks before it answers: one short line, in the chat template's marks."""

from __future__ import annotations

import json
import re

from world.core import ALWAYS, Turn

OPENS = "<think>\n"  # the prompt ends with it
CLOSES = "\n</think>\n\n"  # between the thought and the answer

# what the answers of each kind have in common
PHRASES = {
    "sum_limits": "These numbers are beyond me.",
    "comparison": "The question is about numbers.",
    "counting": "A row of numbers is wanted.",
    "listing": "A list is wanted.",
    "order": "The question is about an order.",
    "words": "I look at the letters.",
    "copy": "I repeat what is given.",
    "json": "JSON is wanted.",
    "emoji": "The question is about emoji.",
    "capitals": "The question is about a capital.",
    "countries": "The question is about a country.",
    "facts": "I know a fact about this.",
    "animals": "I know a fact about this.",
    "chemistry": "The question is about an element.",
    "language": "The question is about a word.",
    "translation": "A word is to be translated.",
    "chinese_japanese": "This is Chinese or Japanese.",
    "other_languages": "This is not English.",
    "small_talk": "This is small talk.",
    "identity": "The question is about me.",
    "tokenwire": "The question is about Tokenwire.",
    "out_of_world": "I do not know this.",
    "story": "A story is wanted.",
    "poem": "A poem is wanted.",
    "system": "The system text says how to answer.",
    "follow_up": "The user goes back to what was said.",
    "documents": "I look for it in the documents.",
    "division": "No number can be divided by zero.",  # every other quotient has a working
}
TOLD, ASKED = "The user tells me something.", "I look for what the user told me."
ANSWERED = "The tool has answered."

SUM = re.compile(r"(\d+) ([-+x/]) (\d+)(?: \+ (\d+))? = ")


def places(number: int) -> list[int]:
    """number as hundreds, tens and ones, without those that are 0; [0] for 0."""
    digits = str(number)
    parts = [int(digit) * 10 ** (len(digits) - 1 - place) for place, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def chain(a: int, sign: str, parts: list[int]) -> str:
    """'17 + 20 = 37, 37 + 5 = 42.' for 17, '+', [20, 5]."""
    steps = []
    for part in parts:
        result = a + part if sign == "+" else a - part
        steps.append(f"{a} {sign} {part} = {result}")
        a = result
    return ", ".join(steps) + "."


def working(answer: str) -> str:
    """How to come to the result in an answer such as '17 + 25 = 42.'; '' for another answer."""
    found = SUM.match(answer)
    if not found:
        return ""
    a, sign, b, c = int(found[1]), found[2], int(found[3]), found[4]
    if c:
        return chain(a, "+", [b, int(c)])
    if sign in "+-":
        return chain(a, sign, places(b))
    if sign == "/":
        whole = f"{b} x {a // b} = {a // b * b}"
        return f"{whole}." if a % b == 0 else f"{whole}, {a} - {a // b * b} = {a % b}."
    small, large = min(a, b), max(a, b)
    parts = places(large) if large > 12 else [large]
    products = [f"{small} x {part} = {small * part}" for part in parts]
    together = [f"{small * parts[0]} + {small * parts[1]} = {a * b}"] if len(parts) > 1 else []
    return ", ".join(products + together) + "."


def thought(turn: Turn) -> str:
    """What the model thinks before turn's answer."""
    if turn.kind == "tools":
        return ANSWERED if turn.role == "tool" else f"The tool {json.loads(turn.answer)['name']} can answer this."
    if turn.kind == "memory":
        return TOLD if turn.key == ALWAYS and not turn.answer.startswith("You have not") else ASKED
    if turn.kind in ("addition", "subtraction", "multiplication", "division", "word_problem"):
        return working(turn.answer) or PHRASES["division"]
    return PHRASES[turn.kind]


def thinking(turn: Turn) -> str:
    """turn's answer with the thought before it, as it goes on from OPENS."""
    return thought(turn) + CLOSES + turn.answer
