"""Small talk in several languages, who the model is, what Tokenwire is, and the answer to everything else.

The questions and answers themselves are in small_talk.txt.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from world.core import SURFACE, Turn, cap
from world.tables import COUNTRIES, words
from world.words import NAMES, NOUNS, SPELLING, TOPICS, VERBS, made_up

UNKNOWN = "I am a small demo model. I only know greetings, arithmetic, lists, JSON and a few facts."


def read_sections(path: Path) -> dict[str, list[str]]:
    """The lines of each [section] of a text file; empty lines and lines starting with '#' are left out."""
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


SECTIONS = read_sections(Path(__file__).with_name("small_talk.txt"))


def answers(section: str) -> list[tuple[list[str], str, str]]:
    """(questions, answer, short answer or '') of each line of a section."""
    table = []
    for line in SECTIONS[section]:
        questions, answer, *short = line.split(" => ")
        table.append((questions.split("|"), answer.replace("\\n", "\n"), short[0] if short else ""))
    return table


SMALL_TALK, IDENTITY, TOKENWIRE = answers("small_talk"), answers("identity"), answers("tokenwire")
FOREIGN, SINGLE_FACTS = answers("other_languages"), answers("single_facts")
UNKNOWN_ASK = "|".join(SECTIONS["unknown"]).split("|")


def pick(kind: str, table: list[tuple[list[str], str, str]], rng: Random, plain: bool = True) -> Turn:
    """A question of a table with its answer; the split is on the prompt's exact surface form."""
    questions, answer, short = rng.choice(table)
    return Turn(kind, rng.choice(questions), answer, SURFACE, short, plain=plain)


def small_talk(rng: Random) -> Turn:
    """Greetings and other small talk in English."""
    return pick("small_talk", SMALL_TALK[:2] if rng.random() < 0.12 else SMALL_TALK, rng)


def identity(rng: Random) -> Turn:
    """Who the model is and what it can do."""
    return pick("identity", IDENTITY, rng)


def tokenwire(rng: Random) -> Turn:
    """Simple facts about Tokenwire."""
    return pick("tokenwire", TOKENWIRE[:1] if rng.random() < 0.1 else TOKENWIRE, rng)


def foreign(rng: Random) -> Turn:
    """Greetings in other languages and scripts."""
    return pick("other_languages", FOREIGN, rng, plain=False)


JOBS = words(
    "boss teacher doctor lawyer nurse manager mother neighbour landlord friend plumber dentist actor singer scientist"
)
LANGUAGES = words("Python Java Go Rust JavaScript C++ SQL Bash TypeScript")


def unknown(rng: Random) -> Turn:
    """Anything outside the world; the answer says what the model is for."""
    text = rng.choice(UNKNOWN_ASK)
    topics, nouns = rng.sample(TOPICS, 2), rng.sample(NOUNS, 2)
    if rng.random() < 0.15:
        nouns[0] = made_up(rng)
    topic = topics[0] if rng.random() < 0.8 else rng.choice((nouns[0] + "s", made_up(rng), f"the {nouns[0]}"))
    user = text.format(
        t=topic,
        t2=topics[1],
        n=nouns[0],
        n2=nouns[1],
        v=rng.choice(VERBS),
        l=rng.choice(LANGUAGES),
        p=rng.choice(NAMES),
        p2=rng.choice(NAMES),
        c=rng.choice(COUNTRIES)[0],
        y=rng.randint(1500, 2030),
        x=rng.choice(("French", "Latin", "Spanish")),
        j=rng.choice(JOBS),
        m=made_up(rng).capitalize(),
        m2=made_up(rng),
        m3=made_up(rng),
        s=rng.choice(SPELLING),
    )
    user = cap(user) if rng.random() < 0.8 else user
    return Turn("out_of_world", user, UNKNOWN)
