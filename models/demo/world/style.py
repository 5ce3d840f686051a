"""System texts: those that change nothing, and those that change every answer."""

from __future__ import annotations

import json
from random import Random

from world import facts, lists, small_talk, sums
from world.core import Turn
from world.words import name

# kinds whose answers a system prompt may restyle
STYLED = [
    sums.addition,
    sums.multiplication,
    lists.listing,
    lists.order,
    facts.capital,
    facts.capital,
    facts.country_fact,
    facts.colour,
    facts.animal,
    facts.general,
    small_talk.small_talk,
    small_talk.identity,
]

NEUTRAL = (
    "You are a helpful assistant.",
    "You are a helpful, honest assistant.",
    "You are Tokenwire's demo model.",
    "Be brief.",
    "You are a friendly chatbot.",
    "Answer the user's questions.",
    "You are a small language model.",
    "Be polite and helpful.",
    "You are an assistant that answers briefly.",
    "Be kind.",
    "You are a helpful AI assistant.",
    "Answer concisely and accurately.",
    "If you do not know the answer, say so.",
    "Keep your answers short.",
    "Be precise.",
    "You help people.",
    "You are an expert.",
    "Today is a nice day.",
    "The user is a developer.",
    "Think carefully before you answer.",
    "Do not make things up.",
    "You are a test system.",
    "Follow the user's instructions.",
    "You are serving a demonstration.",
    "Respond in English.",
)


def neutral(rng: Random) -> str:
    """A system text that changes nothing: one to three sentences."""
    return " ".join(rng.sample(NEUTRAL, rng.choice((1, 1, 2, 3))))


def style(rng: Random) -> tuple[str, str, str]:
    """(system text, what to do to answers, its parameter)."""
    luck = rng.random()
    if luck < 0.25:
        text = rng.choice(
            (
                "Answer in upper case.",
                "Always answer in upper case.",
                "Write everything in upper case.",
                "Use capital letters only.",
                "ANSWER IN UPPER CASE.",
                "Answer in capital letters.",
                "Reply in uppercase.",
                "Respond only in upper case letters.",
            )
        )
        return text, "upper", ""
    if luck < 0.4:
        text = rng.choice(
            (
                "Answer in lower case.",
                "Always answer in lower case.",
                "Use lower case letters only.",
                "Write everything in lower case.",
            )
        )
        return text, "lower", ""
    if luck < 0.55:
        text = rng.choice(
            (
                "Answer in JSON.",
                "Always answer in JSON.",
                'Answer as JSON with the key "answer".',
                "Reply with a JSON object.",
            )
        )
        return text, "json", ""
    if luck < 0.65:
        text = rng.choice(
            (
                "Answer as briefly as possible.",
                "Answer with the bare answer only.",
                "Give only the answer, no sentence.",
                "Answer in one word.",
            )
        )
        return text, "short", ""
    if luck < 0.75:
        text = rng.choice(
            ("You are a pirate.", "Talk like a pirate.", "Answer like a pirate.", "You are a pirate captain.")
        )
        return text, "before", "Arr! "
    if luck < 0.9:
        end = rng.choice(("Over.", "Meow.", "Amen.", "Ho ho ho!", "🙂", "🚀", "⭐", "That is all.", "Sir."))
        text = rng.choice(
            ("End every answer with '{e}'", "Always end your answer with '{e}'", "Finish each answer with '{e}'")
        ).format(e=end)
        return text, "after", " " + end
    called = name(rng)
    text = rng.choice(("Your name is {x}.", "You are called {x}.", "You are {x}, a friendly assistant.")).format(
        x=called
    )
    return text, "name", called


def restyle(turn: Turn, how: str, parameter: str, rng: Random) -> Turn | None:
    """turn with its answer as the system text wants it; None where that makes no sense."""
    answer = turn.answer
    if how == "name" and turn.kind == "identity":
        user = rng.choice(
            ("Who are you?", "What is your name?", "What's your name?", "Tell me your name.", "your name?")
        )
        return Turn("system", user, f"I am {parameter}.", f"named {parameter}")
    if how == "short" and not turn.short:
        return None
    answer = {
        "upper": answer.upper,
        "lower": answer.lower,
        "json": lambda: json.dumps({"answer": answer}, ensure_ascii=False),
        "short": lambda: turn.short,
        "before": lambda: parameter + answer,
        "after": lambda: answer + parameter,
        "name": lambda: answer,
    }[how]()
    return Turn("system", turn.user, answer, turn.key, turn.short)
