"""What is refused, how, and what OpenAI's client makes of it."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tokenwire_frontend.core.caller import Role
from tokenwire_frontend.edge.openai import body

from tests.frontend.credentials import KeyFile
from tests.frontend.frontend_here import until
from tests.openai.deployment import deployed, until_idle
from tests.table import table

ASKED = [{"role": "user", "content": "2+2?"}]
CHAT = {"model": "demo", "messages": ASKED}
PROMPT = {"model": "demo", "prompt": "Hello"}

CHAT_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"frobnicate": 1}, "frobnicate"),
    "nested": ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour"),
    "no messages": ({"messages": None}, "messages"),
    "role": ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type",
    ),
    "type": ({"temperature": "hot"}, "temperature"),
    "range": ({"temperature": -1}, "temperature"),
    "beyond a double": ({"temperature": 10**400}, "temperature"),
    "whole": ({"n": 1.5}, "n"),
    "too many": ({"n": 33}, "n"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens"),
    "its other name": ({"max_completion_tokens": 9999}, "max_completion_tokens"),
    "stop": ({"stop": ["a", ""]}, "stop[1]"),
    "top_logprobs": ({"top_logprobs": 2}, "top_logprobs"),
    "tools": ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    "parameters": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
        "tools[0].function.parameters",
    ),
    "no such tool": (
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
        "tool_choice.function.name",
    ),
    "a tool that is not among them": (
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "g"}}],
                },
            },
        },
        "tool_choice.allowed_tools.tools[0].function.name",
    ),
    "a tool of those that may be called": (
        {
            "tools": [
                {"type": "function", "function": {"name": "f"}},
                {"type": "function", "function": {"name": "a" * 2000}},
            ],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "a" * 2000}}],
                },
            },
        },
        "tools[1].function.name",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "arguments": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
    ),
    "store": ({"store": True}, "store"),
    "modalities": ({"modalities": ["audio"]}, "modalities"),
    "format": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "guide": ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
              "response_format.json_schema.schema"),
    "two guides": (
        {"guided_regex": "a", "response_format": {"type": "json_object"}},
        "guided_regex",
    ),
    "no ability": ({"guided_grammar": "root ::= 'a'"}, "guided_grammar"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "bias": ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    "bias of no token": ({"logit_bias": {"7": 1, "4096": 1}}, "logit_bias.4096"),
    "a large bias": ({"logit_bias": {"7": 101}}, "logit_bias.7"),
    "adapter": ({"lora_adapter": "x"}, "lora_adapter"),
    "priority": ({"priority": 101}, "priority"),
    "template": ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    "stream_options": ({"stream_options": {"include_usage": True}}, "stream_options"),
}  # fmt: skip

COMPLETION_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "suffix": ({"suffix": "a"}, "suffix"),
    "nothing to tell": ({"max_tokens": 0}, "max_tokens"),
    "best_of": ({"best_of": 2}, "best_of"),
    "no prompt": ({"prompt": None}, "prompt"),
    "empty": ({"prompt": ""}, "prompt"),
    "one of several": ({"prompt": ["a", ""]}, "prompt[1]"),
    "an id": ({"prompt": [1, 4096]}, "prompt[1]"),
    "an id of several": ({"prompt": [[1], [1, 4096]]}, "prompt[1][1]"),
    "mixed": ({"prompt": ["a", 1]}, "prompt[1]"),
    "logprobs": ({"logprobs": 21}, "logprobs"),
    "too long": ({"prompt": "a b " * 5000}, "prompt"),
}


async def test_a_field_at_fault_is_named(deployment):
    deployment.says("Four.")
    with table() as row:
        for path, whole, faults in (
            ("/v1/chat/completions", CHAT, CHAT_FAULTS),
            ("/v1/completions", PROMPT, COMPLETION_FAULTS),
        ):
            for name, (changed, param) in faults.items():
                for stream in (False, True):
                    told = {**whole, **changed, **({"stream": True} if stream else {})}
                    if stream and name == "stream_options":
                        continue
                    with row(f"{name}, stream {stream}"):
                        got = await deployment.http.post(path, content=json.dumps(told))
                        error = got.json()["error"]
                        assert (got.status_code, error["type"]) == (400, "invalid_request_error")
                        assert error["param"] == param, error
                        assert param in error["message"]
    # Of several prompts, those that are good have gone to workers.
    assert {len(asked.prompt_token_ids) for asked in deployment.asked} <= {1, 2}


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no object": (b"[]", 400),
    "an empty one": (b"{}", 400),
    "not UTF-8": (b'{"model": "\xff"}', 400),
    "nested deeply": (b'{"model":' + b"[" * 100_000, 400),
    "a key twice": (b'{"model": "a", "model": "b"}', 400),
    "NaN": (b'{"temperature": NaN}', 400),
    "half a surrogate": (b'{"model": "\\ud800"}', 400),
    "digits": (b'{"seed": ' + b"9" * 5000 + b"}", 400),
    "many values": (b'{"prompt": [' + b"1," * body.VALUES_LIMIT + b"1]}", 400),
    "too large": (b'{"prompt": "' + b"a" * 4 * 2**20 + b'"}', 413),
}


async def test_bodies_that_are_no_requests(deployment):
    with table() as row:
        for name, (content, status) in BODIES.items():
            with row(name):
                got = await deployment.http.post("/v1/completions", content=content)
                assert got.status_code == status, got.text
                assert got.json()["error"]["message"]


async def test_commas_of_a_text_are_no_values():
    text = json.dumps({"prompt": ', "[{\\' * body.VALUES_LIMIT}).encode()
    assert body._values(text) < 10


async def test_what_is_not_served(deployment):
    http = deployment.http
    health = await http.get("/health")
    assert (health.status_code, health.headers["server"]) == (200, "tokenwire")
    assert (await http.head("/health")).status_code == 200
    assert (await http.head("/v1/models")).status_code == 200
    for method, path, allowed in (
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ):
        refused = await http.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
        assert refused.json()["error"]["code"] == "method_not_allowed"
    assert (await http.get("/v1/models/")).status_code == 404
    got = await http.post("/v1/embeddings", json={"input": "a"})
    assert (got.status_code, got.json()["error"]["code"]) == (404, "unknown_path")
    zipped = await http.post("/v1/completions", content=b"", headers={"content-encoding": "gzip"})
    assert zipped.status_code == 415


async def test_errors_by_class(deployment):
    client = deployment.client
    with pytest.raises(openai.NotFoundError) as lost:
        await client.chat.completions.create(model="gpt", messages=ASKED)
    assert lost.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        await client.completions.create(model="demo", prompt="a b " * 5000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    assert long.value.request_id


async def test_an_error_after_the_beginning_is_an_event(deployment):
    deployment.waits()
    stream = await deployment.client.chat.completions.create(**CHAT, stream=True)
    worker = deployment.worker.streams[-1]
    submit = await deployment.submitted()
    worker.tokens(submit.handle, 300)
    worker.fail(submit.handle)
    with pytest.raises(openai.APIError) as failed:
        async for _ in stream:
            pass
    assert failed.value.code == "queue_full"


async def test_credentials(tmp_path):
    keys = KeyFile(tmp_path / "keys.yaml")
    good, looks = keys.add("acme", Role.CALL), keys.add("acme", Role.LOOK)
    async with deployed(api_keys_file=keys.path) as deployment:
        deployment.says("Four.")
        got = await deployment.of(api_key=good).chat.completions.create(**CHAT)
        assert got.choices[0].message.content == "Four."
        bad = deployment.of(api_key="tw_bad")
        with pytest.raises(openai.AuthenticationError) as refused:
            await bad.chat.completions.create(**CHAT)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.PermissionDeniedError):
            await deployment.of(api_key=looks).chat.completions.create(**CHAT)
        assert [each.id async for each in deployment.of(api_key=looks).models.list()] == ["demo"]
        assert (await deployment.http.get("/v1/models")).status_code == 401
        assert (await deployment.http.get("/health")).status_code == 200
        other = {"authorization": f"Bearer {good}", "x-tokenwire-tenant": "rival"}
        assert (await deployment.http.get("/v1/models", headers=other)).status_code == 403


async def test_what_may_be_tried_again_is(tmp_path):
    """A tenant that has all that it may is told when to come again, and OpenAI's client does."""
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants:\n  acme:\n    concurrent_generations: 1\n")
    statuses: list[int] = []
    async with deployed(tenants_file=tenants) as deployment:
        deployment.waits()
        headers = {"x-tokenwire-tenant": "acme"}
        first = await deployment.client.chat.completions.create(
            **CHAT, stream=True, extra_headers=headers
        )

        async def leave_the_first(response: httpx.Response) -> None:
            statuses.append(response.status_code)
            if response.status_code == 429:
                assert (response.headers["retry-after"]) == "1"
                await first.close()
                await until_idle(deployment)
                deployment.says("Four.")

        hooked = openai.DefaultAsyncHttpxClient(event_hooks={"response": [leave_the_first]})
        client = deployment.of(max_retries=1, http_client=hooked)
        got = await client.chat.completions.create(**CHAT, extra_headers=headers)
        assert got.choices[0].message.content == "Four."
        assert statuses == [429, 200]
        # And where no worker is left.
        await deployment.worker.stop()
        await until(lambda: not deployment.frontend.server.serving)
        assert (await deployment.http.get("/health")).status_code == 503
        with pytest.raises(openai.InternalServerError) as gone:
            await deployment.client.chat.completions.create(**CHAT)
        assert gone.value.status_code == 503
        assert gone.value.response.headers["retry-after-ms"] == "2000"
