"""A real model through both services against transformers on the same GPU: part `real`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
from tokenwire import Client
from tokenwire.types import Answer

from benchmarks.gpu.context import Run
from benchmarks.gpu.processes import ROOT
from benchmarks.gpu.reference import CHATS, MAX_TOKENS, PASSAGE, messages

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def real(run: Run) -> None:
    """Greedy ids, log probabilities, guides, tools, stops, seeds and prefix reuse."""
    out = run.logs / "reference.json"
    device = "cpu" if run.chosen.dry else "cuda"
    with (run.logs / "reference.log").open("w") as log:
        reference = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.gpu.reference"),
                *(str(run.models["real"]), str(out), device),
            ],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    found: dict[str, Any] = {}
    run.results["real"] = found
    try:
        pair = run.engines.pair("real-float32")
    finally:
        code = reference.wait(300)
    if code:
        raise RuntimeError(f"the reference failed with {code}; see reference.log")
    expected = json.loads(out.read_text())
    with Client(pair.frontend.address, timeout=120) as client:
        found.update(_chats(client, expected["chats"]))
        for name, check in CHECKS.items():
            try:
                found[name] = check(client, expected)
            except Exception as error:  # noqa: BLE001 - the other checks still say something
                found[name] = f"failed: {type(error).__name__}: {error}"[:300]
    run.say(f"real model: {found}")


def _chats(client: Client, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Compares the prompts, the greedy ids and their log probabilities of every chat."""
    prompts = equal = 0
    largest = 0.0
    differing = []
    for chat, meant in zip(CHATS, expected, strict=True):
        rendered = client.render_chat(messages(chat))
        prompts += rendered.token_ids == meant["prompt"]
        answer = _greedy(client, chat, logprobs=True)
        if answer.token_ids != meant["ids"]:
            differing.append({"chat": chat, "found": answer.token_ids, "meant": meant["ids"]})
            continue
        equal += 1
        given = [each.logprob for each in answer.sequences[0].logprobs]
        largest = max(largest, *map(_apart, given, meant["logprobs"]))
    return {
        "of": len(expected),
        "equal_prompts": prompts,
        "equal_answers": equal,
        "differing": differing,
        "logprobs_apart": largest,
    }


def _prompt_logprobs(client: Client, expected: dict[str, Any]) -> dict[str, Any]:
    meant = expected["passage"]
    answer = client.generate(meant["ids"], max_tokens=1, temperature=0.0, prompt_logprobs=0)
    given = [each.logprob for each in answer.prompt_logprobs[1:]]
    return {"tokens": len(given), "apart": max(map(_apart, given, meant["logprobs"]))}


def _guide(client: Client, _: dict[str, Any]) -> dict[str, Any]:
    valid = 0
    texts = []
    for chat in CHATS:
        answer = client.generate(
            chat=messages(f"{chat} Answer as JSON."),
            json_schema=SCHEMA,
            max_tokens=200,
            temperature=0.0,
        )
        texts.append(answer.text)
        jsonschema.validate(json.loads(answer.text), SCHEMA)
        valid += 1
    return {"valid": valid, "of": len(CHATS), "example": texts[0]}


def _tools(client: Client, _: dict[str, Any]) -> dict[str, Any]:
    answer = client.generate(
        chat=messages("What is the weather in Paris?"),
        tools=[TOOL],
        tool_choice="required",
        max_tokens=100,
        temperature=0.0,
    )
    (call, *_more) = answer.tool_calls
    jsonschema.validate(json.loads(str(call.arguments)), TOOL["function"]["parameters"])
    return {"name": call.name, "arguments": call.arguments, "reason": str(answer.finish_reason)}


def _stop(client: Client, _: dict[str, Any]) -> dict[str, Any]:
    whole = _greedy(client, CHATS[4]).text
    middle = whole[len(whole) // 2 : len(whole) // 2 + 6]
    cut = _greedy(client, CHATS[4], stop=[middle])
    right = cut.text == whole[: whole.index(middle)] and cut.sequences[0].stop_match == middle
    return {"stop": middle, "right": right}


def _seeds(client: Client, _: dict[str, Any]) -> dict[str, Any]:
    def sampled(seed: int) -> str:
        return client.generate(
            chat=messages(CHATS[2]), temperature=1.0, seed=seed, max_tokens=MAX_TOKENS
        ).text

    return {
        "same_seed_equal": sampled(1) == sampled(1),
        "other_seed_differs": sampled(1) != sampled(2),
    }


def _reuse(client: Client, _: dict[str, Any]) -> dict[str, Any]:
    prompt = f"{PASSAGE} " * 40
    ids = client.tokenize(prompt).token_ids[:1201]
    first = client.generate(ids, max_tokens=16, temperature=0.0)
    again = client.generate(ids, max_tokens=16, temperature=0.0)
    return {
        "prompt_tokens": len(ids),
        "cached": again.usage.cached_prompt_tokens,
        "equal": first.token_ids == again.token_ids,
    }


CHECKS: dict[str, Callable[[Client, dict[str, Any]], dict[str, Any]]] = {
    "prompt_logprobs": _prompt_logprobs,
    "guide": _guide,
    "tools": _tools,
    "stop": _stop,
    "seeds": _seeds,
    "reuse": _reuse,
}


def _greedy(client: Client, chat: str, **options: Any) -> Answer:
    return client.generate(chat=messages(chat), temperature=0.0, max_tokens=MAX_TOKENS, **options)


def _apart(given: float, meant: float) -> float:
    return abs(given - meant)
