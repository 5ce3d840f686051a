"""What tries guides for each engine: a process that may be lost, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace

import pytest
from tokenwire_worker.engines.guides import checker as module
from tokenwire_worker.engines.guides.checker import GuideChecker, compiler_checker
from tokenwire_worker.engines.guides.process import (
    Lost,
    OutOfCpuTime,
    TrialProcess,
    Unavailable,
    Verdict,
)
from tokenwire_worker.engines.port import Ability, FreePrefix, Guide, Refused, Untried
from tokenwire_worker.model_files import read_limits

from tests.engines.conftest import STAND_INS
from tests.engines.recorder import WAIT_S
from tests.services.processes import MODEL

COSTLY = "takes more than 15 ms of CPU time for each token, on average over 8"
STOPPED = "the worker is being stopped"


@pytest.fixture(params=["openvino", "compiler"])
def checker(request, tmp_path, monkeypatch):
    """OpenVINO's on the demo model, and that of engines on a compiler's package, on a stand-in."""
    monkeypatch.setattr(module, "WAIT_S", WAIT_S)
    if request.param == "openvino":
        pytest.importorskip("openvino_genai")
        from tokenwire_worker.engines.openvino.guides import guide_checker

        limits = read_limits(MODEL, None)
        made = guide_checker(str(MODEL), limits.vocabulary_size, limits.eos_token_ids[0])
    else:
        monkeypatch.setenv("PYTHONPATH", str(STAND_INS["tensorrt_llm"]))
        made = compiler_checker(tmp_path, 4096)
    yield made
    made.close()


@pytest.fixture
def process(checker):
    """One of its processes, which nobody else uses."""
    made = checker._lanes._processes[0]
    yield made
    made.end()


@pytest.fixture
def endless(request):
    """A form that takes for ever, or on OpenVINO's compiler some seconds."""
    if "openvino" not in request.node.callspec.params.values():
        return regex("for ever")
    properties = {f"property_{number}": {"type": "string"} for number in range(2000)}
    schema = {"type": "object", "properties": properties}
    return Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(schema))


def regex(text: str) -> Guide:
    return Guide(Ability.GUIDED_REGEX, text)


def long_schema(number: int) -> Guide:
    text = json.dumps({"type": "object", "title": str(number), "description": "x" * 100_000})
    return Guide(Ability.GUIDED_JSON_SCHEMA, text)


def check(checker: GuideChecker, guide: Guide) -> Verdict:
    return asyncio.run(checker.check(guide))


def refusal(checker: GuideChecker, guide: Guide) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        check(checker, guide)
    return refused.value.field, refused.value.description


def untried(checker: GuideChecker, guide: Guide) -> str:
    with pytest.raises(Untried) as told:
        check(checker, guide)
    return told.value.description


def tried(process: TrialProcess, guide: Guide, cpu_s: float = WAIT_S) -> Verdict:
    process.ask(guide, cpu_s, WAIT_S)
    return process.answer(WAIT_S)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process behind its parent's back, and waits until that could notice."""
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


# --- what is remembered --------------------------------------------------------------------------


def test_good_forms_are_remembered_without_their_texts(checker):
    check(checker, long_schema(0))
    tracemalloc.start()
    try:
        for number in range(1, 11):
            check(checker, long_schema(number))
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown_bytes < 200_000, "of texts of 1,000,000"
    checker.close()
    check(checker, long_schema(3))


def test_the_good_form_that_was_longest_out_of_use_is_forgotten(checker, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for text in ("a", "b", "a", "c"):
        check(checker, regex(text))
    checker.close()
    for text in ("a", "c"):
        check(checker, regex(text))
    assert untried(checker, regex("b")) == STOPPED


def test_bad_forms_are_remembered_with_what_is_wrong(checker):
    told = refusal(checker, regex("["))
    assert told[0] == "guide.regex"
    checker.close()
    assert refusal(checker, regex("[")) == told


def test_what_a_form_costs_is_told(checker):
    verdict = check(checker, regex("[a-c]{3}x"))
    assert verdict.fault is None
    assert 0 <= verdict.held_bytes < 10 * 1024**2
    assert 0 <= verdict.cpu_s < 1


@pytest.mark.parametrize("checker", ["openvino"], indirect=True)
def test_a_form_that_costs_too_much_at_each_token_is_refused(checker):
    """Also where it is so only behind a cheap part, or behind one that is free."""
    costly = "(.{0,90}.{0,90}.{0,90})x"
    for text in (costly, f"[a-z]{{20}}{costly}"):
        assert refusal(checker, regex(text)) == ("guide.regex", COSTLY)
    properties = {"a": {"type": "string"}, "b": {"type": "string", "pattern": f"^{costly}$"}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"]}
    guide = Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(schema))
    assert refusal(checker, guide) == ("guide.json_schema", COSTLY)
    free = replace(regex(costly), free_prefix=FreePrefix("", "</think>"))
    assert refusal(checker, free) == ("guide.regex", COSTLY)


# --- a process that is lost ----------------------------------------------------------------------


def test_after_a_process_that_died_with_nothing_to_do_there_is_another(process):
    tried(process, regex("a"))
    dead = process._process
    kill(dead)
    assert tried(process, regex("b")).fault is None
    assert process._process.pid != dead.pid
    assert dead.stdin.closed
    assert dead.stdout.closed


def test_nothing_is_kept_of_a_process_that_a_form_ended(process, endless):
    tried(process, regex("a"))
    dead = process._process
    with pytest.raises(OutOfCpuTime):
        tried(process, endless, cpu_s=0.2)
    assert process._process is None
    assert dead.returncode == -signal.SIGPROF
    assert dead.stdin.closed
    assert dead.stdout.closed
    assert tried(process, regex("b")).fault is None


def test_a_form_that_its_process_never_read_is_not_blamed_and_the_next_is_tried(process):
    """The form is still to be written when the pipe to it is closed, which fails once more."""
    command = process._command
    deaf = "import os, signal; os.close(0); print('{}', flush=True); signal.pause()"
    process._command = [sys.executable, "-c", deaf]
    with pytest.raises(Lost) as lost:
        tried(process, regex("a"))
    assert not lost.value.by_form
    assert process._process is None
    process._command = command
    assert tried(process, regex("a")).fault is None


def test_a_process_that_cannot_be_started_is_told(process):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Unavailable) as told:
            tried(process, regex("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(told.value) == "its process did not start: Too many open files"
    assert tried(process, regex("a")).fault is None


def test_a_process_that_ends_before_it_is_ready_is_told(checker):
    processes = checker._lanes._processes
    commands = [each._command for each in processes]
    for each in processes:
        each._command = [sys.executable, "-c", ""]
    assert untried(checker, regex("a")) == "its process did not start: it has ended"
    for each, command in zip(processes, commands, strict=True):
        assert each._process is None
        each._command = command
    check(checker, regex("a"))


# --- its end -------------------------------------------------------------------------------------


def test_closing_ends_the_process_and_what_it_tries(process, endless):
    tried(process, regex("a"))
    running = process._process
    process.ask(endless, WAIT_S, WAIT_S)
    told: list[Exception] = []

    def wait() -> None:
        try:
            process.answer(WAIT_S)
        except Unavailable as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    process.kill()
    thread.join(WAIT_S)
    assert [str(each) for each in told] == ["the worker is being stopped"]
    assert running.returncode == -signal.SIGKILL
    assert process._process is None


def test_closing_before_the_first_guide_ends_nothing_and_refuses(checker):
    checker.close()
    assert untried(checker, regex("a")) == STOPPED


def test_an_interrupt_from_the_terminal_leaves_it_alone(process):
    tried(process, regex("a"))
    running = process._process
    os.kill(running.pid, signal.SIGINT)
    tried(process, regex("b"))
    assert process._process is running


def test_a_form_that_takes_for_ever_ends_with_the_worker_gone(process, endless):
    """By its own clocks, of which that of CPU time stands still while it only waits."""
    for limits, ends_by in (
        ({"cpu_s": WAIT_S, "wall_s": 0.1}, signal.SIGALRM),
        ({"cpu_s": 0.1, "wall_s": WAIT_S}, signal.SIGPROF),
    ):
        form = {"form": endless.form.value, "text": endless.text, "options": [], "free": None}
        asked = {**form, **limits}
        with subprocess.Popen(
            process._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as started:
            started.stdin.write(json.dumps(asked).encode() + b"\n")
            started.stdin.close()
            assert started.wait(WAIT_S) == -ends_by
