"""From ids to a log: transcripts, and the same log however the ids are split.

Each file of transcripts/ is one transcript, in the form its head shows.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.decoder import SequenceDecoder, SequenceEnds
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.log import Delta, End, Finish, SequenceLog
from tokenwire_frontend.core.stop_matcher import SpecialTokens, StopMatcher, StopStrings
from tokenwire_frontend.core.token_texts import TokenTexts

from tests.frontend.tokenizer_kinds import kinds

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

ANY_SIZE = 1 << 30


class Spelling:
    """A vocabulary made on the spot: each new piece of bytes gets the next id."""

    def __init__(self, special: list[str]) -> None:
        self.pieces: list[bytes] = []
        self.special = {self.id(piece): piece for piece in special}

    def id(self, piece: str) -> int:
        raw = bytes.fromhex(piece[1:-1]) if re.fullmatch(r"<[0-9a-f]+>", piece) else piece.encode()
        if raw not in self.pieces:
            self.pieces.append(raw)
        return self.pieces.index(raw)

    def decode(self, ids: list[int]) -> str:
        seen = [self.pieces[token] for token in ids if token not in self.special]
        return b"".join(seen).decode(errors="replace")

    def texts(self) -> TokenTexts:
        skipped = frozenset(self.special.values())
        decoder = {"type": "ByteLevel"}
        return TokenTexts(
            self.decode,
            lambda token: self.pieces[token].decode(errors="replace"),
            skipped=skipped,
            decoder=decoder,
        )


def run(script: str) -> list[str]:
    """Plays a transcript's `>` lines and returns what its `<` lines should be."""
    options, decoder, answers = {}, None, []
    for line in script.splitlines():
        command, _, rest = line.removeprefix("> ").partition(" ")
        if not line.startswith("> "):
            continue
        if command == "with":
            name, _, value = rest.partition(" ")
            options[name] = value.replace("\\n", "\n")
            continue
        if decoder is None:
            spelling = Spelling([each for each in options.get("special", "").split("|") if each])
            decoder = build(spelling, options)
            cursor = decoder.log.start()
        if command == "push":
            stopped = push(decoder, [spelling.id(piece) for piece in rest.split("|")])
            answers += ["< stop found"] if stopped else []
        elif command == "finish":
            finish, _, token = rest.partition(" ")
            decoder.finish(Finish(finish), spelling.id(token) if token else None)
        elif command == "take":
            answers.append(f"< {show(decoder.log.slice(cursor, ANY_SIZE))}")
    return answers


def build(spelling: Spelling, options: dict[str, str]) -> SequenceDecoder:
    def ids(name):
        return frozenset(spelling.id(piece) for piece in options.get(name, "").split("|") if piece)

    stops = options.get("stop")
    include = "include_stop" in options
    matcher = None
    if stops is not None:
        matcher = StopMatcher(
            StopStrings(stops.split("|"), SpecialTokens(spelling.special)), include=include
        )
    return SequenceDecoder(
        SequenceLog(0, echo=options.get("echo", "").encode()),
        Detokenizer(spelling.texts()),
        SequenceEnds(
            stop_token_ids=ids("stop_tokens") | ids("eos"),
            own_eos_ids=ids("eos"),
            min_tokens=int(options.get("min_tokens", 0)),
            include_stop=include,
        ),
        matcher,
    )


def show(delta: Delta | None) -> str:
    if delta is None:
        return "nothing"
    text = delta.text.replace("\n", "\\n")
    shown = f"offset={delta.token_offset} ids={len(delta.token_ids)} text={text!r}"
    if delta.end is None:
        return shown
    end = delta.end
    shown += f" end={end.finish.value}"
    shown += f" stop={end.stop!r}" if end.stop else ""
    return shown + (f" stop_token={end.stop_token_id}" if end.stop_token_id is not None else "")


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    script = path.read_text()
    assert run(script) == [line for line in script.splitlines() if line.startswith("< ")]


def test_there_are_transcripts():
    assert len(TRANSCRIPTS) >= 20


@st.composite
def cases(draw):
    """A request, and ids of an answer to it in which its stop strings may lie."""
    name = draw(st.sampled_from(sorted(kinds())))
    tokenizer = kinds()[name]
    size = tokenizer.vocabulary_size
    special = sorted(tokenizer.special_tokens) or [0]
    token = st.one_of(
        st.integers(0, size - 1), st.integers(0, min(size, 300) - 1), st.sampled_from(special)
    )
    ids = draw(st.lists(token, min_size=1, max_size=40))
    skip = draw(st.booleans())
    shown = tokenizer.decode(ids, skip_special_tokens=draw(st.booleans()))
    if shown:
        start = st.integers(0, len(shown) - 1)
        part = st.tuples(start, st.integers(1, 12)).map(lambda x: shown[x[0] : x[0] + x[1]])
    else:
        part = st.just("never")
    content = st.sampled_from(special).map(lambda one: tokenizer.special_tokens.get(one, "?"))
    mixed = st.tuples(part, content, part).map("".join)
    stops = draw(st.lists(st.one_of(part, content, mixed), max_size=3))
    return {
        "tokenizer": tokenizer,
        "ids": ids,
        "skip": skip,
        "stops": stops,
        "include": draw(st.booleans()),
        "min_tokens": draw(st.integers(0, 12)),
        "stop_token_ids": frozenset(draw(st.lists(st.sampled_from([*ids, *special]), max_size=2))),
        "seed": draw(st.lists(token, max_size=8)),
    }


def decoder_of(case) -> SequenceDecoder:
    tokenizer = case["tokenizer"]
    left_out = tokenizer.special_tokens if case["skip"] else None
    stops = case["stops"]
    return SequenceDecoder(
        SequenceLog(0),
        tokenizer.detokenizer(skip_special_tokens=case["skip"], seed=case["seed"]),
        SequenceEnds(
            stop_token_ids=case["stop_token_ids"],
            min_tokens=case["min_tokens"],
            include_stop=case["include"],
        ),
        StopMatcher(StopStrings(stops, left_out), include=case["include"]) if stops else None,
    )


def push(decoder: SequenceDecoder, ids: list[int]) -> bool:
    """Gives the decoder ids as a worker's frames do."""
    return decoder.push_one(ids[0]) if len(ids) == 1 else decoder.push(ids)


def result(decoder: SequenceDecoder, runs: list[list[int]]) -> tuple[list[int], str, End | None]:
    for ids in runs:
        if push(decoder, ids):
            break
    decoder.finish(Finish.LENGTH)
    delta = decoder.log.slice(decoder.log.start(), ANY_SIZE)
    return list(delta.token_ids), delta.text, delta.end


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5), data=st.data())
def test_the_log_is_a_function_of_the_request_and_the_ids(case, cuts, data):
    """Whatever runs they came in, and wherever another decoder took over."""
    ids = case["ids"]
    one_by_one = result(decoder_of(case), [[token] for token in ids])
    runs, start = [], 0
    while start < len(ids):
        size = cuts[len(runs) % len(cuts)]
        runs.append(ids[start : start + size])
        start += size
    assert result(decoder_of(case), runs) == one_by_one
    place = data.draw(st.integers(1, len(ids)))
    replayed = [ids[:place], *([token] for token in ids[place:])]
    assert result(decoder_of(case), replayed) == one_by_one


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), size=st.integers(1, 9))
def test_without_stops_the_log_is_the_decode_of_all_ids(case, size):
    tokenizer, ids = case["tokenizer"], case["ids"]
    case = {**case, "stops": [], "stop_token_ids": frozenset(), "seed": []}
    runs = [ids[start : start + size] for start in range(0, len(ids), size)]
    logged, text, end = result(decoder_of(case), runs)
    assert logged == ids
    assert text == tokenizer.decode(ids, skip_special_tokens=case["skip"])
    assert end == End(Finish.LENGTH)


class Definition:
    """What ends a sequence, symbol by symbol, over the text that is certain after each id.

    A symbol is a character, or a special token whose text is left out. A stop string is met by the
    text with such tokens, and by the text without them. What is held back when a
    special token comes stands before it if the sequence ends there, else after it.
    """

    def __init__(self, case) -> None:
        self.case = case
        self.stream: list[tuple[str, bool]] = []
        self.number = 0

    def result(self) -> tuple[list[int], str, End]:
        """The ids, text and end that the log should have."""
        case, ids = self.case, self.case["ids"]
        tokenizer, skip = case["tokenizer"], case["skip"]
        left_out = tokenizer.special_tokens if skip else {}
        plain = tokenizer.detokenizer(skip_special_tokens=skip, seed=case["seed"])
        for self.number, token in enumerate(ids, 1):
            held = plain.held()
            if token not in left_out:
                symbols = [[(character, True)] for character in plain.push([token])]
            else:
                special = (left_out[token], False)
                before = [(character, True) for character in held]
                symbols = [[*before, special]]
                if (end := self.ended(symbols)) is not None:
                    return end
                del self.stream[-len(before) - 1 :]
                symbols = [[special]]
            if (end := self.ended(symbols)) is not None:
                return end
        if (end := self.ended([[(character, True)] for character in plain.held()])) is not None:
            return end
        return ids, self.shown(len(self.stream)), End(Finish.LENGTH)

    def ended(self, symbols) -> tuple[list[int], str, End] | None:
        for symbol in symbols:
            self.stream += symbol
            last_shown = self.stream[-1][1]
            found: dict[str, int] = {}
            for start in range(len(self.stream)):
                tail = self.stream[start:]
                found["".join(text for text, _ in tail)] = start
                if last_shown:
                    found["".join(text for text, seen in tail if seen)] = start
            met = [stop for stop in found if stop in self.case["stops"]]
            if met and self.number >= self.case["min_tokens"]:
                stop = max(met, key=len)
                text = self.shown(len(self.stream) if self.case["include"] else found[stop])
                return self.case["ids"][: self.number], text, End(Finish.STOP, stop=stop)
        return None

    def shown(self, end: int) -> str:
        return "".join(text for text, seen in self.stream[:end] if seen)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases())
def test_the_first_stop_string_that_counts_ends_the_sequence(case):
    case = {**case, "stop_token_ids": frozenset()}
    assert result(decoder_of(case), [case["ids"]]) == Definition(case).result()


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("min_tokens", range(8))
def test_stop_strings_and_stop_tokens_count_from_the_same_id_on(min_tokens, include):
    """The id that completes it has to be at least number min_tokens."""
    spelling = Spelling([])
    ids = [spelling.id(piece) for piece in ("a", "\n", "E", "N", "D", "b", "b")]
    options = {"min_tokens": str(min_tokens), **({"include_stop": "yes"} if include else {})}
    by_string = result(build(spelling, {**options, "stop": "D"}), [[token] for token in ids])
    if min_tokens <= 5:
        text = "a\nEND" if include else "a\nEN"
        assert by_string == (ids[:5], text, End(Finish.STOP, stop="D"))
    else:
        assert by_string == (ids, "a\nENDbb", End(Finish.LENGTH))
    decoder = build(spelling, {**options, "stop_tokens": "D"})
    decoder.push(ids[:5])
    decoder.finish(Finish.STOP, ids[4])
    delta = decoder.log.slice(decoder.log.start(), ANY_SIZE)
    assert delta.text == ("a\nEND" if include or min_tokens > 5 else "a\nEN")
