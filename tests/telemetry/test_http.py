"""A request of OpenAI's interface, in traces and metrics."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from tests.services.processes import WAIT_S
from tests.telemetry.scrapes import Scrape, grown
from tests.telemetry.trees import Caller, check_tree, only, ran, under

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def ask(pair, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Returns the status and the body of an answer."""
    address = pair.frontend_process.wait_for("openai_listening")["address"]
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.headers["x-trace-id"]
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_chat_is_one_trace_on_both_hops(pair):
    caller = Caller()
    body = {**CHAT, "stream": True, "ignore_eos": True}
    status, text = ask(
        pair, "/v1/chat/completions", body,
        **{"traceparent": caller.traceparent, "x-request-id": "by-http"},
    )  # fmt: skip
    assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
    chat = ran("chat", before=("render", "tokenize"))
    http = "frontend SERVER POST /v1/chat/completions"
    spans = check_tree(pair.collector, caller, under(http, chat))
    assert only(spans, "frontend", "chat demo").attributes["tokenwire.request_id"] == "by-http"
    assert only(spans, "frontend", "POST /v1/chat/completions").attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }


def test_requests_by_route_and_status(pair):
    before = Scrape(pair.frontend_process)
    caller = Caller()
    assert ask(pair, "/v1/chat/completions", {**CHAT, "n": 0})[0] == 400
    assert ask(pair, "/v1/nothing", traceparent=caller.traceparent)[0] == 404
    assert ask(pair, "/v1/models")[0] == 200
    name = "http_server_request_duration_seconds_count"
    labels = ("http_route", "http_response_status_code", "error_type")
    assert grown(before, Scrape(pair.frontend_process), name, *labels) == {
        ("/v1/chat/completions", "400", "INVALID_FIELD"): 1,
        ("other", "404", "UNKNOWN_PATH"): 1,
        ("/v1/models", "200", ""): 1,
    }
    check_tree(pair.collector, caller, "frontend SERVER GET other")
