"""`tokenwire top`: what it shows on terminals and elsewhere, and how it ends."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import grpc
import pytest
from rich.console import Console
from tokenwire import Activity, Outcome, _responses
from tokenwire.cli import rates, top_view
from tokenwire.cli.main import main
from tokenwire.frontend.v1 import activity_pb2

from tests.client.activity_messages import FIRST, SECOND, snapshot
from tests.client.scripted_server import ACTIVITY, WAIT_S, Hold, ScriptedServer, status

COMMAND = [sys.executable, "-m", "tokenwire", "top"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """80 columns, in Greenwich."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


VIEW = """\
tokenwire ADDRESS                                               up 1 h 2 min
generations 3 of 64   requests 1.5/s   tokens in 1,000/s   out 150/s
completed 103   cancelled 0   refused 1   failed 0

worker          name state      running waiting in flight KV cache
127.0.0.1:50061 w-1  ready            2       1         3 ━━       25%
127.0.0.1:50062 w-2  connecting       0       0         0           0%
127.0.0.1:50062: connection refused

last 60 s                 p50      p90      p99 requests
time to first token   43.0 ms 120.0 ms 260.0 ms       12
time per output token  5.0 ms   6.0 ms   9.0 ms       11
total                       -        -        -        0

time     request          outcome             in out   first  token  total
08:00:00 ea0d8bda55f8184c completed stop     870 193 43.0 ms 5.0 ms 1.10 s
07:59:50 job-7            refused QUEUE_FULL   0   0       -      -      -
"""


def normal(text):
    """Returns the text without the blanks at its lines' ends, and with one between words."""
    return [line.split() for line in text.splitlines()]


def test_once_prints_one_view_with_rates(run, server):
    code, out, err = run("top", "--once", "--interval", "0.5", "--records", "2")
    assert (code, err) == (0, "")
    assert normal(out) == normal(VIEW.replace("ADDRESS", server.address))
    assert (server.last.interval.ToMilliseconds(), server.last.records) == (500, 2)


def test_where_there_is_no_terminal_one_view_is_printed(run, server):
    assert normal(run("top")[1]) == normal(VIEW.replace("ADDRESS", server.address))


def test_rates_are_unknown_until_there_are_two_snapshots(run, server):
    server.play(ACTIVITY, FIRST)
    out = run("top", "--once")[1]
    assert "requests -   tokens in -   out -" in out
    assert "completed 100" in out


@pytest.mark.parametrize("columns", [60, 80, 110, 160])
def test_no_line_is_longer_than_the_terminal_is_wide(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("top")[1].splitlines()
    assert max(map(len, lines)) <= columns
    assert len([line for line in lines if "job-7" in line]) == 1


def test_a_wide_terminal_shows_more(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    out = run("top")[1]
    assert "openvino 2026.4.1.0-3408-ab01d1771e4" in out
    assert "832" in out
    assert "demo" in out


def test_long_names_are_cut_short_and_stay_on_their_line(run, server):
    long = snapshot(10, 1, 1, 1)
    long.workers[0].address = f"{'very-' * 20}long.example.com:50061"
    long.records[0].request_id = "r" * 128
    server.play(ACTIVITY, long, long)
    out = run("top")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) == len(VIEW.splitlines())
    assert "…" in out


def test_without_the_characters_it_is_still_readable(printed):
    shown = printed("ascii", "top")
    assert "127.0.0.1:50061" in shown
    assert "25%" in shown


def test_json_is_one_object_for_each_snapshot(server):
    arguments = [*COMMAND, "--json", "--target", server.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    assert (first["uptime_s"], second["uptime_s"]) == (3723.0, 3725.0)
    assert first["outcomes"] == {"completed": 100, "refused": 1}
    assert first["workers"][0]["kv_cache_usage"] == 0.25
    assert first["time_to_first_token"] == {
        "count": 12,
        "p50_s": 0.043,
        "p90_s": 0.12,
        "p99_s": 0.26,
    }
    assert first["records"][0]["received_at"] == "2027-01-15T08:00:00.250000+00:00"
    assert first["records"][0]["timings"]["stages"][0]["name"] == "tokenize"


def test_json_once_is_one_snapshot(run, server):
    code, out, err = run("top", "--json", "--once")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["uptime_s"] == 3723.0


@pytest.fixture
def without_rich(monkeypatch):
    for name in [each for each in sys.modules if each.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tokenwire.cli.top_view")
    monkeypatch.delattr("tokenwire.cli.top_view")
    monkeypatch.setitem(sys.modules, "rich", None)


@pytest.mark.usefixtures("without_rich")
def test_without_rich_one_line_says_what_to_install(run):
    code, out, err = run("top", "--once")
    assert (code, out) == (1, "")
    assert err == "tokenwire: the view needs rich: pip install rich, or use --json\n"
    assert json.loads(run("top", "--once", "--json")[1])["generations_limit"] == 64
    assert run("trace", "--last")[0] == 0


def test_nobody_there_is_told_as_by_other_commands(capsys):
    for arguments in (["--once"], ["--once", "--json"], []):
        assert main(["top", "--target", "127.0.0.1:1", *arguments]) == 69
        assert capsys.readouterr().err.startswith("tokenwire: no connection to 127.0.0.1:1: ")


def test_a_frontend_that_does_not_tell_is_a_failure(run, server):
    server.play(ACTIVITY, status(grpc.StatusCode.UNIMPLEMENTED, "no such method"))
    for view in ("--once", "--json"):
        code, out, err = run("top", view)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "a frontend too old for this command" in err


def test_an_early_end_is_a_failure(run, server):
    server.play(ACTIVITY)
    code, out, err = run("top", "--once")
    assert (code, out, "first snapshot" in err) == (1, "", True)


def test_an_interrupt_of_once_is_told(server):
    hold = Hold()
    server.play(ACTIVITY, FIRST, hold)
    arguments = [*COMMAND, "--once", "--target", server.address]
    with subprocess.Popen(arguments) as process:
        assert hold.reached.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130


class Terminal:
    """A terminal of 24 lines and 100 columns with the command in it."""

    def __init__(self, *arguments):
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("COLUMNS")
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=other, stdout=other, stderr=other, env=environment
        )
        os.close(other)
        self._written = b""

    def wait_for(self, *texts):
        """Waits until all texts have been shown since the last wait; returns what was written."""
        deadline = time.monotonic() + WAIT_S
        while not all(text in self._shown() for text in texts):
            ready, _, _ = select.select([self._own], [], [], deadline - time.monotonic())
            assert ready, self._shown()
            self._written += os.read(self._own, 65536)
        written, self._written = self._written, b""
        return written

    def _shown(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._written.decode(errors="replace"))

    def interrupt(self):
        """Presses Ctrl-C; returns what the command still wrote, and its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(WAIT_S)
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(self._own, 65536):
                self._written += data
        return self._written, code

    def close(self):
        self.process.kill()
        self.process.wait(WAIT_S)
        os.close(self._own)


@pytest.fixture
def terminal(server):
    opened = Terminal("--target", server.address, "--interval", "0.1")
    yield opened
    opened.close()


def restarted(server):
    """Returns another frontend in the place of one that has stopped."""
    back = ScriptedServer(port=int(server.address.rpartition(":")[2]))
    back.play(ACTIVITY, snapshot(17, 1, 1, 1), Hold())
    return back


def test_a_terminal_shows_a_view_that_is_renewed(server, terminal):
    seen = Hold()
    server.play(ACTIVITY, FIRST, seen, SECOND, Hold())
    assert b"\x1b[?1049h" in terminal.wait_for("requests -", "completed 100", "ea0d8bda55f8184c")
    seen.cancelled.set()
    terminal.wait_for("out 150/s", "completed 103")
    written, code = terminal.interrupt()
    assert (code, b"\x1b[?1049l" in written) == (0, True)  # the screen is as it was before
    assert b"Traceback" not in written


def test_a_terminal_says_that_the_frontend_is_away_and_when_it_is_back(terminal, server):
    terminal.wait_for("out 150/s")
    server.stop()
    terminal.wait_for("no connection to", "trying again", "job-7")
    back = restarted(server)
    terminal.wait_for("up 17 s", "requests -")
    assert terminal.interrupt()[1] == 0
    back.stop()


def test_a_terminal_waits_for_a_frontend_that_is_not_there_yet():
    opened = Terminal("--target", "127.0.0.1:1")
    opened.wait_for("no connection to 127.0.0.1:1", "trying again")
    assert opened.interrupt()[1] == 0
    opened.close()


def test_json_says_once_that_the_frontend_is_away(server):
    arguments = [*COMMAND, "--json", "--target", server.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        server.stop()
        while b"no connection to" not in (line := process.stderr.readline()):
            assert line  # gRPC may say something of its own before
        assert line.endswith(b"; trying again\n")
        back = restarted(server)
        while json.loads(process.stdout.readline())["uptime_s"] != 17:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        assert b"trying again" not in process.stderr.read()
    back.stop()


def test_a_frontend_that_drains_is_away_too(server):
    server.play(ACTIVITY, FIRST)
    server.play(ACTIVITY)
    server.play(ACTIVITY, SECOND, Hold())
    arguments = [*COMMAND, "--json", "--target", server.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        shown = [json.loads(process.stdout.readline())["uptime_s"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        told = b"tokenwire: the frontend has ended the stream; trying again\n"
        assert process.stderr.read() == told
    assert shown == [3723.0, 3725.0]
    assert len(server.calls) == 3


def activity(message):
    return _responses.activity(message)


def test_rates_are_what_the_counters_gained_by_the_frontend_s_clock():
    assert rates.between(None, activity(FIRST)) == rates.Rates()
    gained = rates.between(activity(FIRST), activity(SECOND))
    assert gained == rates.Rates(requests=1.5, prompt_tokens=1000.0, completion_tokens=150.5)


def test_a_frontend_that_has_started_anew_has_no_rates_yet():
    assert rates.between(activity(SECOND), activity(snapshot(1, 1, 1, 1))) == rates.Rates()


@pytest.mark.parametrize(
    ("uptime_s", "shown"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7200, "2 h 0 min"), (90_000, "1 d 1 h")],
)
def test_uptimes_read_well(uptime_s, shown):
    console = Console(file=io.StringIO(), width=80)
    console.print(top_view.View("here", activity(snapshot(uptime_s, 1, 1, 1))))
    assert f"up {shown}\n" in console.file.getvalue()


def test_a_picture_can_be_made_of_it():
    console = Console(record=True, file=io.StringIO(), width=120)
    gained = rates.between(activity(FIRST), activity(SECOND))
    console.print(top_view.View("127.0.0.1:50051", activity(SECOND), gained))
    picture = console.export_svg(title="tokenwire top")
    assert picture.startswith("<svg")
    assert "ea0d8bda55f8184c" in picture


def test_a_frontend_that_has_done_nothing_yet():
    console = Console(file=io.StringIO(), width=80)
    empty = activity(activity_pb2.WatchActivityResponse())
    assert isinstance(empty, Activity)
    assert empty.outcomes.get(Outcome.COMPLETED) is None
    console.print(top_view.View("here", empty))
    assert "completed 0" in console.file.getvalue()
