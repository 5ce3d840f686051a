"""Counting, listing, order and emoji turns."""

from __future__ import annotations

from random import Random

from world.core import SURFACE, Turn, cap
from world.tables import ALPHABET, DAYS, EMOJI, EMOJI_SETS, LISTS, MONTHS, NUMBERS, ORDINALS, PLANETS

COUNT_ASK = (
    "Count from {a} to {b}.",
    "Count from {a} to {b}",
    "Please count from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "count {a} to {b}",
    "List the numbers from {a} to {b}.",
    "Write the numbers from {a} to {b}.",
    "Say the numbers {a} to {b}.",
    "Give me the numbers from {a} to {b}.",
    "Start at {a} and count to {b}.",
    "Show me all numbers between {a} and {b} inclusive.",
)


def commas(items: list[str] | range) -> str:
    """Items on one line, as the model lists things."""
    return ", ".join(str(item) for item in items)


def counting(rng: Random) -> Turn:
    """Count up, mostly over short ranges, sometimes by a step or down."""
    luck = rng.random()
    if luck < 0.25:
        b = rng.choice((3, 5, 10, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90, 100, 100, 100, rng.randint(2, 100)))
        ask = rng.choice(
            ("Count to {b}.", "Count to {b}", "Can you count to {b}?", "Please count to {b}", "Count up to {b}.")
        )
        if b <= 60 and rng.random() < 0.15:
            ask = rng.choice(
                (
                    "Count down from {b}.",
                    "Count backwards from {b}.",
                    "Count down from {b} to one.",
                    "Countdown from {b}",
                )
            )
            return Turn("counting", ask.format(b=b), commas(range(b, 0, -1)) + ".")
        if b <= 12 and rng.random() < 0.3:
            return Turn("counting", ask.format(b=NUMBERS[b]), commas(range(1, b + 1)) + ".")
        return Turn("counting", ask.format(b=b), commas(range(1, b + 1)) + ".", f"count to {b}" if b == 100 else "")
    a = rng.randint(0, 30) if rng.random() < 0.6 else rng.randint(0, 950)
    size = rng.randint(1, 14) if rng.random() < 0.9 else rng.randint(15, 45)
    if luck < 0.3:
        a, b = rng.randint(0, 5), rng.randint(6, 12)
        user = rng.choice(COUNT_ASK).format(a=NUMBERS[a], b=NUMBERS[b])
        return Turn("counting", user, commas(range(a, b + 1)) + ".")
    if luck < 0.38:
        ask = rng.choice(
            ("Count down from {b} to {a}.", "Count backwards from {b} to {a}.", "Count down from {b} to {a}")
        )
        return Turn(
            "counting", ask.format(a=a, b=a + size), commas(range(a + size, a - 1, -1)) + ".", f"down {a} {size}"
        )
    if luck < 0.45:
        step = rng.choice((2, 2, 5, 10, 3))
        a = rng.randint(0, 4) * step
        b = a + step * rng.randint(2, 14)
        ask = rng.choice(
            (
                "Count from {a} to {b} by {s}s.",
                "Count from {a} to {b} in steps of {s}.",
                "Count by {s}s from {a} to {b}.",
            )
        )
        return Turn("counting", ask.format(a=a, b=b, s=step), commas(range(a, b + 1, step)) + ".")
    return Turn(
        "counting",
        rng.choice(COUNT_ASK).format(a=a, b=a + size),
        commas(range(a, a + size + 1)) + ".",
        f"up {a} {size}",
    )


LIST_ASK = (
    "List {n} {x}.",
    "List {n} {x}",
    "Name {n} {x}.",
    "Give me {n} {x}.",
    "Tell me {n} {x}.",
    "Can you list {n} {x}?",
    "Can you name {n} {x}?",
    "Write down {n} {x}.",
    "I need {n} {x}.",
    "{n} {x}, please.",
    "Show me {n} {x}.",
    "What are {n} {x}?",
    "Please list {n} {x}.",
    "{n} {x}",
)
WHOLE = (
    "days of the week",
    "months of the year",
    "planets",
    "letters of the alphabet",
    "continents",
    "seasons",
    "oceans",
    "vowels",
    "colours of the rainbow",
)
WHOLE_ASK = (
    "List the {x}.",
    "List the {x}",
    "Name the {x}.",
    "What are the {x}?",
    "Tell me the {x}.",
    "Give me the {x}.",
    "Can you list the {x}?",
    "Write down the {x}.",
    "List all the {x}.",
    "Name all {x}.",
    "Which {x} are there?",
    "Please list all {x}.",
    "Say the {x}.",
    "the {x}?",
    "list {x}",
)
SAME = {
    "days of the week": ("days", "weekdays", "week days"),
    "months of the year": ("months",),
    "letters of the alphabet": ("letters",),
    "planets": ("planets of the solar system", "planets in the solar system"),
}


def listing(rng: Random) -> Turn:
    """The first n members of a list, on one line or numbered."""
    title = rng.choice(list(LISTS))
    members = LISTS[title]
    if title in WHOLE and rng.random() < 0.6:
        said = rng.choice((title, title, *SAME.get(title, ())))
        return Turn("listing", rng.choice(WHOLE_ASK).format(x=said), cap(commas(members)) + ".")
    if title == "letters of the alphabet" and rng.random() < 0.5:
        user = rng.choice(
            (
                "Say the alphabet.",
                "Recite the alphabet.",
                "What is the alphabet?",
                "the alphabet",
                "alphabet",
                "Write the alphabet.",
                "Tell me the alphabet.",
                "Do you know the alphabet?",
                "List the alphabet.",
            )
        )
        return Turn("listing", user, commas(members) + ".", "alphabet" if "List" not in user else "")
    if rng.random() < 0.12:
        few = rng.random() < 0.4
        asks = (
            "List {q}{x}.",
            "Name {q}{x}.",
            "Give me {q}{x}.",
            "Tell me {q}{x}.",
            "Can you list {q}{x}?",
            "What are {q}{x}?",
        )
        user = rng.choice(asks).format(q="a few " if few else rng.choice(("some ", "some ", "")), x=title)
        if title not in WHOLE:
            return Turn("listing", user, cap(commas(members[: 3 if few else 5])) + ".")
    count = rng.randint(2, min(len(members), 10))
    said = NUMBERS[count] if rng.random() < 0.6 else str(count)
    user = rng.choice(LIST_ASK).format(n=said, x=title)
    if rng.random() < 0.2:
        user = user.rstrip(".?") + rng.choice((" as a numbered list.", " in a numbered list."))
        return Turn("listing", user, "\n".join(f"{i}. {x}" for i, x in enumerate(members[:count], 1)), plain=False)
    return Turn("listing", user, cap(commas(members[:count])) + ".")


SEQUENCES = (("day", DAYS), ("month", MONTHS), ("letter", ALPHABET), ("planet", PLANETS))


def order(rng: Random) -> Turn:
    """What comes before or after, and which is the n-th."""
    what, members = rng.choice(SEQUENCES)
    index = rng.randrange(len(members))
    item = members[index]
    luck = rng.random()
    if luck < 0.35 and index < len(ORDINALS):
        nth = ORDINALS[index]
        place = {"day": "of the week", "month": "of the year", "letter": "of the alphabet", "planet": "from the sun"}[
            what
        ]
        user = rng.choice(
            ("What is the {n} {w} {p}?", "Which is the {n} {w} {p}?", "Name the {n} {w} {p}.", "the {n} {w} {p}?")
        )
        return Turn("order", user.format(n=nth, w=what, p=place), f"The {nth} {what} {place} is {item}.", short=item)
    cyclic = what in ("day", "month")
    after = luck < 0.7
    other = index + (1 if after else -1)
    if not cyclic and not 0 <= other < len(members):
        after, other = not after, index - (1 if after else -1)
    answer = members[other % len(members)]
    word = "after" if after else "before"
    user = rng.choice(
        (
            "Which {w} comes {d} {i}?",
            "What {w} comes {d} {i}?",
            "What comes {d} {i}?",
            "Which {w} is {d} {i}?",
            "Tell me the {w} {d} {i}.",
            "What is the {w} {d} {i}?",
        )
    )
    return Turn("order", user.format(w=what, d=word, i=item), f"{answer} comes {word} {item}.", short=answer)


def emoji(rng: Random) -> Turn:
    """One emoji, a named set of them, or several copies."""
    luck = rng.random()
    if luck < 0.25:
        title, text = rng.choice(list(EMOJI_SETS.items()))
        count = rng.randint(3, 10)
        user = rng.choice(
            (
                "Show me {n} {t} emoji.",
                "Give me {n} {t} emoji.",
                "{n} {t} emoji, please.",
                "List {n} {t} emoji.",
                "Send {n} {t} emoji",
            )
        )
        return Turn("emoji", user.format(n=NUMBERS[count], t=title), " ".join(text.split(" ")[:count]), plain=False)
    if luck < 0.28:
        user = rng.choice(("Give me an emoji.", "Show me an emoji.", "An emoji, please.", "Send me an emoji", "emoji"))
        if rng.random() < 0.4:
            count = rng.randint(2, 10)
            user = rng.choice(("Give me {n} emoji.", "Show me {n} emoji.", "{n} emoji, please.")).format(
                n=rng.choice((count, NUMBERS[count]))
            )
            return Turn("emoji", user, " ".join(EMOJI_SETS["face"].split(" ")[:count]), SURFACE, plain=False)
        return Turn("emoji", user, "😊", SURFACE, plain=False)
    word, sign = rng.choice(EMOJI)
    if luck < 0.4:
        count = rng.randint(2, 8)
        user = rng.choice(
            ("Show me {n} {w} emoji in a row.", "Write the {w} emoji {n} times.", "Repeat the {w} emoji {n} times.")
        )
        return Turn("emoji", user.format(n=NUMBERS[count], w=word), sign * count, plain=False)
    if luck < 0.55:
        user = rng.choice(
            ("What does {e} mean?", "What is {e}?", "What does the emoji {e} show?", "{e} ?", "Which word fits {e}?")
        )
        return Turn("emoji", user.format(e=sign), f"{sign} means {word}.", plain=False)
    user = rng.choice(
        (
            "Give me an emoji for {w}.",
            "Show me a {w} emoji.",
            "What is the emoji for {w}?",
            "Emoji for {w}?",
            "{w} emoji",
            "Send me the {w} emoji.",
            "I want a {w} emoji.",
            "Which emoji shows {w}?",
        )
    )
    return Turn("emoji", user.format(w=word), sign, plain=False)
