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
import time
import tracemalloc

import pytest
from tokenwire_worker.engines.guides import checker as module
from tokenwire_worker.engines.guides.checker import GuideChecker, compiler_checker
from tokenwire_worker.engines.port import Ability, Guide, Refused
from tokenwire_worker.model_files import read_limits

from tests.engines.conftest import STAND_INS
from tests.engines.recorder import WAIT_S
from tests.services.processes import MODEL

STOPPED = "can't be tried: the worker is being stopped"
LOST = "is more than the grammar compiler can take"


@pytest.fixture(params=["openvino", "compiler"])
def checker(request, tmp_path, monkeypatch):
    """OpenVINO's on the demo model, and that of engines on a compiler's package, on a stand-in."""
    if request.param == "openvino":
        openvino_genai = pytest.importorskip("openvino_genai")
        from tokenwire_worker.engines.openvino.guides import guide_checker
        from tokenwire_worker.engines.openvino.trial import Trial

        limits = read_limits(MODEL, None)
        size, stop_id = limits.vocabulary_size, limits.eos_token_ids[0]
        trial = Trial(openvino_genai.Tokenizer(str(MODEL)), size, stop_id)
        made = guide_checker(str(MODEL), size, stop_id, trial.fault)
    else:
        monkeypatch.setenv("PYTHONPATH", str(STAND_INS["tensorrt_llm"]))
        made = compiler_checker(tmp_path, 4096)
    made.endless = ENDLESS[request.param]
    yield made
    made.close()


ENDLESS = {
    "openvino": Guide(Ability.GUIDED_REGEX, "((a{1,1000}){1,1000}){1,1000}"),
    "compiler": Guide(Ability.GUIDED_REGEX, "for ever"),
}


def regex(text: str) -> Guide:
    return Guide(Ability.GUIDED_REGEX, text)


def long_schema(number: int) -> Guide:
    text = json.dumps({"type": "object", "title": str(number), "description": "x" * 100_000})
    return Guide(Ability.GUIDED_JSON_SCHEMA, text)


def refusal(checker: GuideChecker, guide: Guide) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        asyncio.run(checker.check(guide))
    return refused.value.field, refused.value.description


def running(checker: GuideChecker) -> subprocess.Popen[bytes]:
    """The process as it stands."""
    process = checker._process._process
    assert process is not None
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process behind its parent's back, and waits until that could notice."""
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def until(holds) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends_s, "a hang"
        time.sleep(0.01)


# --- what is remembered --------------------------------------------------------------------------


def test_good_forms_are_remembered_without_their_texts(checker):
    asyncio.run(checker.check(long_schema(0)))
    tracemalloc.start()
    try:
        for number in range(1, 11):
            asyncio.run(checker.check(long_schema(number)))
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown_bytes < 200_000, "of texts of 1,000,000"
    checker.close()
    asyncio.run(checker.check(long_schema(3)))


def test_the_good_form_that_was_longest_out_of_use_is_forgotten(checker, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for text in ("a", "b", "a", "c"):
        asyncio.run(checker.check(regex(text)))
    checker.close()
    for text in ("a", "c"):
        asyncio.run(checker.check(regex(text)))
    assert refusal(checker, regex("b")) == ("guide", STOPPED)


def test_bad_forms_are_not_remembered(checker):
    assert refusal(checker, regex("["))[0] == "guide.regex"
    checker.close()
    assert refusal(checker, regex("[")) == ("guide", STOPPED)


# --- a process that is lost ----------------------------------------------------------------------


def test_after_a_process_that_died_with_nothing_to_do_there_is_another(checker):
    asyncio.run(checker.check(regex("a")))
    dead = running(checker)
    kill(dead)
    asyncio.run(checker.check(regex("b")))
    assert running(checker).pid != dead.pid
    assert dead.stdin.closed
    assert dead.stdout.closed


def test_nothing_is_kept_of_a_process_that_a_form_ended(checker, monkeypatch):
    asyncio.run(checker.check(regex("a")))
    process = running(checker)
    monkeypatch.setattr(module, "LIMIT_S", 0.2)
    told = refusal(checker, checker.endless)
    assert told == ("guide.regex", "takes longer than 0.2 s to compile")
    assert checker._process._process is None
    assert process.returncode == -signal.SIGKILL
    assert process.stdin.closed
    assert process.stdout.closed
    monkeypatch.setattr(module, "LIMIT_S", WAIT_S)
    asyncio.run(checker.check(regex("b")))


def test_a_form_that_its_process_never_read_is_refused_and_the_next_is_tried(checker):
    """The form is still to be written when the pipe to it is closed, which fails once more."""
    command = checker._process._command
    deaf = "import os, signal; os.close(0); print('{}', flush=True); signal.pause()"
    checker._process._command = [sys.executable, "-c", deaf]
    assert refusal(checker, regex("a")) == ("guide.regex", LOST)
    assert checker._process._process is None
    checker._process._command = command
    asyncio.run(checker.check(regex("a")))


def test_a_process_that_cannot_be_started_is_told(checker):
    async def without_descriptors() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await checker.check(regex("a"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with pytest.raises(Refused) as refused:
        asyncio.run(without_descriptors())
    told = refused.value.description
    assert told == "can't be tried: its process did not start: Too many open files"
    asyncio.run(checker.check(regex("a")))


def test_a_process_that_ends_before_it_is_ready_is_told(checker):
    command = checker._process._command
    checker._process._command = [sys.executable, "-c", ""]
    told = refusal(checker, regex("a"))
    assert told == ("guide", "can't be tried: its process did not start: it has ended")
    assert checker._process._process is None
    checker._process._command = command
    asyncio.run(checker.check(regex("a")))


# --- its end -------------------------------------------------------------------------------------


def test_closing_ends_the_process_and_what_it_tries(checker, monkeypatch):
    monkeypatch.setattr(module, "LIMIT_S", WAIT_S)
    asyncio.run(checker.check(regex("a")))
    process = running(checker)
    told: list[tuple[str, str]] = []
    thread = threading.Thread(target=lambda: told.append(refusal(checker, checker.endless)))
    thread.start()
    until(checker._checking.locked)
    checker.close()
    thread.join(WAIT_S)
    assert told == [("guide", STOPPED)]
    assert process.returncode == -signal.SIGKILL
    assert checker._process._process is None


def test_closing_before_the_first_guide_ends_nothing_and_refuses(checker):
    checker.close()
    assert refusal(checker, regex("a")) == ("guide", STOPPED)


def test_an_interrupt_from_the_terminal_leaves_it_alone(checker):
    asyncio.run(checker.check(regex("a")))
    process = running(checker)
    os.kill(process.pid, signal.SIGINT)
    asyncio.run(checker.check(regex("b")))
    assert running(checker) is process


def test_a_form_that_takes_for_ever_ends_with_the_worker_gone(checker):
    asked = {"form": "guide.regex", "text": checker.endless.text, "options": [], "limit_s": 0.1}
    with subprocess.Popen(
        checker._process._command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.close()
        assert process.wait(WAIT_S) == -signal.SIGALRM
