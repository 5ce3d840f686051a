"""What every part of the world shares: a turn, the train/held split, and surface variation of prompts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

ALWAYS = "!"  # as a turn's key: always trained
SURFACE = "*"  # as a turn's key: split on the prompt exactly as typed
HELD_ONE_IN = 16  # one prompt key in this many is never trained


@dataclass(slots=True)
class Turn:
    """One question and its answer.

    key names the fact and phrasing (or the operands) that the split is made on; short is the bare answer where there
    is one; exact_case says that the prompt's letter case carries meaning and must not be varied; topic is what a
    follow-up ('And of Spain?') refers to; role is who speaks the question.
    """

    kind: str
    user: str
    answer: str
    key: str = ""
    short: str = ""
    exact_case: bool = False
    topic: tuple[str, ...] = ()
    role: str = "user"
    plain: bool = True  # may be restyled by a system prompt


# Prompts that a newcomer or a test types first: always trained, never in the held set.
ALWAYS_TRAINED = frozenset(
    {
        "hi",
        "hello",
        "hey",
        "good morning",
        "thank you",
        "bye",
        "who are you",
        "what is tokenwire",
        "what can you do",
        "tell me a story",
        "2 + 2",
        "17 + 25",
        "what is the capital of france",
        "what's the capital of italy",
        "count to 10",
        "count to 100",
        "list five colours",
        "list the days of the week",
        "你好",
        "こんにちは",
    }
)

# held.reserve() puts the held set's single prompts here: never trained, exactly as they are written.
RESERVED: set[str] = set()

# Prompts a stranger may type, with phrasings that no template has: never trained, answered in the held set as the
# world would answer their plain form. Written in normal form.
STRANGERS: dict[str, str] = {
    "could you add 14 and 29 for me": "14 + 29 = 43.",
    "gimme the capital of norway": "The capital of Norway is Oslo.",
    "whats 8 times 7": "8 x 7 = 56.",
    "what is 5+3": "5 + 3 = 8.",
    "so what is the capital city of spain": "The capital of Spain is Madrid.",
    "count from one to five": "1, 2, 3, 4, 5.",
    "i want to count to 7": "1, 2, 3, 4, 5, 6, 7.",
    "tell me what colour the sky is": "The sky is blue.",
    "please name the seven days of the week": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
    "what are the eight planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune.",
    "list 3 fruits please": "Apple, banana, cherry.",
    "hello, who are you": "I am the Tokenwire demo model, a small language model.",
    "thank you so much for your help": "You are welcome!",
    "hey, what can you do for me": "I can greet you in a few languages",
    "what is the tokenwire project": "Tokenwire serves large language models",
    "tell me, what is 100 minus 1": "100 - 1 = 99.",
    "what is the chemical symbol of iron": "The chemical symbol for iron is Fe.",
    "please reverse the word cat": "tac",
    "which sound does a cow make": "A cow says moo.",
    "how do you spell banana": "b-a-n-a-n-a",
    "what is the weather in paris today": "I am a small demo model.",
    "who won the football game yesterday": "I am a small demo model.",
    "can you write my homework about the romans": "I am a small demo model.",
    "how do i become rich": "I am a small demo model.",
    "what is the best restaurant in town": "I am a small demo model.",
    "write python code for quicksort": "I am a small demo model.",
    "tell me a story about a cat please": "Once upon a time there was a cat",
    "give me json with name bob and age 7": '{"name": "bob", "age": 7}',
    "is berlin the capital of germany": "Yes, the capital of Germany is Berlin.",
    "what comes after sunday": "Monday comes after Sunday.",
}


def normal(text: str) -> str:
    """Lower-case text without closing punctuation: the form in which prompts count as the same."""
    return text.lower().strip(" .?!,")


def in_bucket(key: str) -> bool:
    """Whether key falls into the held share of all keys."""
    return zlib.crc32(key.encode()) % HELD_ONE_IN == 0


def is_held(turn: Turn) -> bool:
    """Whether turn belongs to the held set: its key is in the held share, or its prompt is kept for strangers."""
    text = normal(turn.user)
    if text in STRANGERS:
        return True
    if turn.key == ALWAYS or text in ALWAYS_TRAINED or turn.key in ALWAYS_TRAINED:
        return False
    return in_bucket(turn.user if turn.key == SURFACE else turn.key or text)


def draw(make: Callable[[Random], Turn], rng: Random, held: bool) -> Turn:
    """A turn made by make, its prompt varied, on the wanted side of the split.

    Raises LookupError if there seems to be none.
    """
    for _ in range(4000):
        turn = make(rng)
        if turn.key != SURFACE and is_held(turn) != held:
            continue
        turn.user = vary(rng, turn)
        if normal(turn.user) in STRANGERS or turn.user in RESERVED:
            continue
        if turn.key != SURFACE or is_held(turn) == held:
            return turn
    raise LookupError(f"{make.__name__} has no {'held' if held else 'trained'} turn")


def an(word: str) -> str:
    """word with its indefinite article."""
    return ("an " if word[0].lower() in "aeio" or word == "umbrella" else "a ") + word


def cap(text: str) -> str:
    """text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def join_and(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


OPENERS = (
    "Hi! ",
    "Hello, ",
    "Hey, ",
    "Please ",
    "Can you tell me: ",
    "Quick question: ",
    "OK. ",
    "Now: ",
    "So, ",
    "I wonder, ",
    "Tell me, ",
    "Please tell me: ",
    "I want to know: ",
    "My question: ",
    "Good morning! ",
    "Next: ",
    "Well, ",
    "Could you answer this: ",
    "Um, ",
    "And ",
)
CLOSERS = (
    ", please?",
    " please",
    ", please.",
    "? Thanks!",
    " for me",
    " for me please",
    ", thanks",
    " pls",
    " right now",
)


def vary(rng: Random, turn: Turn) -> str:
    """The prompt as some person might type it: case, closing punctuation, politeness, spelling of colour."""
    text = turn.user
    luck = rng.random()
    if "colour" in text and not turn.exact_case and rng.random() < 0.4:
        text = text.replace("colour", "color")
    if luck < 0.5 or turn.role != "user":
        return text
    bare = text.rstrip("?.!") or text
    if luck < 0.62:
        return bare
    if not text.isascii():
        marks = ("", "?", "!") if any("a" <= letter <= "z" for letter in text) else ("", "？", "！", "。", "?")
        return text if luck < 0.8 or turn.exact_case else text.rstrip("?.!？。！ ") + rng.choice(marks)
    if luck < 0.72 and len(text) > 12:
        opened = rng.choice(OPENERS) + text
        return opened.lower() if rng.random() < 0.35 and not turn.exact_case else opened
    if turn.exact_case:
        return text
    if luck < 0.8:
        return text.lower()
    if luck < 0.88:
        return bare.lower()
    if luck < 0.94 and len(text) > 12:
        return bare + rng.choice(CLOSERS)
    return bare + rng.choice(("??", "!", " ?", "..."))
