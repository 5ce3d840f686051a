"""`tokenwire chat`: one answer, a piped conversation, and a conversation on a terminal."""

import json
import subprocess
import sys

import grpc
import pytest
from tokenwire.frontend.v1 import prompt_pb2

from tests.client.scripted_server import (
    COMPLETED,
    PARSED,
    WAIT_S,
    Hold,
    accepted,
    call_delta,
    delta,
    end,
    status,
)


def test_chat_answers_one_message(run, server, stdin):
    assert run("chat", "hello", "--system", "Be brief.")[1] == "Hello world\n"
    messages = server.last.generation.prompt.chat.messages
    assert [each.content for each in messages] == ["Be brief.", "hello"]
    stdin("from a pipe\n")
    assert run("chat", "-", "--json")[0] == 0
    assert server.last.generation.prompt.chat.messages[0].content == "from a pipe"


def test_chat_gives_the_template_its_arguments(run, server):
    thinks = '{"enable_thinking": true}'
    assert run("chat", "hello", "--template-arguments", thinks)[0] == 0
    assert server.last.generation.prompt.chat.template_arguments == thinks


def test_chat_holds_a_conversation(run, server, stdin):
    stdin("hello\n\nagain\n/reset\nnew\n/exit\nunread\n")
    assert run("chat", "--system", "Be brief.")[:2] == (0, "Hello world\n" * 3)
    turns = [
        [message.content for message in call.request.generation.prompt.chat.messages]
        for call in server.calls
    ]
    assert turns == [
        ["Be brief.", "hello"],
        ["Be brief.", "hello", "Hello world", "again"],
        ["Be brief.", "new"],
    ]


def test_a_piped_conversation_ends_with_the_first_failure(run, server, stdin):
    server.play("", status(grpc.StatusCode.INVALID_ARGUMENT, "no"))
    stdin("hello\nagain\n")
    assert run("chat") == (1, "", "tokenwire: no\n")


SHOWN = """\
[reasoning] let me see[/reasoning]
It is sunny.
[tool call] add {"b": 1e2, "a": 1}
[tool call] now {}
"""


def test_reasoning_and_tool_calls_are_marked(run, server):
    server.play("", *PARSED)
    assert run("chat", "hello") == (0, SHOWN, "")
    shown = json.loads(run("chat", "hello", "--json")[1])
    assert shown["reasoning"] == "let me see"
    assert shown["tool_calls"][0] == {
        "name": "add",
        "arguments": '{"b": 1e2, "a": 1}',
        "id": "c-0",
    }
    assert shown["finish_reason"] == "tool_calls"


def test_marks_of_several_sequences(run, server):
    parts = [
        delta(ids=[1], sequence=1, reasoning="hm", end=end()),
        delta("a\n", [1], tool_calls=[call_delta(name="f", arguments="{}")], end=end()),
    ]
    server.play("", accepted(), *parts, COMPLETED)
    shown = "[0] a\n[tool call] f {}\n[1] [reasoning] hm[/reasoning]\n"
    assert run("chat", "hello", "-n", "2")[1] == shown


def test_a_conversation_keeps_reasoning_and_tool_calls(run, server, stdin):
    server.play("", *PARSED)
    stdin("hello\nagain\n")
    assert run("chat")[1] == SHOWN * 2
    turn = server.last.generation.prompt.chat.messages[1]
    assert (turn.content, turn.reasoning) == ("It is sunny.", "let me see")
    assert [each.name for each in turn.tool_calls] == ["add", "now"]


def test_tools_come_from_a_file(run, server, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text('[{"type": "function", "function": {"name": "add", "parameters": {}}}]')
    assert run("chat", "hi", "--tools", str(tools), "--tool-choice", "required")[0] == 0
    chat = server.last.generation.prompt.chat
    assert [each.name for each in chat.tools] == ["add"]
    assert chat.tool_choice.mode == prompt_pb2.TOOL_CHOICE_MODE_REQUIRED
    assert run("chat", "hi", "--tools", str(tools), "--tool-choice", "add")[0] == 0
    assert server.last.generation.prompt.chat.tool_choice.name == "add"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("[", "is not JSON"),
        ("{}", "is not a JSON list of tools"),
    ],
)
def test_tools_that_cannot_be_read_are_wrong_usage(run, capsys, tmp_path, content, says):
    tools = tmp_path / "tools.json"
    if content is not None:
        tools.write_text(content)
    with pytest.raises(SystemExit) as exit_:
        run("chat", "hi", "--tools", str(tools))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("tokenwire: --tools: ")
    assert says in error


def test_a_tool_that_cannot_be_carried_is_named(run, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "f", "extra": 1}]')
    code, out, err = run("chat", "hi", "--tools", str(tools))
    assert (code, out, err) == (2, "", "tokenwire: tools[0].extra: unknown field\n")


class Terminal:
    """A process on a terminal of its own, as a person would use it."""

    # A process in between makes the terminal, because this one has threads and must not fork.
    _SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

    def __init__(self, *arguments):
        self._screen = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._SPAWN, sys.executable, "-m", "tokenwire", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def expect(self, text):
        """Reads until the text appears."""
        while text.encode() not in self._screen:
            more = self._process.stdout.read(4096)
            assert more, f"{text!r} never came; at last: {self._screen!r}"
            self._screen += more
        self._screen = self._screen.partition(text.encode())[2]

    def type(self, keys):
        self._process.stdin.write(keys.encode())

    def wait(self):
        return self._process.wait(WAIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._process:
            self._process.kill()


@pytest.mark.timeout(30)
def test_ctrl_c_in_a_conversation_stops_the_answer_and_not_the_program(server):
    hold = Hold()
    server.play("", accepted(), delta("On and on", [1]), hold)
    server.play("", accepted(), delta("Well", [1], reasoning="hm", end=end()), COMPLETED)
    server.play("", status(grpc.StatusCode.INVALID_ARGUMENT, "no such thing"))
    with Terminal("chat", "--target", server.address) as terminal:
        terminal.expect("> ")
        terminal.type("tell me\n")
        terminal.expect("On and on")
        terminal.type("\x03")
        terminal.expect("[stopped]")
        assert hold.cancelled.wait(WAIT_S)
        terminal.type("again\n")
        terminal.expect("\x1b[2mhm\x1b[22m\r\nWell")
        terminal.type("wrong\n")
        terminal.expect("tokenwire: no such thing")
        terminal.type("/exit\n")
        assert terminal.wait() == 0
    turns = [
        [message.content for message in call.request.generation.prompt.chat.messages]
        for call in server.calls
    ]
    assert turns[1] == ["tell me", "On and on", "again"]


def test_ctrl_c_at_the_prompt_leaves_nothing(run, monkeypatch):
    keys = iter([KeyboardInterrupt, EOFError])

    def press(prompt):
        raise next(keys)

    monkeypatch.setattr("builtins.input", press)
    assert run("chat") == (0, "\n/exit or Ctrl-D leaves\n", "")
