"""`tokenwire trace`: where the time of one recent request went."""

import json
import time

import grpc
import pytest
from tokenwire.cli.main import main

from tests.client.activity_messages import FIRST, REFUSED, snapshot
from tests.client.scripted_server import ACTIVITY, status


@pytest.fixture(autouse=True)
def greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


TRACE = """\
request ea0d8bda55f8184c on worker w-1, trace cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
received 2027-01-15 08:00:00.250+00:00, for model demo, route: prefix
service   stage     start ms  took ms
frontend  tokenize       1.0      2.0  █
worker    prefill        5.0     38.0  █
worker    decode        43.0   1057.0   ██████████████████████████████████████
total 1100.0 ms, first token 43.0 ms, each further token 5.0 ms
870 prompt tokens (832 cached), 193 generated; completed: stop
"""


def test_a_record_is_a_waterfall(run, server):
    assert run("trace", "ea0d8bda55f8184c") == (0, TRACE, "")
    assert server.last.request_id == "ea0d8bda55f8184c"


def test_the_last_is_the_newest_that_the_frontend_remembers(run, server):
    assert run("trace", "--last") == (0, TRACE, "")
    assert server.last.records == 1


def test_a_refused_request_has_no_stages(run, server):
    refused = snapshot(1, 1, 1, 1)
    del refused.records[:]
    refused.records.append(REFUSED)
    server.play(ACTIVITY, refused)
    assert run("trace", "--last")[1] == (
        f"request job-7 trace {'ef' * 16}\n"
        "received 2027-01-15 07:59:50.000+00:00, for model demo\n"
        "0 prompt tokens, 0 generated; refused: QUEUE_FULL\n"
    )


def test_json_is_the_record(run):
    for arguments in (["ea0d8bda55f8184c"], ["--last"]):
        code, out, err = run("trace", "--json", *arguments)
        assert (code, err, out.count("\n")) == (0, "", 1)
        shown = json.loads(out)
        assert list(shown) == [
            *("request_id", "trace_id", "received_at", "model", "outcome", "reason"),
            *("route_reason", "usage", "timings"),
        ]
        assert (shown["outcome"], shown["reason"]) == ("completed", "stop")
        assert shown["timings"]["total_s"] == 1.1


def test_a_record_that_is_forgotten_is_a_failure(run):
    assert run("trace", "old") == (1, "", "tokenwire: no record of request 'old'\n")


def test_nothing_remembered_is_a_failure(run, server):
    empty = snapshot(1, 1, 1, 1)
    del empty.records[:]
    server.play(ACTIVITY, empty)
    assert run("trace", "--last") == (1, "", "tokenwire: the frontend remembers no request\n")


def test_a_frontend_that_does_not_tell_is_a_failure(run, server):
    server.play(ACTIVITY, status(grpc.StatusCode.UNIMPLEMENTED, "no such method"))
    code, out, err = run("trace", "--last")
    assert (code, out, "a frontend too old for this command" in err) == (1, "", True)


def test_nobody_there(capsys):
    assert main(["trace", "--last", "--target", "127.0.0.1:1"]) == 69
    assert "no connection to 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["an-id", "--last"]])
def test_exactly_one_request_is_named(arguments, server, capsys):
    server.play(ACTIVITY, FIRST)
    with pytest.raises(SystemExit) as caught:
        main(["trace", *arguments])
    assert caught.value.code == 2
    assert "--last" in capsys.readouterr().err
