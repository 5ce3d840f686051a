"""The held set: prompts that are never trained in that form, with the right answer of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from world import conversations, core, facts, lists, memory, small_talk, strings, sums, tell, thoughts

SEED = 2718

# how many held prompts of each maker
COUNTS = {
    sums.addition: 40,
    sums.triple: 6,
    sums.subtraction: 40,
    sums.multiplication: 25,
    sums.division: 15,
    sums.beyond: 10,
    sums.comparison: 12,
    sums.word_problem: 12,
    lists.counting: 25,
    lists.listing: 25,
    lists.order: 15,
    strings.wording: 36,
    strings.json_object: 30,
    lists.emoji: 20,
    facts.capital: 30,
    facts.country_fact: 20,
    facts.colour: 12,
    facts.animal: 12,
    facts.chemistry: 15,
    facts.language_fact: 20,
    facts.general: 15,
    facts.asian: 15,
    small_talk.small_talk: 20,
    small_talk.identity: 12,
    small_talk.tokenwire: 15,
    small_talk.foreign: 15,
    small_talk.unknown: 30,
    tell.story: 12,
    tell.poem: 6,
    tell.greeting_list: 6,
}


@dataclass(slots=True)
class Case:
    """One measured answer. Exactly one of talk and text is the prompt; prefix: the answer need only begin so.

    Where talk thinks, a thought of one line goes before the expected answer.
    """

    kind: str
    expected: str
    talk: conversations.Conversation | None = None
    text: str = ""
    prefix: bool = False


def grade(case: Case, answer: str) -> bool:
    """Whether answer is right: the same JSON value where JSON is expected, else the same text."""
    if case.talk and case.talk.thinking:
        thought, _, answer = answer.partition(thoughts.CLOSES)
        if not thought or "\n" in thought:
            return False
    answer, expected = answer.strip(), case.expected.strip()
    if case.prefix:
        return answer.startswith(expected)
    if expected[:1] in "{[":
        try:
            return json.loads(answer) == json.loads(expected)
        except ValueError:
            return False
    return answer == expected


def of_talk(talk: conversations.Conversation, kind: str = "") -> Case:
    """The case that asks for talk's last answer."""
    return Case(kind or talk.kind, talk.turns[-1].answer, talk)


def looking_back(rng: Random, characters: int, recall: bool, kind: str) -> Case:
    """A trained conversation whose last turn is a held recall or follow-up."""
    while True:
        talk = conversations.Conversation("", kind=kind)
        state = memory.State()
        length = 0
        while length < characters:
            turn = conversations.next_turn(rng, state, 0.5 if characters < 2000 else 0.2)
            talk.turns.append(turn)
            length += len(turn.user.encode()) + len(turn.answer.encode()) + 8
        last = memory.recall(rng, state) if recall else memory.follow_up(rng, state)
        if last is not None and core.is_held(last):
            talk.turns.append(last)
            return of_talk(talk)


def until_held(rng: Random, make) -> Case:
    """The first conversation of make that has a held last turn and trained ones before it."""
    while True:
        talk = make(rng)
        if core.is_held(talk.turns[-1]) and talk.turns[-1].kind == talk.kind:
            return of_talk(talk)


def plain_case(rng: Random) -> Case:
    """A held sentence or sequence for plain completion, cut before its last word or inside the sequence."""
    while True:
        text = tell.plain_text(rng, core.draw(rng.choice(conversations.PLAIN), rng, False))
        if not core.in_bucket(f"plain {text}") or len(text) > 200:
            continue
        if text[0].isdigit():
            items = text.split(" ")
            cut = rng.randint(4, len(items) - 3)
            return Case("plain_text", " ".join(items[cut : cut + 5]).rstrip(",."), None, " ".join(items[:cut]), True)
        head, _, tail = text.rpartition(" ")
        return Case("plain_text", tail, None, head)


# of these, held ones are asked for with a thought before the answer
THINKING = (
    *(sums.addition, sums.addition, sums.addition, sums.subtraction, sums.subtraction, sums.multiplication),
    *(sums.division, sums.word_problem, facts.capital, facts.capital, facts.animal, strings.wording),
    *(strings.json_object, lists.listing, small_talk.small_talk, small_talk.unknown),
)


def thinking_cases(rng: Random) -> list[Case]:
    """Held questions, calls of tools and their results, and a recall, with a thought before the answer."""
    talks = [conversations.Conversation(turns=[core.draw(make, rng, True)]) for make in THINKING]
    talks += [until_held(rng, conversations.tools_talk).talk for _ in range(4)]
    del talks[-1].turns[1:], talks[-2].turns[1:]  # these two end with the call
    talks.append(looking_back(rng, 100, True, "memory").talk)
    for talk in talks:
        talk.thinking = True
    return [of_talk(talk, "thinking") for talk in talks]


def held_set() -> list[Case]:
    """All cases; the same at every call."""
    rng = Random(SEED)
    cases: list[Case] = []
    for make, count in COUNTS.items():
        seen: set[str] = set()
        for _ in range(count * 20):
            turn = core.draw(make, rng, True)
            if turn.user not in seen and len(seen) < count:
                seen.add(turn.user)
                cases.append(of_talk(conversations.Conversation(turns=[turn]), turn.kind))
    cases += [of_talk(conversations.styled(rng, rng.randint(1, 3), held=True)) for _ in range(25)]
    cases += [looking_back(rng, rng.randint(40, 500), True, "memory") for _ in range(30)]
    cases += [looking_back(rng, rng.randint(20, 300), False, "follow_up") for _ in range(30)]
    cases += [looking_back(rng, rng.randint(4000, 9000), rng.random() < 0.7, "long") for _ in range(12)]
    cases += [until_held(rng, conversations.tools_talk) for _ in range(20)]
    cases += [until_held(rng, conversations.documents_talk) for _ in range(20)]
    cases += list({case.text: case for case in (plain_case(rng) for _ in range(40))}.values())
    for prompt, answer in core.STRANGERS.items():
        talk = conversations.Conversation(turns=[core.Turn("stranger", prompt, answer)])
        cases.append(Case("stranger", answer, talk, prefix=True))
    return cases + thinking_cases(rng)


def reserve() -> list[Case]:
    """The held set, after making sure that none of its single prompts is ever drawn for training."""
    cases = held_set()
    for case in cases:
        talk = case.talk
        if talk and len(talk.turns) == 1 and not (talk.system or talk.tools or talk.documents):
            core.RESERVED.add(talk.turns[0].user)
    return cases


if __name__ == "__main__":
    for case in reserve():
        shown = json.dumps(conversations.messages(case.talk), ensure_ascii=False)[-300:] if case.talk else case.text
        print(f"{case.kind:16} {shown} -> {case.expected[:100]!r}")
