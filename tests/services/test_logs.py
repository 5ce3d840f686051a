"""Log lines: written off the loop, bounded in number and in length."""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from grpc._cython import cygrpc
from tokenwire_service import line_writer, logs, refusal_lines
from tokenwire_service.line_writer import LineWriter
from tokenwire_service.logs import FIELD_BYTES, LINE_BYTES
from tokenwire_service.refusal_lines import LINES_EACH_S, RefusalLines

from tests.services.calls import Frontend, generation, refused
from tests.services.processes import MODEL_NAME, ROOT, SERVING, WAIT_S, wait_for_health


class Pipe:
    """A pipe whose reader may take its time, and a writer of lines to it."""

    def __init__(self) -> None:
        self.reads, self._writes = os.pipe()
        self.dropped: list[int] = []
        self.writer = LineWriter(self._writes, self.dropped.append)

    def read_until(self, end: str) -> list[str]:
        """Reads lines up to one that begins so."""
        data = b""
        while f"\n{end}".encode() not in b"\n" + data or not data.endswith(b"\n"):
            data += os.read(self.reads, 2**16)
        return data.decode().splitlines()


@pytest.fixture
def pipe():
    return Pipe()


def test_lines_come_in_order_and_whole(pipe):
    lines = [f"{number} " + "x" * (number % 500) for number in range(5000)]
    writing = threading.Thread(target=lambda: [pipe.writer.write(line) for line in [*lines, "end"]])
    writing.start()
    assert pipe.read_until("end") == [*lines, "end"]
    writing.join()


def test_a_reader_that_is_away_costs_no_time_and_bounded_memory(pipe):
    """Whoever writes goes on; what there is no room for is counted and told later."""
    line = "x" * 1000
    count = 3 * line_writer.QUEUE_BYTES // len(line)
    for _ in range(count):
        pipe.writer.write(line)  # would stand still here without the thread
    data = b""
    while data.count(b"\n") + sum(pipe.dropped) < count:
        if select.select([pipe.reads], [], [], 0.05)[0]:
            data += os.read(pipe.reads, 2**16)
    assert data.count(b"\n") + sum(pipe.dropped) == count
    assert set(data.decode().split()) == {line}
    assert len(data) < 2 * line_writer.QUEUE_BYTES


def test_flush_waits_for_the_reader_but_not_for_ever(pipe):
    pipe.writer.write("y" * 2**20)
    pipe.writer.flush(0.01)  # nobody reads
    pipe.writer.write("end")
    pipe.read_until("end")
    pipe.writer.flush(WAIT_S)


def test_a_reader_that_has_gone_ends_nothing(pipe):
    os.close(pipe.reads)
    pipe.writer.write("into the void")
    pipe.writer.flush(WAIT_S)
    pipe.writer.write("and again")
    pipe.writer.flush(WAIT_S)
    assert pipe.dropped == []


PROGRAM = """
import sys, os, structlog
from tokenwire_service import logs
logs.configure("info", sys.argv[1], "test")
log = structlog.get_logger()
exec(sys.argv[2])
"""


def lines_of(program: str, form: str = "json") -> list[str]:
    """Returns the lines that a process logs which runs this after the set-up."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, program],
        capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S, check=False,
    )  # fmt: skip
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    "ending",
    ["sys.exit(3)", "logs.flush(); os._exit(3)", "raise SystemExit", "1 / 0"],
    ids=["exit", "at once", "SystemExit", "crash"],
)
def test_no_line_is_lost_when_a_process_ends(ending):
    lines = lines_of(f"[log.info('line', number=n) for n in range(2000)]; {ending}")
    logged = [json.loads(line)["number"] for line in lines if line.startswith("{")]
    assert logged == list(range(2000))
    assert ("ZeroDivisionError: division by zero" in lines) is (ending == "1 / 0")


def test_text_for_a_file_has_no_control_sequences():
    (line,) = lines_of("log.info('listening', address='127.0.0.1:1')", "text")
    assert "\x1b" not in line
    assert "listening" in line
    assert "address=127.0.0.1:1" in line


LONG = {
    "a text": "'x' * 4_000_000",
    "other letters": "'\u65e5' * 2_000_000",
    "control characters": "'\\0' * 2_000_000",
    "no characters": "'\\ud800' * 2_000_000",
    "bytes": "b'x' * 4_000_000",
    "a list": "['x' * 4000] * 1000",
    "numbers": "list(range(500_000))",
    "a mapping": "{'x' * 3000 + str(n): 'y' * 3000 for n in range(1000)}",
    "nested": "{'a': [{'b': ['x' * 100_000] * 100}] * 100}",
    "an error": "ValueError('x' * 4_000_000)",
}


MANY_FIELDS = "log.info('line', **{f'field_{n}': 'x' * 5000 for n in range(40)})"

TRACEBACK = """
def f(n): return f(n - 1) if n else {}['x' * 4_000_000]
try: f(200)
except Exception: log.exception('fault')
"""

SHORT = "log.info('line', a='caf\\u00e9', b=['x', 1], c={'d': None}, e=1.5, f=True)"


@pytest.fixture(scope="module")
def line_of():
    """The lines that a process logs, each by the program that logs it."""
    programs = [*(of_field(value) for value in LONG.values()), MANY_FIELDS, TRACEBACK, SHORT]
    return dict(zip(programs, lines_of("\n".join(programs)), strict=True))


def of_field(value: str) -> str:
    return f"log.info('line', field={value}, other='told')"


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_a_field_is_cut_whatever_it_holds(line_of, value):
    line = line_of[of_field(value)]
    assert len(line) < FIELD_BYTES * 4
    told = json.loads(line)
    assert told["other"] == "told"
    assert told["field"]


@pytest.mark.parametrize("character", ["x", "\0", "\u65e5", "\U0001f600"])
def test_a_field_takes_no_more_in_json_than_it_may(character):
    for size in (FIELD_BYTES // 12, FIELD_BYTES // 6, FIELD_BYTES):
        told = logs._cut_fields(None, "info", {"field": character * size})["field"]
        assert len(json.dumps(told)) <= FIELD_BYTES + len('""')


def test_a_line_is_cut_however_many_fields_it_has(line_of):
    line = line_of[MANY_FIELDS]
    assert len(line) < LINE_BYTES + 40 * 50
    assert len(json.loads(line)) > 40


def test_a_traceback_keeps_its_end(line_of):
    line = line_of[TRACEBACK]
    assert len(line) < LINE_BYTES * 2
    assert "KeyError: 'xxx" in json.loads(line)["exception"]


def test_what_is_short_is_told_as_it_is(line_of):
    told = json.loads(line_of[SHORT])
    assert [told[name] for name in "abcef"] == ["caf\u00e9", ["x", 1], {"d": None}, 1.5, True]


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        (logs.GRPC_AIO, f"{logs.PEER_GONE} [/a/B]", ("debug", "peer_gone")),
        (logs.GRPC_AIO, "Unexpected [X] raised by servicer method [/a/B]", ("error", "library")),
        ("other", f"{logs.PEER_GONE} [/a/B]", ("error", "library")),
    ],
)
def test_an_answer_that_meets_a_hang_up_is_no_error(name, said, told):
    library = logging.Logger(name)
    library.addHandler(logs._Libraries())
    with structlog.testing.capture_logs() as lines:
        library.error(said)
    assert [(line["log_level"], line["event"]) for line in lines] == [told]


def test_the_words_for_it_are_grpcs_own():
    assert logs.PEER_GONE.encode() in Path(cygrpc.__file__).read_bytes()


def test_text_lines_are_cut_too():
    (line,) = lines_of("log.info('line', field='x' * 4_000_000)", "text")
    assert len(line) < FIELD_BYTES * 2


# --- a service -----------------------------------------------------------------------------------

HUGE = "z" * 3_000_000

REQUESTS = {
    "request_id": {"request_id": HUGE},
    "model": {"model": HUGE},
    "lora_adapter": {"lora_adapter": HUGE},
    "cache_salt": {"cache_salt": HUGE},
    "a schema": {"guided": {"json_schema": '{"title": "' + HUGE + '", "type": "nope"}'}},
    "a regex": {"guided": {"regex": HUGE + "("}},
    "a stop string": {"stop": {"stop": [HUGE]}},
    "a role": {"prompt": {"chat": {"messages": [{"role": 99, "content": HUGE}]}}},
    "tools": {"prompt": {"chat": {"messages": [], "tools": [{"name": "f", "parameters": HUGE}]}}},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_a_callers_megabytes_reach_no_log(frontend, shared_frontend, shared_worker, fields):
    services = (shared_frontend, shared_worker)
    before = [len(process.lines) for process in services]
    refused(lambda: frontend.generate(generation(**{"model": MODEL_NAME, **fields})))
    # Lines come in order, so what the refusal wrote has come when that of the next call has.
    request_id = secrets.token_hex(4)
    frontend.generate(generation(model=MODEL_NAME, request_id=request_id))
    for process, count in zip(services, before, strict=True):
        process.wait_for("generation", request_id=request_id)
        for line in process.lines[count:]:
            assert "z" * 1100 not in line
            assert len(line) < LINE_BYTES


def test_a_service_goes_on_though_nobody_reads_its_log(plain_worker):
    """Standard error is a pipe, full after some hundred lines; each refusal is one."""
    options = ["--listen", "127.0.0.1:0", "--worker", plain_worker.address, "--log-format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenwire_frontend", *options],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with process:
        try:
            lines = iter(process.stderr.readline, "")
            address = next(json.loads(line) for line in lines if '"listening"' in line)["address"]
            with Frontend(address) as client:
                wait_for_health(client.raw, SERVING)
                what = generation(model=MODEL_NAME, max_tokens=0)
                for _ in range(600):
                    assert refused(lambda: client.generate(what)).reason == "INVALID_FIELD"
        finally:
            process.kill()


# --- refusals ------------------------------------------------------------------------------------


class Refusals:
    """What the processor lets through, by a clock of the test's own."""

    def __init__(self, monkeypatch) -> None:
        self.now_s = 0.0
        self._lines = RefusalLines()
        monkeypatch.setattr(refusal_lines.time, "monotonic", lambda: self.now_s)

    def written(self, count: int, **fields: str) -> list[dict]:
        """Returns those of so many lines that are written."""
        lines = []
        for _ in range(count):
            with suppress(structlog.DropEvent):
                lines.append(self._lines(None, "info", dict(fields)))
        return lines


@pytest.fixture
def refusals(monkeypatch):
    return Refusals(monkeypatch)


REFUSED = {"event": "generation", "outcome": "refused"}


def test_of_many_refusals_a_second_some_are_written_and_the_others_counted(refusals):
    full = {**REFUSED, "reason": "QUEUE_FULL"}
    assert len(refusals.written(1000, **full)) == LINES_EACH_S
    assert refusals.written(1, event="rpc_refused", reason="NO_WORKER"), "others have their own"
    refusals.now_s = 0.9
    assert refusals.written(1, **full) == []
    refusals.now_s = 1.0
    first, second = refusals.written(2, **full)
    assert first["omitted"] == 1000 - LINES_EACH_S + 1
    assert "omitted" not in second


def test_what_is_no_refusal_is_always_written(refusals):
    done = {"event": "generation", "outcome": "completed", "reason": "length"}
    assert len(refusals.written(1000, **done)) == 1000
    assert len(refusals.written(1000, event="task_fault")) == 1000


def test_reasons_without_end_take_no_memory(refusals):
    for number in range(1000):
        assert refusals.written(1, **REFUSED, reason=f"REASON_{number}")
