"""A frontend that speaks OpenAI's interface, a worker that does what a test says, and the client.

All are in the test's own event loop; the client is OpenAI's, over the frontend's port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import openai
from tokenizers import Tokenizer
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.processes import WAIT_S

TEMPLATE = """
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor -%}
{#- calls: <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call> -#}
{% if tools %}{{ tools | tojson }}{% endif -%}
<|assistant|>{% if enable_thinking is defined %}<think>\n{% else %}{{ '</think>'[9:] }}{% endif %}
"""
"""Of a model that may reason, and calls tools."""

CAPABILITIES = (
    worker_pb2.CAPABILITY_LOGPROBS,
    worker_pb2.CAPABILITY_TOP_LOGPROBS,
    worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
    worker_pb2.CAPABILITY_LOGIT_BIAS,
    worker_pb2.CAPABILITY_MIN_P,
    worker_pb2.CAPABILITY_CACHE_SALT,
    worker_pb2.CAPABILITY_GUIDED_JSON_SCHEMA,
    worker_pb2.CAPABILITY_GUIDED_JSON_OBJECT,
    worker_pb2.CAPABILITY_GUIDED_REGEX,
    worker_pb2.CAPABILITY_GUIDED_CHOICE,
    worker_pb2.CAPABILITY_FREE_PREFIX,
)


class Deployment:
    """What the tests of a file share."""

    def __init__(self, worker: ScriptedWorker, frontend: FrontendHere) -> None:
        self.worker = worker
        self.frontend = frontend
        self.asked: list[pb.Request] = []
        """What the worker was asked since `says`."""
        assert frontend.openai is not None
        self.address = frontend.openai.address
        self.url = f"http://{self.address}"
        self._clients: list[openai.AsyncOpenAI] = []
        self.client = self.of()
        self.http = httpx.AsyncClient(base_url=self.url, timeout=WAIT_S, trust_env=False)
        self._tokenizer = Tokenizer.from_str(worker.files["tokenizer.json"].decode())

    def of(self, **settings: Any) -> openai.AsyncOpenAI:
        """Returns OpenAI's client, which tries once."""
        settings = {"api_key": "none", "max_retries": 0, "timeout": WAIT_S, **settings}
        self._clients.append(openai.AsyncOpenAI(base_url=f"{self.url}/v1", **settings))
        return self._clients[-1]

    def says(self, text: str, *, each: int = 3, reason: int = pb.FINISH_REASON_STOP) -> None:
        """Sets what the worker answers, in frames of so many tokens."""
        ids = self.ids(text)

        def script(stream: Stream, submit: pb.Submit) -> None:
            self.asked.append(submit.request)
            answer(stream, submit, ids, each, reason)

        self.asked.clear()
        self.worker.script = script

    def ids(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def waits(self) -> None:
        """Has the worker accept what it is sent, and no more."""

        def script(stream: Stream, submit: pb.Submit) -> None:
            self.asked.append(submit.request)
            stream.accept(submit.handle)

        self.asked.clear()
        self.worker.script = script

    async def submitted(self) -> pb.Submit:
        """Returns the Submit of what the worker was asked last."""
        while True:
            submit = await self.worker.streams[-1].submit()
            if submit.request.request_id == self.asked[-1].request_id:
                return submit

    def prompt(self) -> str:
        """Returns the text of the prompt that came last."""
        text: str = self._tokenizer.decode(
            list(self.asked[-1].prompt_token_ids), skip_special_tokens=False
        )
        return text

    async def close(self) -> None:
        for each in self._clients:
            await each.close()
        await self.http.aclose()


def answer(stream: Stream, submit: pb.Submit, ids: list[int], each: int, reason: int) -> None:
    """Does what an engine does that generates these ids for each sequence."""
    request, handle = submit.request, submit.handle
    stream.accept(handle)
    if request.HasField("prompt_logprobs"):
        scores = [scored(each, request.prompt_logprobs) for each in request.prompt_token_ids]
        scores[0].logprob = 0
        stream.send(prompt_logprobs=[pb.PromptLogprobs(handle=handle, tokens=scores)])
    most = request.stopping.max_tokens or len(ids)
    count = max(request.sequence_count, 1)
    for sequence in range(count):
        for start in range(0, min(len(ids), most), each):
            part = ids[start : min(start + each, most)]
            logprobs = []
            if request.logprobs:
                told = [scored(token, request.top_logprobs) for token in part]
                logprobs = [pb.EntryLogprobs(entry=0, tokens=told)]
            stream.tokens(handle, *part, sequence=sequence, logprobs=logprobs)
        cut = len(ids) > most
        stream.end(handle, sequence, pb.FINISH_REASON_LENGTH if cut else reason)
    stream.complete(handle, completion_tokens=count * min(len(ids), most), cached_prompt_tokens=1)


def scored(token: int, alternatives: int) -> pb.TokenLogprob:
    """Returns a token's log probability, with itself as its likeliest alternative."""
    others = [
        pb.Alternative(token_id=token if rank == 0 else 2000 + rank, logprob=-0.5 - rank)
        for rank in range(alternatives)
    ]
    return pb.TokenLogprob(token_id=token, logprob=-0.5, alternatives=others)


@asynccontextmanager
async def deployed(**settings: Any) -> AsyncIterator[Deployment]:
    """Runs a frontend and its worker, and closes the client."""
    async with ScriptedWorker() as worker:
        worker.files["chat_template.jinja"] = TEMPLATE.encode()
        worker.info.capabilities.extend(CAPABILITIES)
        async with frontend_of(worker, openai_listen="127.0.0.1:0", **settings) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            deployment = Deployment(worker, frontend)
            try:
                yield deployment
            finally:
                await deployment.close()


async def until_idle(deployment: Deployment) -> None:
    """Waits until the frontend holds no generation."""
    await until(lambda: not deployment.frontend.generator.admission.held)
