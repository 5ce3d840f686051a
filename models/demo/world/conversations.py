"""Conversations and texts to train on, and their text as the chat template writes it; a seed decides everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from world import facts, lists, memory, small_talk, strings, sums, tell, thoughts
from world.core import Turn, draw, in_bucket, is_held
from world.style import STYLED, neutral, restyle, style

# how often each kind of turn is drawn
KINDS = {
    sums.addition: 16,
    sums.subtraction: 14,
    sums.multiplication: 7,
    sums.division: 4,
    sums.triple: 1.5,
    sums.beyond: 2,
    sums.comparison: 2,
    sums.word_problem: 2,
    lists.counting: 5,
    lists.listing: 6,
    lists.order: 3,
    strings.wording: 20,
    strings.json_object: 7,
    lists.emoji: 4,
    facts.capital: 9,
    facts.country_fact: 5,
    facts.colour: 2,
    facts.animal: 2.5,
    facts.chemistry: 3,
    facts.language_fact: 5,
    facts.general: 3.5,
    facts.asian: 3,
    small_talk.small_talk: 6,
    small_talk.identity: 3,
    small_talk.tokenwire: 3,
    small_talk.foreign: 3.5,
    small_talk.unknown: 8,
    tell.story: 2.5,
    tell.poem: 1,
    tell.greeting_list: 1,
}
MAKERS, WEIGHTS = list(KINDS), list(KINDS.values())
THINKING_SHARE = 0.15


@dataclass(slots=True)
class Conversation:
    """A chat: a system text ('' for none), tools, documents, and turns; the last turn's answer is what is measured.

    thinking says that a thought goes before the last answer; those before earlier answers are not kept.
    """

    system: str = ""
    tools: list[dict] = field(default_factory=list)
    documents: list[dict] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    kind: str = ""
    thinking: bool = False


def single(rng: Random, held: bool = False) -> Turn:
    """A turn that needs no context."""
    return draw(rng.choices(MAKERS, WEIGHTS)[0], rng, held)


def styled(rng: Random, turns: int, held: bool = False) -> Conversation:
    """A conversation under a system text that changes every answer; only the last turn is held when held."""
    system, how, parameter = style(rng)
    talk = Conversation(system, kind="system")
    while len(talk.turns) < turns:
        last = held and len(talk.turns) == turns - 1
        try:
            turn = draw(
                rng.choice(STYLED if not (how == "name" and rng.random() < 0.5) else [small_talk.identity]), rng, last
            )
        except LookupError:
            continue
        changed = restyle(turn, how, parameter, rng) if turn.plain else None
        if changed:
            talk.turns.append(changed)
    return talk


def next_turn(rng: Random, state: memory.State, context: float) -> Turn:
    """A trained turn: with probability context one that tells, recalls or follows up, else a single one."""
    luck = rng.random()
    turn = None
    if luck < 0.02:
        turn = memory.tell_and_ask(rng)
    elif luck < context * 0.5:
        turn = memory.follow_up(rng, state)
    elif luck < context * 0.75:
        turn = memory.tell(rng, state)
    elif luck < context:
        turn = memory.recall(rng, state)
    if turn is None or is_held(turn):
        turn = single(rng)
    state.last = turn
    return turn


def many(rng: Random, characters: int, context: float = 0.5) -> Conversation:
    """A conversation of several trained turns, of about the given length in characters."""
    talk = Conversation(neutral(rng) if rng.random() < 0.3 else "", kind="long" if characters > 2000 else "several")
    state = memory.State()
    length = 0
    while length < characters:
        turn = next_turn(rng, state, context)
        talk.turns.append(turn)
        length += len(turn.user.encode()) + len(turn.answer.encode()) + 8
    if characters > 2000:  # ask for what was told long ago
        ends = [memory.recall(rng, state) for _ in range(3)]
        talk.turns += [turn for turn in ends if not is_held(turn)]
    return talk


def tools_talk(rng: Random) -> Conversation:
    """A question that a tool answers, or one that needs none."""
    specs, turns = memory.tool_turns(rng)
    if rng.random() < 0.2:
        turns = [single(rng)]
        if turns[0].kind == "out_of_world":
            turns = [draw(sums.addition, rng, False)]
    return Conversation(neutral(rng) if rng.random() < 0.3 else "", specs, [], turns, "tools")


def documents_talk(rng: Random) -> Conversation:
    """Questions about given documents."""
    documents, turns = memory.document_turns(rng)
    turns = turns or [draw(sums.addition, rng, False)]
    return Conversation(neutral(rng) if rng.random() < 0.3 else "", [], documents, turns, "documents")


def conversation(rng: Random) -> Conversation:
    """A trained conversation of any kind, mostly short; some end at any turn, where the model thinks first."""
    talk = answered(rng)
    if rng.random() < THINKING_SHARE:
        talk.thinking = True
        del talk.turns[rng.randint(1, len(talk.turns)) :]
    return talk


def answered(rng: Random) -> Conversation:
    """A trained conversation without thoughts."""
    luck = rng.random()
    if luck < 0.52:
        return Conversation(neutral(rng) if rng.random() < 0.2 else "", [], [], [single(rng)], "single")
    if luck < 0.62:
        return styled(rng, rng.choice((1, 1, 2, 3)))
    if luck < 0.88:
        return many(rng, rng.randint(60, 500), 0.65)
    if luck < 0.93:
        talk = tools_talk(rng)
    elif luck < 0.98:
        talk = documents_talk(rng)
    else:
        return many(rng, rng.randint(600, 1900))
    return talk if not any(is_held(turn) for turn in talk.turns) else answered(rng)


COPYING = (
    strings.json_object,
    strings.json_object,
    strings.wording,
    tell.greeting_list,
    sums.word_problem,
)


def copying(rng: Random) -> Conversation:
    """A trained conversation whose answers repeat given names and values."""
    luck = rng.random()
    if luck < 0.45:
        return Conversation(turns=[draw(rng.choice(COPYING), rng, False)], kind="single")
    if luck < 0.6:
        talk = rng.choice((tools_talk, documents_talk))(rng)
        return copying(rng) if any(is_held(turn) for turn in talk.turns) else talk
    talk, state = Conversation(kind="several"), memory.State()
    talk.turns.append(memory.tell(rng, state))
    talk.turns += [single(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    last = memory.recall(rng, state) if luck < 0.95 else memory.tell_and_ask(rng)
    return copying(rng) if is_held(last) else Conversation(turns=[*talk.turns, last], kind="several")


class Piece(NamedTuple):
    """A special token ('' for none), the text after it, whether the text is learnt, and the special token at its end."""

    mark: str
    text: str
    learnt: bool = False
    end: str = "<|end|>"


def pieces(talk: Conversation) -> list[Piece]:
    """What the chat template renders, and the last answer; `python -m world --check` compares."""
    parts = [talk.system] if talk.system else []
    if talk.tools:
        parts.append("Tools: " + json.dumps(talk.tools, ensure_ascii=False))
    if talk.documents:
        parts.append("Documents: " + json.dumps(talk.documents, ensure_ascii=False))
    out = [Piece("<|begin|>", "", end="")]
    if parts:
        out.append(Piece("<|system|>", "\n".join(parts)))
    for turn in talk.turns:
        out.append(Piece(f"<|{turn.role}|>", turn.user))
        out.append(Piece("<|assistant|>", turn.answer, learnt=True))
    if talk.thinking:
        out[-1:] = [
            Piece("<|assistant|>", thoughts.OPENS, end=""),
            Piece("", thoughts.thinking(talk.turns[-1]), learnt=True),
        ]
    return out


def messages(talk: Conversation) -> list[dict]:
    """talk as chat messages, the last answer left out."""
    out = [{"role": "system", "content": talk.system}] if talk.system else []
    for turn in talk.turns:
        out.append({"role": turn.role, "content": turn.user})
        out.append({"role": "assistant", "content": turn.answer})
    return out[:-1]


PLAIN = (facts.capital, facts.colour, facts.animal, facts.country_fact, facts.general)


def plain(rng: Random) -> str:
    """A trained text without the chat template; one sentence in HELD_ONE_IN is never trained in this form.

    Half of them are a question, a line break and the answer, so that what is asked without the template ends too.
    """
    while True:
        if rng.random() < 0.5:
            turn = draw(small_talk.small_talk, rng, False) if rng.random() < 0.3 else single(rng)
            text = f"{turn.user}\n{turn.answer}"
        else:
            text = tell.plain_text(rng, draw(rng.choice(PLAIN), rng, False))
        if not in_bucket(f"plain {text}"):
            return text


def tokenizer_texts(count: int, seed: int = 7) -> Iterator[str]:
    """Texts to learn the tokenizer's merges from."""
    rng = Random(seed)
    for _ in range(count):
        if rng.random() < 0.05:
            yield plain(rng)
        else:
            yield from (piece.text for piece in pieces(conversation(rng)) if piece.text)
