"""The scenarios through the Python client, as clients/scenarios/README.md says."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tokenwire import Answer, AsyncClient, AsyncGenerationStream, SessionGeneration, TokenwireError
from tokenwire.frontend.v1 import generation_pb2, prompt_pb2

NAMES = {"sequence_count": "n"}
"""Options that are called otherwise than their fields."""


def main() -> None:
    """Runs all scenarios of a file, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", type=Path, required=True)
    parser.add_argument("--target", action="append", required=True, metavar="NAME=HOST:PORT")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    targets = dict(each.split("=", 1) for each in args.target)
    with args.out.open("a", encoding="utf-8") as out:
        for scenario in json.loads(args.scenarios.read_text(encoding="utf-8")):
            generations = asyncio.run(_run(scenario, targets))
            line = {"scenario": scenario["name"], "generations": generations}
            print(json.dumps(line, ensure_ascii=False), file=out, flush=True)


async def _run(scenario: dict[str, Any], targets: dict[str, str]) -> list[dict[str, Any]]:
    options = [_options(each) for each in scenario["requests"]]
    cancel_after = scenario.get("cancel_after_deltas", 0)
    timeout_s = scenario["timeout_ms"] / 1e3 if "timeout_ms" in scenario else None
    addresses = [targets[name] for name in scenario["targets"]]
    async with AsyncClient(addresses, timeout=timeout_s) as client:
        if scenario["call"] == "generate":
            return [await _generate(client, options[0])]
        if scenario["call"] == "stream":
            return [await _follow(client.stream(**options[0]), cancel_after)]
        async with client.session() as session:
            opened = [session.open(**each) for each in options]
            return await asyncio.gather(
                *(_follow(each, cancel_after if not i else 0) for i, each in enumerate(opened))
            )


async def _generate(client: AsyncClient, options: dict[str, Any]) -> dict[str, Any]:
    try:
        return _told(await client.generate(**options), 0)
    except TokenwireError as error:
        return _failed(error, 0)


async def _follow(
    generation: AsyncGenerationStream | SessionGeneration, cancel_after: int
) -> dict[str, Any]:
    """Reads a generation to its end, and cancels it after so many deltas; 0: never."""
    seen: Counter[int] = Counter()
    gaps = deltas = 0
    try:
        async for delta in generation:
            gaps += delta.token_offset != seen[delta.sequence]
            seen[delta.sequence] = delta.token_offset + len(delta.token_ids)
            deltas += 1
            if deltas == cancel_after:
                await generation.cancel()
                return _nothing("CANCELLED", gaps)
    except TokenwireError as error:
        return _failed(error, gaps)
    return _told(generation.result, gaps)


def _told(answer: Answer, gaps: int) -> dict[str, Any]:
    sequences = [
        {
            "text": each.text,
            "reasoning": each.reasoning,
            "tool_calls": [
                {"name": call.name, "arguments": call.arguments} for call in each.tool_calls
            ],
            "finish_reason": f"FINISH_REASON_{each.finish_reason.upper()}",
            "token_count": len(each.token_ids),
        }
        for each in answer.sequences
    ]
    return {
        **_nothing("OK", gaps),
        "sequences": sequences,
        "prompt_tokens": answer.usage.prompt_tokens,
        "output_tokens": answer.usage.completion_tokens,
    }


def _failed(error: TokenwireError, gaps: int) -> dict[str, Any]:
    return {
        **_nothing(error.code.name, gaps),
        "reason": "" if error.reason == error.code.name else error.reason,
        "fields": [each.field for each in error.violations],
    }


def _nothing(status: str, gaps: int) -> dict[str, Any]:
    return {
        "status": status,
        "reason": "",
        "fields": [],
        "sequences": [],
        "prompt_tokens": 0,
        "output_tokens": 0,
        "gaps": gaps,
    }


def _options(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the client's keyword arguments for a GenerateRequest in proto3 JSON."""
    message = json_format.ParseDict(request, generation_pb2.GenerateRequest())
    fields = json_format.MessageToDict(message.generation, preserving_proto_field_name=True)
    prompt = fields.pop("prompt")
    options: dict[str, Any] = {}
    for part in ("sampling", "stop", "output", "guided"):
        options |= fields.pop(part, {})
    if "seed" in options:  # 64 bits, which JSON has as text
        options["seed"] = int(options["seed"])
    if chat := prompt.pop("chat", None):
        options["chat"] = [
            {**each, "role": each["role"].removeprefix("ROLE_").lower()}
            for each in chat.pop("messages")
        ]
        if choice := chat.pop("tool_choice", None):
            mode = prompt_pb2.ToolChoiceMode.Value(choice["mode"])
            options["tool_choice"] = ("auto", "auto", "none", "required")[mode]
        options |= chat
    else:
        options["prompt"] = prompt.pop("text")
    return {NAMES.get(name, name): value for name, value in (options | fields | prompt).items()}


if __name__ == "__main__":
    main()
