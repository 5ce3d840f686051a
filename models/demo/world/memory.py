"""Turns that look back: things the user told, follow-up questions, tool calls, and questions about documents."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random

from world.core import ALWAYS, Turn, an, cap
from world.facts import capital_turn, flag
from world.sums import make as make_sum
from world.sums import value as sum_value
from world.tables import ANIMALS, COUNTRIES, LISTS
from world.words import NOUNS, SPELLING, city, made_up, name, wild

NOT_TOLD = "You have not told me."
NOT_IN_DOCUMENTS = "The documents do not say."


@dataclass(slots=True)
class State:
    """What the conversation has said so far."""

    told: dict[str, tuple[str, ...]] = field(default_factory=dict)
    last: Turn | None = None


# what is told -> (ways to tell it, the answer, ways to ask for it, the answer)
MEMORIES = {
    "name": (
        (
            "My name is {0}.|I am {0}.|Call me {0}.|I'm {0}.|Hi, my name is {0}.|Hello, I am {0}.|Hi! I'm {0}.|You "
            "can call me {0}.|my name is {0}"
        ),
        "Nice to meet you, {0}!",
        (
            "What is my name?|What's my name?|Do you remember my name?|Who am I?|Can you tell me my name?|my name?|"
            "How am I called?|Tell me my name."
        ),
        "Your name is {0}.",
    ),
    "colour": (
        "My favourite colour is {0}.|I like the colour {0} best.|I love {0}, it is my favourite colour.",
        "I will remember that you like {0}.",
        (
            "What is my favourite colour?|Which colour do I like?|Do you know my favourite colour?|What colour do I "
            "like best?"
        ),
        "Your favourite colour is {0}.",
    ),
    "city": (
        "I live in {0}.|My home is in {0}.|I am from {0}.|I come from {0}.",
        "{0} sounds like a nice place.",
        "Where do I live?|Which city do I live in?|Where am I from?|What is my city?|Do you remember where I live?",
        "You live in {0}.",
    ),
    "number": (
        "Remember the number {0}.|Please remember the number {0}.|My number is {0}.|Keep the number {0} in mind.",
        "I will remember {0}.",
        (
            "What number did I tell you?|What was the number?|Which number should you remember?|What is my number?|"
            "Do you remember the number?"
        ),
        "The number is {0}.",
    ),
    "word": (
        "Remember the word {0}.|Please remember the word {0}.|The secret word is {0}.|My password is {0}.",
        "I will remember the word {0}.",
        (
            "What is the secret word?|What was the word?|Which word should you remember?|What is my password?|Do you "
            "remember the word?"
        ),
        "The word is {0}.",
    ),
    "pet": (
        "I have a {1} named {0}.|My {1} is called {0}.|I have a {1}. Its name is {0}.",
        "{0} is a nice name for a {1}.",
        "What is my pet called?|What is the name of my pet?|What's my pet's name?|Do you remember my pet?",
        "Your {1} is called {0}.",
    ),
    "age": (
        "I am {0} years old.|My age is {0}.|I'm {0} years old.",
        "I will remember that you are {0}.",
        "How old am I?|What is my age?|Do you know how old I am?",
        "You are {0} years old.",
    ),
}


def memory_values(rng: Random, what: str) -> tuple[str, ...]:
    """Something to tell about what."""
    if what == "name":
        return (name(rng) if rng.random() < 0.88 else name(rng).lower(),)
    if what == "colour":
        return (rng.choice(LISTS["colours"]),)
    if what == "city":
        return (city(rng),)
    if what == "number":
        return (str(rng.randint(0, 10 ** rng.randint(1, 5) - 1)),)
    if what == "word":
        return (rng.choice((made_up(rng), wild(rng), rng.choice(SPELLING))),)
    if what == "pet":
        return name(rng), rng.choice(("cat", "dog", "horse", "mouse", "goat", "duck", "hen", "parrot", "rabbit"))
    return (str(rng.randint(2, 99)),)


def tell(rng: Random, state: State) -> Turn:
    """The user tells something; remembered in state."""
    untold = [what for what in MEMORIES if what not in state.told]
    what = "name" if rng.random() < 0.3 else rng.choice(untold if untold and rng.random() < 0.8 else list(MEMORIES))
    values = memory_values(rng, what)
    ways, answer, _, _ = MEMORIES[what]
    state.told[what] = values
    return Turn(
        "memory",
        rng.choice(ways.split("|")).format(*values),
        answer.format(*values),
        ALWAYS,
        exact_case=True,
        plain=False,
    )


def tell_and_ask(rng: Random) -> Turn:
    """Told and asked in one message."""
    what = rng.choice(list(MEMORIES))
    values = memory_values(rng, what)
    ways, _, asks, answer = MEMORIES[what]
    user = rng.choice(ways.split("|")).format(*values) + " " + rng.choice(asks.split("|"))
    return Turn("memory", user, answer.format(*values), f"recall {what} {values[0]}", exact_case=True, plain=False)


def recall(rng: Random, state: State) -> Turn:
    """The user asks for something told earlier, or one time in ten for something never told."""
    what = rng.choice(list(state.told)) if state.told and rng.random() < 0.9 else rng.choice(list(MEMORIES))
    _, _, asks, answer = MEMORIES[what]
    user = rng.choice(asks.split("|"))
    if what not in state.told:
        return Turn("memory", user, NOT_TOLD, ALWAYS, plain=False)
    values = state.told[what]
    return Turn("memory", user, answer.format(*values), f"recall {what} {values[0]}", plain=False)


def about_country(rng: Random, topic: tuple[str, ...]) -> Turn:
    """A follow-up about a country or its capital."""
    row = next(row for row in COUNTRIES if row[0] == topic[1])
    luck = rng.random()
    if topic[0] == "capital" and luck < 0.5:
        other = rng.choice(COUNTRIES)
        user = rng.choice(
            ("And {c}?", "And of {c}?", "What about {c}?", "And the capital of {c}?", "and {c}", "How about {c}?")
        ).format(c=other[0])
        return capital_turn(user, other[0], other[1])
    if topic[0] == "country" and luck < 0.6:
        user = rng.choice(
            (
                "And its capital?",
                "What is its capital?",
                "And what is the capital?",
                "What's the capital?",
                "Its capital?",
            )
        )
        return capital_turn(user, row[0], row[1])
    country = cap(row[0])
    if luck < 0.7:
        user = rng.choice(
            ("And its language?", "What language do they speak there?", "Which language do people speak there?")
        )
        return Turn(
            "follow_up", user, f"The main language of {row[0]} is {row[3]}.", short=row[3], topic=("country", row[0])
        )
    if luck < 0.85:
        user = rng.choice(
            ("And its continent?", "Which continent is it in?", "On which continent is that?", "Where is that?")
        )
        return Turn("follow_up", user, f"{country} is in {row[2]}.", short=row[2], topic=("country", row[0]))
    user = rng.choice(("And its flag?", "Show me its flag.", "What is its flag?", "Show me the flag."))
    return Turn("follow_up", user, flag(row[4]), topic=("country", row[0]), plain=False)


SUM_FOLLOW_UPS = {
    "+": (
        "Now add {k}.",
        "Add {k} to that.",
        "Plus {k}?",
        "And plus {k}?",
        "now add {k}",
        "Add {k}.",
        "What if I add {k}?",
    ),
    "-": (
        "Now subtract {k}.",
        "Subtract {k} from that.",
        "Minus {k}?",
        "And minus {k}?",
        "Take away {k}.",
        "now subtract {k}",
    ),
    "x": ("Now multiply it by {k}.", "Times {k}?", "Multiply that by {k}.", "And times {k}?"),
}


def about_number(rng: Random, topic: tuple[str, ...]) -> Turn | None:
    """A follow-up that computes on with the last result; None where that would leave the model's range."""
    number = int(topic[1])
    if not 0 <= number <= 999:
        return None
    luck = rng.random()
    sign = "+" if luck < 0.45 else "-" if luck < 0.8 else "x"
    k = rng.randint(1, 12) if sign == "x" else rng.randint(1, 20 if rng.random() < 0.6 else 300)
    if (sign == "x" and number > 99) or (sign == "-" and k > number):
        return None
    turn = make_sum("follow_up", rng, number, sign, k)
    turn.user = rng.choice(SUM_FOLLOW_UPS[sign]).format(k=k)
    if sign == "x" and k == 2 and rng.random() < 0.7:
        turn.user = rng.choice(("Double it.", "Now double it.", "Double that."))
    turn.answer = sum_value(number, sign, k)
    return turn


def about_answer(rng: Random, last: Turn) -> Turn | None:
    """Repeat or restyle the last answer, or quote the last question; None where these are too long."""
    luck = rng.random()
    if luck < 0.4 and len(last.answer) < 300:
        user = rng.choice(
            (
                "Say that again.",
                "Repeat that, please.",
                "Can you repeat that?",
                "Again, please.",
                "Once more.",
                "What did you say?",
            )
        )
        return Turn("follow_up", user, last.answer, f"again {last.answer}", topic=last.topic, plain=False)
    if luck < 0.7 and len(last.answer) < 90 and last.answer.isascii() and last.plain:
        user = rng.choice(
            ("In upper case, please.", "Write that in upper case.", "In capital letters.", "Now in capitals.")
        )
        return Turn("follow_up", user, last.answer.upper(), f"upper {last.answer}", topic=last.topic, plain=False)
    if len(last.user) < 90 and last.role == "user":
        user = rng.choice(
            ("What did I just ask?", "What was my question?", "What did I say?", "What was my last message?")
        )
        return Turn("follow_up", user, f"You said: {last.user}", f"said {last.user}", plain=False)
    return None


def follow_up(rng: Random, state: State) -> Turn | None:
    """A turn that refers to the last one, or None where nothing fits."""
    if state.last is None:
        return None
    topic = state.last.topic
    if topic and rng.random() < 0.75:
        return about_number(rng, topic) if topic[0] == "number" else about_country(rng, topic)
    return about_answer(rng, state.last)


# tool name -> (its parameter, questions, tool results, answers)
TOOLS = {
    "weather": (
        "city",
        (
            "What is the weather in {x}?|How is the weather in {x}?|weather in {x}|Is it warm in {x}?|What's the "
            "weather like in {x}?"
        ),
        {"temperature": "{n}", "sky": "{sky}"},
        "It is {n} degrees and {sky} in {x}.",
    ),
    "time": (
        "city",
        "What time is it in {x}?|What is the time in {x}?|time in {x}?|Tell me the time in {x}.",
        {"time": "{clock}"},
        "It is {clock} in {x}.",
    ),
    "price": (
        "item",
        "How much does a {x} cost?|What is the price of a {x}?|price of a {x}?|What does a {x} cost?",
        {"price": "{n}"},
        "A {x} costs {n} euros.",
    ),
    "phone": (
        "name",
        "What is the phone number of {x}?|Give me the phone number of {x}.|How can I call {x}?",
        {"phone": "{digits}"},
        "The phone number of {x} is {digits}.",
    ),
    "search": (
        "query",
        "Search for {x}.|Search the web for {x}.|Look up {x}.|Find pages about {x}.",
        {"hits": "{n}"},
        "I found {n} results for {x}.",
    ),
}
TOOL_NAMES = ("get_{t}", "{t}", "lookup_{t}", "find_{t}", "{t}_tool", "fetch_{t}", "get_{t}_info")


def tool_spec(rng: Random, kind: str) -> dict:
    """A tool's description as a client would send it."""
    parameter = TOOLS[kind][0]
    function = {"name": rng.choice(TOOL_NAMES).format(t=kind)}
    if rng.random() < 0.7:
        function["description"] = rng.choice(
            (f"Get the {kind}.", f"Returns the {kind} of a {parameter}.", f"{cap(kind)} service")
        )
    function["parameters"] = {"type": "object", "properties": {parameter: {"type": "string"}}}
    if rng.random() < 0.6:
        function["parameters"]["required"] = [parameter]
    return {"type": "function", "function": function} if rng.random() < 0.7 else function


def tool_argument(rng: Random, parameter: str) -> str:
    """A value for a tool's parameter."""
    if parameter == "city":
        return city(rng)
    return name(rng) if parameter == "name" else rng.choice(NOUNS)


def tool_turns(rng: Random) -> tuple[list[dict], list[Turn]]:
    """Tools, and the turns: question -> call, tool result -> answer."""
    kinds = rng.sample(list(TOOLS), rng.randint(1, 4))
    specs = [tool_spec(rng, kind) for kind in kinds]
    index = rng.randrange(len(kinds))
    parameter, asks, result, answer = TOOLS[kinds[index]]
    x = tool_argument(rng, parameter)
    called = specs[index].get("function", specs[index])["name"]
    values = {
        "x": x,
        "n": rng.randint(0, 99),
        "sky": rng.choice(("sunny", "cloudy", "rainy", "windy", "foggy")),
        "clock": f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
        "digits": f"555 {rng.randint(0, 9999):04d}",
    }
    data = {key: (values["n"] if text == "{n}" else text.format(**values)) for key, text in result.items()}
    call = json.dumps({"name": called, "arguments": {parameter: x}}, ensure_ascii=False)
    question = Turn(
        "tools", rng.choice(asks.split("|")).format(**values), call, f"tool {kinds[index]} {x}", exact_case=True
    )
    reply = Turn("tools", json.dumps(data), answer.format(**values), f"tool {kinds[index]} {x}", role="tool")
    return specs, [question, reply]


def document_fact(rng: Random) -> tuple[str, str]:
    """A made-up sentence and a question whose answer it is."""
    n, who, where, thing = rng.randint(1, 9999), name(rng), city(rng), rng.choice(NOUNS)
    colour = rng.choice(LISTS["colours"])
    adjective, year = rng.choice(("heavy", "broken", "new", "closed", "free", "late")), rng.randint(1800, 2030)
    return rng.choice(
        (
            (f"The {thing} is {adjective}.", f"How is the {thing}?"),
            (f"The colour of the {thing} is {colour}.", f"What is the colour of the {thing}?"),
            (f"{who} was born in {year}.", f"When was {who} born?"),
            (f"The {thing} was made in {year}.", f"When was the {thing} made?"),
            (f"The code of the {colour} room is {n}.", f"What is the code of the {colour} room?"),
            (f"{who} works in {where}.", f"Where does {who} work?"),
            (f"The price of the {thing} is {n} euros.", f"What is the price of the {thing}?"),
            (f"The {thing} belongs to {who}.", f"Who owns the {thing}?"),
            (f"The meeting with {who} is in {where}.", f"Where is the meeting with {who}?"),
            (f"{who} has {an(rng.choice(ANIMALS)[0])} named {name(rng)}.", f"Which pet does {who} have?"),
        )
    )


def document_turns(rng: Random) -> tuple[list[dict], list[Turn]]:
    """Documents, and one or two questions that one of them answers (or none does)."""
    facts = [document_fact(rng) for _ in range(rng.randint(1, 5))]
    documents = [{"title": f"Note {i}", "text": fact[0]} for i, fact in enumerate(facts, 1)]
    if rng.random() < 0.4:
        for document in documents:
            del document["title"]
    turns = []
    for _ in range(rng.randint(1, 2)):
        sentence, question = rng.choice(facts)
        if rng.random() < 0.12:
            sentence, question = NOT_IN_DOCUMENTS, document_fact(rng)[1]
            if any(question == fact[1] for fact in facts):
                continue
        if sum(fact[1] == question for fact in facts) < 2:
            key = question
            if rng.random() < 0.25:
                question = (
                    rng.choice(("According to the documents: ", "From the documents: ", "In the notes: ")) + question
                )
            turns.append(Turn("documents", question, sentence, key.lower(), exact_case=True, plain=False))
    return documents, turns
