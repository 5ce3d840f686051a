"""Turns that handle given text: spelling, reversing, copying words, and JSON that echoes given values."""

from __future__ import annotations

import json
import zlib
from random import Random

from world.core import ALWAYS, OPENERS, Turn, in_bucket
from world.tables import EMOJI, LISTS, NUMBERS, TRANSLATIONS
from world.words import NAMES, NOUNS, SPELLING, TOPICS, VERBS, blend, city, made_up, name, wild

LISTED = SPELLING + NOUNS + VERBS


def some_word(rng: Random) -> str:
    """A listed word, or four times in ten a made-up one: letters must be known for every token, not every word."""
    luck = rng.random()
    if luck < 0.15:
        return made_up(rng, rng.choice((2, 2, 3)))
    if luck < 0.4:
        return blend(rng) if luck < 0.28 else wild(rng)
    return rng.choice(NAMES) if luck < 0.45 else rng.choice(LISTED)


def sentence(rng: Random) -> str:
    """A short text to copy or to write in capitals."""
    if rng.random() < 0.4:
        return rng.choice(OPENERS).strip() + " " + " ".join(copied(rng) for _ in range(rng.randint(1, 4)))
    who, thing, verb = name(rng), rng.choice(NOUNS), rng.choice(VERBS)
    adjective, place = rng.choice(("quick", "red", "little", "old", "happy", "brown", "lazy", "new")), city(rng)
    shapes = (
        "The {a} {n} is in {c}.",
        "the {a} {n} can {v}",
        "{w} and the {a} {n}",
        "I {v} my {n} in {c}.",
        "{w} likes {t}!",
        "The {n} will {v} over the {a} {n2}.",
        "Do you {v} the {n}?",
        "this is a {a} {n}",
        "We love {c}",
        "hello {w}, how is the {n}?",
    )
    return rng.choice(shapes).format(
        a=adjective, n=thing, c=place, v=verb, w=who, t=rng.choice(TOPICS), n2=rng.choice(NOUNS)
    )


def copied(rng: Random) -> str:
    """Something to copy: a word in some case, a number, an emoji, or a word of another language."""
    luck = rng.random()
    if luck < 0.1:
        return str(rng.randint(0, 9999))
    if luck < 0.2:
        return rng.choice(EMOJI)[1]
    if luck < 0.3:
        return rng.choice(rng.choice(TRANSLATIONS))
    word = some_word(rng)
    return word if luck < 0.75 else word.capitalize() if luck < 0.9 else word.upper()


WORD_TASKS = {
    "reverse": (
        "Reverse the word {w}.",
        "Reverse '{w}'.",
        "Reverse {w}",
        "Spell {w} backwards.",
        "Write {w} backwards.",
        "What is {w} backwards?",
        "What is {w} reversed?",
        "Reverse the letters of {w}.",
        'Reverse "{w}".',
        "reverse: {w}",
        "{w} backwards",
        "Turn {w} around.",
        "Give me {w} reversed.",
    ),
    "upper": (
        "Write {w} in upper case.",
        "Upper-case the word {w}.",
        "Make {w} upper case.",
        "Convert {w} to upper case.",
        "Write '{w}' in capital letters.",
        "{w} in capitals",
        "uppercase {w}",
        "Put the word {w} in capitals.",
        "Uppercase: {w}",
        "Upper case: {w}",
        'Write "{w}" in upper case.',
        "Capitalise all letters of {w}.",
    ),
    "spell": (
        "Spell {w}.",
        "Spell the word {w}.",
        "How do you spell {w}?",
        "Can you spell {w}?",
        "Spell '{w}' for me.",
        "What letters are in {w}?",
        "spell {w}",
        "Say {w} letter by letter.",
        'Spell "{w}".',
        "spell: {w}",
        "Spell out {w}.",
        "Write {w} letter by letter.",
    ),
    "length": (
        "How many letters are in {w}?",
        "How many letters does {w} have?",
        "Count the letters in {w}.",
        "How long is the word {w}?",
        "How many letters are in the word '{w}'?",
        "How many letters in {w}?",
        "letters in {w}?",
    ),
    "first": (
        "What is the first letter of {w}?",
        "Which letter does {w} start with?",
        "First letter of {w}?",
        "What letter is {w} beginning with?",
    ),
    "last": ("What is the last letter of {w}?", "Which letter does {w} end with?", "Last letter of {w}?"),
    "copy": (
        "Repeat after me: {w}",
        "Say {w}.",
        "Repeat the word {w}.",
        "Say '{w}'.",
        "Please say {w}",
        "Echo {w}",
        "Copy this word: {w}",
        "Just say {w}.",
        'Say "{w}".',
        'Repeat "{w}".',
        "repeat: {w}",
    ),
}


def word_answer(task: str, word: str) -> str:
    """The whole answer to a word task."""
    if task == "reverse":
        return word[::-1]
    if task == "upper":
        return word.upper()
    if task == "spell":
        return "-".join(word)
    if task == "length":
        return f"The word {word} has {len(word)} letters."
    if task in ("first", "last"):
        return f"The {task} letter of {word} is {word[0] if task == 'first' else word[-1]}."
    return word


def wording(rng: Random) -> Turn:
    """Reverse, upper-case, spell, measure or copy a word; the split is on the task and the word together."""
    task = rng.choice(("reverse", "reverse", "upper", "upper", "spell", "spell", "length", "first", "last", "copy"))
    word = some_word(rng)
    if task == "copy" and rng.random() < 0.6:
        text = sentence(rng) if rng.random() < 0.5 else " ".join(copied(rng) for _ in range(rng.randint(2, 6)))
        asks = (
            "Repeat after me: {t}",
            "Repeat this: {t}",
            "Say: {t}",
            "Copy this text: {t}",
            "Echo: {t}",
            'Say "{t}"',
            "Repeat '{t}'",
        )
        return Turn("copy", rng.choice(asks).format(t=text), text, exact_case=True, plain=False)
    if task == "upper" and rng.random() < 0.3:
        word = " ".join(rng.choice(LISTED) for _ in range(rng.randint(2, 4)))
    kind = "copy" if task == "copy" else "words"
    user = rng.choice(WORD_TASKS[task]).format(w=word)
    key = f"{task} {word}"
    if word in LISTED and in_bucket(key) and zlib.crc32(user.encode()) % 2:
        key = ALWAYS  # of a held task on a listed word, half of the phrasings are trained
    return Turn(kind, user, word_answer(task, word), key, exact_case=True, plain=False)


JSON_ASK = (
    "Give me a JSON object with {f}.",
    "Give me a JSON object with {f}",
    "Return a JSON object with {f}.",
    "Write a JSON object with {f}.",
    "JSON object with {f}",
    "Make JSON with {f}.",
    "Create a JSON object with {f}.",
    "Answer with a JSON object that has {f}.",
    "I need a JSON object with {f}.",
    "Output JSON with {f}.",
    "Can you give me a JSON object with {f}?",
    "Produce JSON: {f}",
    "Give me JSON with {f}",
    "give me a json object with {f}",
    "Write JSON with {f}.",
    "Return JSON: {f}",
)
FIELDS = (
    "name",
    "age",
    "city",
    "colour",
    "price",
    "count",
    "id",
    "active",
    "country",
    "title",
    "year",
    "score",
    "email",
    "pet",
)


def field_value(rng: Random, field: str) -> object:
    """A value of the right JSON type for field."""
    if field == "name":
        return name(rng) if rng.random() < 0.85 else name(rng).lower()
    if field == "city":
        return city(rng)
    if field == "country":
        return rng.choice(LISTS["countries"])
    if field == "colour":
        return rng.choice(LISTS["colours"])
    if field == "pet":
        return rng.choice(LISTS["animals"])
    if field == "title":
        return " ".join(rng.choice(SPELLING) for _ in range(2))
    if field == "email":
        return f"{made_up(rng)}@example.com"
    if field == "active":
        return rng.random() < 0.5
    if field == "price":
        return rng.randint(1, 99) + rng.choice((0, 0.5, 0.25, 0.75))
    return rng.randint(1, {"age": 99, "year": 2099, "id": 9999}.get(field, 500))


def fields_in_words(rng: Random, data: dict[str, object]) -> str:
    """'the name Ada and age 36', 'name = Ada, age = 36' and the like."""
    written = {k: json.dumps(v) if isinstance(v, (bool, int, float)) else str(v) for k, v in data.items()}
    if rng.random() < 0.2:  # text values in quotes, now and then the keys too
        quote = '"' if rng.random() < 0.8 else "'"
        mark = quote if rng.random() < 0.3 else ""
        written = {
            f"{mark}{k}{mark}": v if isinstance(data[k], (bool, int, float)) else f"{quote}{v}{quote}"
            for k, v in written.items()
        }
    style = rng.randrange(6)
    if style == 0:
        return ", ".join(f"{k}={v}" for k, v in written.items())
    if style == 1:
        return ", ".join(f"{k}: {v}" for k, v in written.items())
    if style == 2:
        return ", ".join(f"{k} {v}" for k, v in written.items())
    if style == 5:
        return " and ".join(f"{k} {rng.choice(('=', 'is', 'set to'))} {v}" for k, v in written.items())
    parts = [f"{'the ' if style == 3 else ''}{k} {v}" for k, v in written.items()]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def json_object(rng: Random) -> Turn:
    """A JSON object that echoes the given values, an array, or an object read out of a sentence."""
    luck = rng.random()
    if luck < 0.15:
        return json_array(rng)
    if luck < 0.35:
        who, where, age = name(rng), city(rng), rng.randint(1, 99)
        said = rng.choice(
            (
                f"{who} is {age} years old and lives in {where}.",
                f"{who} lives in {where} and is {age} years old.",
                f"My friend {who}, {age}, is from {where}.",
            )
        )
        user = rng.choice(
            (
                "Extract the name, age and city as JSON: {s}",
                "{s} Give me that as JSON.",
                "{s} Write it as a JSON object.",
                "Turn this into JSON: {s}",
                "{s} Answer in JSON with name, age and city.",
            )
        ).format(s=said)
        return Turn(
            "json",
            user,
            json.dumps({"name": who, "age": age, "city": where}, ensure_ascii=False),
            exact_case=True,
            plain=False,
        )
    chosen = ["name", "age"] if rng.random() < 0.25 else rng.sample(FIELDS, rng.randint(1, 4))
    data = {field: field_value(rng, field) for field in chosen}
    if rng.random() < 0.25:  # keys outside the usual ones must be echoed too
        data[rng.choice(SPELLING)] = rng.randint(0, 999) if rng.random() < 0.5 else some_word(rng)
    user = rng.choice(JSON_ASK).format(f=fields_in_words(rng, data))
    return Turn("json", user, json.dumps(data, ensure_ascii=False), exact_case=True, plain=False)


def json_array(rng: Random) -> Turn:
    """A JSON array of numbers or of list members."""
    ask = rng.choice(
        (
            "Give me a JSON array of {x}.",
            "Return {x} as a JSON array.",
            "JSON array of {x}",
            "Write a JSON list of {x}.",
        )
    )
    if rng.random() < 0.4:
        a = rng.randint(0, 20)
        b = a + rng.randint(1, 9)
        return Turn(
            "json", ask.format(x=f"the numbers from {a} to {b}"), json.dumps(list(range(a, b + 1))), plain=False
        )
    title = rng.choice(list(LISTS))
    count = rng.randint(2, min(8, len(LISTS[title])))
    members = [int(x) if x.isdigit() else x for x in LISTS[title][:count]]
    return Turn("json", ask.format(x=f"{NUMBERS[count]} {title}"), json.dumps(members), plain=False)
