"""`tokenwire chat`: one answer, a piped conversation, and a conversation on a terminal."""

import subprocess
import sys

import grpc
import pytest

from tests.client.scripted_server import COMPLETED, WAIT_S, Hold, accepted, delta, end, status


def test_chat_answers_one_message(run, server, stdin):
    assert run("chat", "hello", "--system", "Be brief.")[1] == "Hello world\n"
    messages = server.last.generation.prompt.chat.messages
    assert [each.content for each in messages] == ["Be brief.", "hello"]
    stdin("from a pipe\n")
    assert run("chat", "-", "--json")[0] == 0
    assert server.last.generation.prompt.chat.messages[0].content == "from a pipe"


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
    server.play("", accepted(), delta("Well", [1], end=end()), COMPLETED)
    server.play("", status(grpc.StatusCode.INVALID_ARGUMENT, "no such thing"))
    with Terminal("chat", "--target", server.address) as terminal:
        terminal.expect("> ")
        terminal.type("tell me\n")
        terminal.expect("On and on")
        terminal.type("\x03")
        terminal.expect("[stopped]")
        assert hold.cancelled.wait(WAIT_S)
        terminal.type("again\n")
        terminal.expect("Well")
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
