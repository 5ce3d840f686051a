"""Turns about facts: each fact can be asked for in several phrasings; the split is on fact and phrasing together."""

from __future__ import annotations

from random import Random

from world.core import Turn, an, cap
from world.small_talk import SINGLE_FACTS, pick
from world.tables import (
    AMOUNTS,
    ANIMALS,
    ASIAN_CAPITALS,
    COLOURS_OF,
    COUNTRIES,
    ELEMENTS,
    ELEMENTS_MORE,
    LEGS_MORE,
    OPPOSITES,
    PLANETS,
    PLURALS,
    TRANSLATION_LANGUAGES,
    TRANSLATIONS,
)

CAPITAL_ASK = (
    "What is the capital of {c}?",
    "What's the capital of {c}?",
    "Which city is the capital of {c}?",
    "Tell me the capital of {c}.",
    "Name the capital of {c}.",
    "{c} capital?",
    "The capital of {c}?",
    "What is the capital city of {c}?",
    "capital of {c}",
    "Do you know the capital of {c}?",
    "I need the capital of {c}.",
    "Can you tell me the capital of {c}?",
    "What city is the capital of {c}?",
    "Whats the capital of {c}",
    "Give me the capital of {c}.",
    "{c}: what is the capital?",
)
CAPITAL_OF_ASK = (
    "Which country has {v} as its capital?",
    "{v} is the capital of which country?",
    "What country is {v} the capital of?",
    "Of which country is {v} the capital?",
    "{v} is the capital of what country?",
)
CONTINENT_ASK = (
    "Which continent is {c} in?",
    "Where is {c}?",
    "On which continent is {c}?",
    "What continent is {c} on?",
    "In which part of the world is {c}?",
    "Where can I find {c}?",
)
LANGUAGE_ASK = (
    "What language do people speak in {c}?",
    "Which language is spoken in {c}?",
    "What is the language of {c}?",
    "What do they speak in {c}?",
    "What is the main language of {c}?",
    "language of {c}?",
)
FLAG_ASK = (
    "Show me the flag of {c}.",
    "What is the flag emoji of {c}?",
    "Flag of {c}?",
    "Give me the flag of {c}.",
    "flag of {c}",
    "What does the flag of {c} look like?",
)


def flag(code: str) -> str:
    """The flag emoji of a two-letter country code: two regional indicator symbols, 8 bytes in UTF-8."""
    return "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in code)


def no_full_stop(text: str) -> str:
    """text, with a full stop added unless it ends with one ('Washington, D.C.')."""
    return text if text.endswith(".") else text + "."


def capital_turn(user: str, country: str, capital: str) -> Turn:
    """A turn whose answer names country's capital."""
    answer = no_full_stop(f"The capital of {country} is {capital}")
    return Turn("capitals", user, answer, short=capital, topic=("capital", country))


def capital(rng: Random) -> Turn:
    """Ask for a capital, for its country, or whether a city is one."""
    country, city, _, _, _ = rng.choice(COUNTRIES)
    luck = rng.random()
    if luck < 0.58:
        return capital_turn(cap(rng.choice(CAPITAL_ASK).format(c=country)), country, city)
    if luck < 0.75:
        answer = f"{city} is the capital of {country}."
        return Turn(
            "capitals",
            rng.choice(CAPITAL_OF_ASK).format(v=city),
            answer,
            short=cap(country),
            topic=("capital", country),
        )
    guess = city if rng.random() < 0.5 else rng.choice(COUNTRIES)[1]
    user = rng.choice(("Is {g} the capital of {c}?", "Is the capital of {c} {g}?")).format(g=guess, c=country)
    answer = f"{'Yes' if guess == city else 'No'}, the capital of {country} is {city}"
    return Turn("capitals", user, no_full_stop(answer), topic=("capital", country))


def country_fact(rng: Random) -> Turn:
    """Continent, language or flag of a country."""
    country, city, continent, language, code = rng.choice(COUNTRIES)
    luck = rng.random()
    if rng.random() < 0.2:
        asks = (
            "Tell me about {c}.",
            "Tell me about {c}",
            "What do you know about {c}?",
            "Describe {c}.",
            "What is {c}?",
            "Give me facts about {c}.",
        )
        answer = f"{cap(country)} is in {continent}. Its capital is {no_full_stop(city)} "
        answer += f"The main language is {language}. Its flag is {flag(code)}"
        return Turn("countries", rng.choice(asks).format(c=country), answer, topic=("country", country), plain=False)
    if luck < 0.35:
        user, answer, short = rng.choice(CONTINENT_ASK), f"{cap(country)} is in {continent}.", continent
    elif luck < 0.7:
        user, answer, short = rng.choice(LANGUAGE_ASK), f"The main language of {country} is {language}.", language
    else:
        return Turn("emoji", rng.choice(FLAG_ASK).format(c=country), flag(code), plain=False)
    return Turn("countries", cap(user.format(c=country)), answer, short=short, topic=("country", country))


def colour(rng: Random) -> Turn:
    """The colour of a thing."""
    thing, shade = rng.choice(COLOURS_OF)
    ask = (
        "What colour is {t}?",
        "Which colour is {t}?",
        "What is the colour of {t}?",
        "Tell me the colour of {t}.",
        "What colour does {t} have?",
        "The colour of {t}?",
        "Do you know what colour {t} is?",
        "{t}: what colour?",
    )
    return Turn("facts", cap(rng.choice(ask).format(t=thing)), f"{cap(thing)} is {shade}.", short=cap(shade))


MANY = {"sheep": "sheep", "mouse": "mice", "goose": "geese", "wolf": "wolves", "fox": "foxes"}


def animal(rng: Random) -> Turn:
    """Sound, young, or number of legs of an animal."""
    name, sound, young, legs, _ = rng.choice(ANIMALS)
    one = an(name)
    luck = rng.random()
    if rng.random() < 0.15:
        asks = (
            "Tell me about {o}.",
            "What is {o}?",
            "What do you know about the {n}?",
            "Tell me about {m}.",
            "What are {m}?",
            "Describe {o}.",
            "Tell me about the {n}.",
        )
        answer = f"{cap(one)} {sound}. A baby {name} is called {an(young)}. {cap(one)} has {legs} legs."
        return Turn("animals", rng.choice(asks).format(o=one, n=name, m=MANY.get(name, name + "s")), answer)
    if luck < 0.4:
        ask = (
            "What sound does {o} make?",
            "What does {o} say?",
            "Which sound does {o} make?",
            "What noise does {o} make?",
            "How does {o} sound?",
            "What is the sound of {o}?",
            "{o} makes which sound?",
        )
        return Turn("animals", cap(rng.choice(ask).format(o=one)), f"{cap(one)} {sound}.")
    if luck < 0.7:
        ask = (
            "What is a baby {n} called?",
            "What do you call a baby {n}?",
            "What is the young of {o} called?",
            "Name of a baby {n}?",
            "A young {n} is called what?",
        )
        return Turn(
            "animals", rng.choice(ask).format(n=name, o=one), f"A baby {name} is called {an(young)}.", short=cap(young)
        )
    thing, legs = (one, legs) if rng.random() < 0.7 else rng.choice(LEGS_MORE)
    ask = (
        "How many legs does {o} have?",
        "How many legs has {o}?",
        "{o} has how many legs?",
        "Tell me how many legs {o} has.",
    )
    return Turn("animals", cap(rng.choice(ask).format(o=thing)), f"{cap(thing)} has {legs} legs.", short=legs)


def chemistry(rng: Random) -> Turn:
    """Chemical symbols both ways, and atomic numbers of the first twenty elements."""
    element, symbol = rng.choice(ELEMENTS + ELEMENTS_MORE)
    luck = rng.random()
    if luck < 0.45:
        ask = (
            "What is the chemical symbol for {e}?",
            "What is the symbol for {e}?",
            "Chemical symbol of {e}?",
            "What's the symbol of {e}?",
            "Which symbol does {e} have?",
            "Symbol for {e}?",
            "Tell me the chemical symbol for {e}.",
        )
        return Turn(
            "chemistry",
            rng.choice(ask).format(e=element),
            f"The chemical symbol for {element} is {symbol}.",
            plain=False,
        )
    if luck < 0.75:
        ask = (
            "Which element has the symbol {s}?",
            "What element is {s}?",
            "What does {s} stand for in chemistry?",
            "{s} is which element?",
            "Which chemical element is written {s}?",
        )
        return Turn(
            "chemistry",
            rng.choice(ask).format(s=symbol),
            f"{symbol} is the symbol for {element}.",
            exact_case=True,
            plain=False,
        )
    number = rng.randrange(len(ELEMENTS))
    element = ELEMENTS[number][0]
    ask = (
        "What is the atomic number of {e}?",
        "Atomic number of {e}?",
        "What atomic number does {e} have?",
        "Tell me the atomic number of {e}.",
    )
    return Turn(
        "chemistry",
        rng.choice(ask).format(e=element),
        f"The atomic number of {element} is {number + 1}.",
        short=str(number + 1),
    )


def language_fact(rng: Random) -> Turn:
    """Opposites, plurals and translations."""
    luck = rng.random()
    if luck < 0.35:
        word, other = rng.choice(OPPOSITES)
        if rng.random() < 0.5:
            word, other = other, word
        ask = (
            "What is the opposite of {w}?",
            "Opposite of {w}?",
            "What's the opposite of '{w}'?",
            "Tell me the opposite of {w}.",
            "Which word means the opposite of {w}?",
            "the opposite of {w}",
            "Give me an antonym of {w}.",
        )
        return Turn("language", rng.choice(ask).format(w=word), f"The opposite of {word} is {other}.", short=cap(other))
    if luck < 0.55:
        word, many = rng.choice(PLURALS)
        ask = (
            "What is the plural of {w}?",
            "Plural of {w}?",
            "What's the plural of '{w}'?",
            "Tell me the plural of {w}.",
            "How do you write {w} in the plural?",
        )
        return Turn("language", rng.choice(ask).format(w=word), f"The plural of {word} is {many}.", short=cap(many))
    row = rng.choice(TRANSLATIONS)
    column = rng.randrange(len(TRANSLATION_LANGUAGES))
    ask = (
        "How do you say '{w}' in {l}?",
        "How do you say {w} in {l}?",
        "What is '{w}' in {l}?",
        "Translate '{w}' into {l}.",
        "Translate {w} to {l}.",
        "What is the {l} word for {w}?",
        "{w} in {l}?",
        "Say {w} in {l}.",
    )
    language = TRANSLATION_LANGUAGES[column]
    user = cap(rng.choice(ask).format(w=row[0], l=language))
    return Turn("translation", user, f"'{cap(row[0])}' in {language} is '{row[column + 1]}'.", plain=False)


def general(rng: Random) -> Turn:
    """Amounts ('days in a week') and single facts."""
    if rng.random() < 0.5:
        what, whole, count = rng.choice(AMOUNTS)
        ask = (
            "How many {a} are there in {b}?",
            "How many {a} are in {b}?",
            "How many {a} does {b} have?",
            "Tell me how many {a} {b} has.",
            "{a} in {b}?",
            "What is the number of {a} in {b}?",
        )
        user = cap(rng.choice(ask).format(a=what, b=whole))
        return Turn("facts", user, f"There are {count} {what} in {whole}.", short=count)
    if rng.random() < 0.15:
        position = rng.randrange(len(PLANETS))
        user = rng.choice(("Is {p} a planet?", "What is {p}?")).format(p=PLANETS[position])
        return Turn("facts", user, f"{PLANETS[position]} is planet number {position + 1} from the Sun.")
    return pick("facts", SINGLE_FACTS, rng)


def asian(rng: Random) -> Turn:
    """Capitals, sums and counting in Chinese and Japanese."""
    chinese, chinese_city, japanese, japanese_city = rng.choice(ASIAN_CAPITALS)
    luck = rng.random()
    if luck < 0.35:
        user = rng.choice(
            ("{c}的首都是哪里？", "{c}的首都是什么？", "请告诉我{c}的首都。", "{c}的首都？", "{c}的首都是哪个城市？")
        ).format(c=chinese)
        return Turn("chinese_japanese", user, f"{chinese}的首都是{chinese_city}。", plain=False)
    if luck < 0.65:
        user = rng.choice(
            ("{c}の首都はどこですか？", "{c}の首都は？", "{c}の首都を教えてください。", "{c}の首都は何ですか？")
        ).format(c=japanese)
        return Turn("chinese_japanese", user, f"{japanese}の首都は{japanese_city}です。", plain=False)
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if luck < 0.85:
        user = rng.choice(("{a}加{b}等于几？", "{a}加{b}等于多少？", "{a}+{b}等于多少？", "请算一下{a}加{b}。")).format(
            a=a, b=b
        )
        return Turn("chinese_japanese", user, f"{a}加{b}等于{a + b}。", plain=False)
    digits = "一二三四五六七八九十"
    count = rng.randint(3, 10)
    user = rng.choice(("用中文从一数到{n}。", "请从一数到{n}。", "从一数到{n}", "数到{n}")).format(n=digits[count - 1])
    return Turn("chinese_japanese", user, "、".join(digits[:count]) + "。", plain=False)
