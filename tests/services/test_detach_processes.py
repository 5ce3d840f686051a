"""Generations that outlive their calls, at a frontend of two processes: whichever process a call
reaches, it finds them."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from tokenwire.frontend.v1 import generation_pb2 as fg

from tests.services.calls import (
    Frontend,
    SessionCall,
    Streamed,
    endless,
    generation,
    read,
    read_to_first_token,
    refused,
)
from tests.services.processes import WAIT_S

DETACH = fg.ON_DISCONNECT_DETACH


def attach(client: Frontend, token: str, *offsets: int) -> Any:
    request = fg.AttachRequest(resume_token=token, token_offsets=offsets)
    return client.generations.Attach(request, timeout=WAIT_S)


def attach_in(session: SessionCall, number: int, token: str) -> None:
    session.expect(number)
    session.send(
        fg.SessionRequest(attaches=[{"id": number, "generation": {"resume_token": token}}])
    )


def test_each_process_finds_what_another_has(clients):
    first, second = clients
    whole = first.stream(generation("A story", 30))
    call = first.start(generation("A story", 30, on_disconnect=DETACH))
    begun = read_to_first_token(call)
    call.cancel()
    token = begun.accepted.resume_token
    rest = attach(second, token, len(begun.ids()))
    assert next(rest).accepted.request_id == begun.accepted.request_id
    for event in rest:
        if event.HasField("delta"):
            begun.deltas.append(event.delta)
    assert (begun.ids(), begun.text()) == (whole.ids(), whole.text())
    with second.session() as session:
        attach_in(session, 3, token)
        [again] = session.finish(3)
    assert (again.ids(), again.text()) == (whole.ids(), whole.text())


def test_a_cancel_finds_it_too(clients):
    first, second = clients
    call = first.start(endless(on_disconnect=DETACH))
    token = read_to_first_token(call).accepted.resume_token
    second.generations.CancelGeneration(
        fg.CancelGenerationRequest(resume_token=token), timeout=WAIT_S
    )
    ended = Streamed()
    for event in attach(first, token):
        ended.take(event)
    assert ended.reason == fg.FINISH_REASON_CANCELLED


def test_another_process_knows_who_calls(clients):
    first, second = clients
    ours, theirs = ([("x-tokenwire-tenant", tenant)] for tenant in ("ours", "theirs"))
    what = fg.StreamGenerateRequest(
        generation=generation("A story", 5, on_disconnect=DETACH, idempotency_key="same")
    )
    asked = [
        read(first.generations.StreamGenerate(what, metadata=metadata, timeout=WAIT_S)).accepted
        for metadata in (ours, theirs)
    ]
    assert asked[0].request_id != asked[1].request_id
    request = fg.AttachRequest(resume_token=asked[0].resume_token)
    found = read(second.generations.Attach(request, metadata=ours, timeout=WAIT_S))
    assert found.accepted.request_id == asked[0].request_id
    refusal = refused(lambda: second.generations.Attach(request, metadata=theirs, timeout=WAIT_S))
    assert refusal.reason == "UNKNOWN_GENERATION"


def test_a_request_id_is_cancelled_in_every_process(clients):
    calls = [client.start(endless(request_id="of-both")) for client in clients]
    begun = [read_to_first_token(call) for call in calls]
    request = fg.CancelGenerationRequest(request_id="of-both")
    answer = clients[0].generations.CancelGeneration(request, timeout=WAIT_S)
    assert answer.cancelled == 2
    for call, ended in zip(calls, begun, strict=True):
        for event in call:
            ended.take(event)
        assert ended.reason == fg.FINISH_REASON_CANCELLED


def test_a_hangup_has_every_process_read_its_files_again(two, clients):
    before = two.process.event_count
    two.process.process.send_signal(signal.SIGHUP)
    for index in (0, 1):
        two.process.wait_for("reloaded", after=before, process=index)
    assert two.process.events(event="draining") == []


def test_equal_requests_that_race_at_both_processes_run_once(two, clients):
    before = two.counter("tokenwire_generations_total")
    answers: list[Any] = []

    def ask(client: Frontend, kind: int) -> None:
        what = generation("Once upon", 12, idempotency_key="raced")
        if kind == 0:
            answer = client.generate(what)
            answers.append((answer.request_id, list(answer.sequences[0].token_ids)))
            return
        if kind == 1:
            streamed = client.stream(what)
        else:
            with client.session() as session:
                session.open(5, what, credit_tokens=100)
                [streamed] = session.finish(5)
        answers.append((streamed.accepted.request_id, streamed.ids()))

    asking = [
        threading.Thread(target=ask, args=(client, kind)) for kind in range(3) for client in clients
    ]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert len(answers) == 6
    assert all(each == answers[0] for each in answers)
    assert two.counter("tokenwire_generations_total") - before == 1
    for client in clients:
        other = refused(
            lambda client=client: client.generate(
                generation("Another", 12, idempotency_key="raced")
            )
        )
        assert other.reason == "IDEMPOTENCY_CONFLICT"


def test_a_process_that_ends_takes_its_generations_with_it(two, clients):
    """And their keys are free."""
    first, second = clients
    what = generation("Lost", 4, on_disconnect=DETACH, idempotency_key="lost")
    token = first.stream(what).accepted.resume_token
    assert read(attach(second, token)).ids()
    process = two.processes()[0]
    os.kill(process["pid"], signal.SIGKILL)
    two.until(lambda told: told[0]["pid"] not in (None, process["pid"]))
    gone = refused(lambda: attach(second, token))
    assert (gone.code.name, gone.reason) == ("NOT_FOUND", "OWNER_GONE")
    assert not second.stream(what).accepted.attached
