"""Transcripts: ids in, deltas out. Each file of transcripts/ is one, in the form its head shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.sequence import Finish, Sequence
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


class Spelling:
    """A vocabulary made on the spot: each new piece of bytes gets the next id."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def id(self, piece: str) -> int:
        raw = bytes.fromhex(piece[1:-1]) if re.fullmatch(r"<[0-9a-f]+>", piece) else piece.encode()
        if raw not in self.pieces:
            self.pieces.append(raw)
        return self.pieces.index(raw)

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.pieces[token] for token in ids).decode(errors="replace")


def run(script: str) -> list[str]:
    """Plays a transcript's `>` lines and returns what its `<` lines should be."""
    spelling, options, sequence, answers = Spelling(), {}, None, []
    for line in script.splitlines():
        command, _, rest = line.removeprefix("> ").partition(" ")
        if not line.startswith("> "):
            continue
        if command == "with":
            name, _, value = rest.partition(" ")
            options[name] = value.replace("\\n", "\n")
            continue
        sequence = sequence or build(spelling, options)
        if command == "push":
            stopped = sequence.push([spelling.id(piece) for piece in rest.split("|")])
            answers += ["< stop found"] if stopped else []
        elif command == "finish":
            finish, _, token = rest.partition(" ")
            sequence.finish(Finish(finish), spelling.id(token) if token else None)
        elif command == "take":
            answers.append(f"< {show(sequence.take())}")
    return answers


def build(spelling: Spelling, options: dict[str, str]) -> Sequence:
    def ids(name):
        return frozenset(spelling.id(piece) for piece in options.get(name, "").split("|") if piece)

    stops = options.get("stop")
    include = "include_stop" in options
    return Sequence(
        0,
        Detokenizer(spelling.decode, context_free=True),
        StopMatcher(StopStrings(stops.split("|")), include=include) if stops else None,
        stop_token_ids=ids("stop_tokens") | ids("eos"),
        own_eos_ids=ids("eos"),
        min_tokens=int(options.get("min_tokens", 0)),
        include_stop=include,
        echo=options.get("echo", ""),
    )


def show(delta) -> str:
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
    assert len(TRANSCRIPTS) >= 8
