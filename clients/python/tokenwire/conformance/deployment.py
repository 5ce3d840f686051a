"""The deployment that is checked: its stubs, its model, and the requests that checks make."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from tokenwire.conformance import refusal
from tokenwire.conformance.answer import Answer
from tokenwire.conformance.rule import Broken, Skipped
from tokenwire.conformance.session_call import SessionCall
from tokenwire.errors import from_rpc_error
from tokenwire.frontend.v1 import (
    activity_pb2,
    activity_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    prompt_pb2,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

PROMPT = "The capital of France is"
ANSWER_TOKENS = 8
"""Of most answers: a fraction of a second at any model's speed, and enough for several deltas."""

_POLL_S = 0.02
"""Between two looks at what has become of a generation."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Deployment:
    """A frontend, as a check sees it.

    Every call ends at the check's own deadline: see `limited`.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        model: str = "",
        timeout_s: float = 30.0,
        bare_channel: grpc.Channel | None = None,
    ) -> None:
        """Finds the model; an empty name means the first that is listed.

        Args:
            channel: to the frontend, with whatever credential it asks for.
            model: the model's name.
            timeout_s: of the calls that find it.
            bare_channel: likewise, without an API key; None: none was given.

        Raises:
            TokenwireError: the frontend can't be reached, or does not serve the model.
        """
        self.channel = channel
        self.bare_channel = bare_channel
        self.generations = generation_pb2_grpc.GenerationServiceStub(channel)
        self.tokenization = tokenization_pb2_grpc.TokenizationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.activity = activity_pb2_grpc.ActivityServiceStub(channel)
        self._until_s = time.monotonic() + timeout_s
        try:
            self.model = self._find(model)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "") from None

    def _find(self, name: str) -> model_pb2.Model:
        if not name:
            served = self.listed()
            name = served[0].name if served else ""
        request = model_pb2.GetModelRequest(name=name)
        return self.models.GetModel(request, timeout=self.left_s).model

    def listed(self) -> Sequence[model_pb2.Model]:
        """Returns the models that are listed."""
        return self.models.ListModels(model_pb2.ListModelsRequest(), timeout=self.left_s).models

    @contextmanager
    def limited(self, limit_s: float) -> Iterator[None]:
        """Bounds the time of all calls in the block together."""
        self._until_s = time.monotonic() + limit_s
        yield

    @property
    def left_s(self) -> float:
        """Time that the check has left; the timeout of its next call."""
        return max(self._until_s - time.monotonic(), 0.001)

    # What the model can do.

    def can(self, capability: model_pb2.Capability.ValueType) -> bool:
        """Tells whether requests may ask for this."""
        return capability in self.model.capabilities

    def need(self, capability: model_pb2.Capability.ValueType) -> None:
        """Raises Skipped where requests may not ask for this."""
        if not self.can(capability):
            raise Skipped(f"{self.model.name} has no {model_pb2.Capability.Name(capability)}")

    def need_chat_template(self) -> None:
        """Raises Skipped where the model has none."""
        if not self.model.has_chat_template:
            raise Skipped(f"{self.model.name} has no chat template")

    # Requests.

    def generation(
        self, prompt: Any = PROMPT, max_tokens: int | None = ANSWER_TOKENS, **fields: Any
    ) -> generation_pb2.Generation:
        """Returns a greedy generation that runs to `max_tokens`, or to the end of the context.

        Args:
            prompt: a text, a list of ids, or a Prompt.
            max_tokens: None where it is left unset.
            fields: of Generation; `stop` is merged with what is set here.
        """
        if isinstance(prompt, str):
            prompt = prompt_pb2.Prompt(text=prompt)
        elif isinstance(prompt, list):
            prompt = prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=prompt))
        stop = {"ignore_eos": True, **fields.pop("stop", {})}
        if max_tokens is not None:
            stop["max_tokens"] = max_tokens
        return generation_pb2.Generation(
            **{
                "model": self.model.name,
                "prompt": prompt,
                "stop": stop,
                "sampling": {"temperature": 0.0},
                "request_id": f"conformance-{uuid.uuid4().hex}",
                **fields,
            }
        )

    def endless(self, **fields: Any) -> generation_pb2.Generation:
        """Returns a generation that runs to the end of the context, unless it is ended before."""
        return self.generation(max_tokens=None, **fields)

    def start(
        self,
        what: generation_pb2.Generation,
        *,
        stream: Any = None,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> Any:
        """Starts StreamGenerate, and returns the call."""
        request = generation_pb2.StreamGenerateRequest(generation=what, stream=stream)
        return self.generations.StreamGenerate(
            request, timeout=timeout_s or self.left_s, metadata=metadata
        )

    def stream(self, what: generation_pb2.Generation | None = None, **options: Any) -> Answer:
        """Returns everything that StreamGenerate sends."""
        return Answer(list(self.start(what or self.generation(), **options)))

    def generate(
        self, what: generation_pb2.Generation, metadata: Metadata = ()
    ) -> generation_pb2.GenerateResponse:
        """Returns what Generate answers."""
        request = generation_pb2.GenerateRequest(generation=what)
        return self.generations.Generate(request, timeout=self.left_s, metadata=metadata)

    def session(self, metadata: Metadata = ()) -> SessionCall:
        """Starts a Session."""
        return SessionCall(self.generations, self.left_s, metadata)

    def tokenize(self, text: str, **fields: Any) -> list[int]:
        """Returns a text's ids."""
        request = tokenization_pb2.TokenizeRequest(model=self.model.name, text=text, **fields)
        return list(self.tokenization.Tokenize(request, timeout=self.left_s).token_ids)

    def detokenize(self, ids: Sequence[int], **fields: Any) -> str:
        """Returns the text of ids."""
        request = tokenization_pb2.DetokenizeRequest(model=self.model.name, token_ids=ids, **fields)
        return self.tokenization.Detokenize(request, timeout=self.left_s).text

    def render(self, chat: prompt_pb2.Chat) -> tokenization_pb2.RenderChatResponse:
        """Returns a chat as the model would see it."""
        request = tokenization_pb2.RenderChatRequest(model=self.model.name, chat=chat)
        return self.tokenization.RenderChat(request, timeout=self.left_s)

    # What becomes of a generation.

    def record(self, request_id: str) -> activity_pb2.Record:
        """Waits until the frontend has the record of a generation, and returns it.

        Raises:
            Broken: it has none by the check's deadline.
        """
        while self._until_s - time.monotonic() > _POLL_S:
            found = self.record_now(request_id)
            if found is not None:
                return found
            time.sleep(_POLL_S)
        raise Broken(f"{request_id} has no record: it has not ended, or is not remembered")

    def record_now(self, request_id: str) -> activity_pb2.Record | None:
        """Returns the record of a generation, if the frontend has it."""
        request = activity_pb2.GetRecordRequest(request_id=request_id)
        try:
            return self.activity.GetRecord(request, timeout=self.left_s).record
        except grpc.RpcError as error:
            if refusal.of_error(error).code is not grpc.StatusCode.NOT_FOUND:
                raise
        return None

    def expect_stopped(self, request_id: str) -> None:
        """Raises Broken unless the frontend has ended a generation as cancelled."""
        record = self.record(request_id)
        outcome = activity_pb2.Outcome.Name
        if record.outcome == activity_pb2.OUTCOME_COMPLETED:
            full = self.model.context_tokens - record.usage.prompt_tokens
            if record.usage.completion_tokens >= full:
                raise Skipped("the model had filled its context before")
        if record.outcome != activity_pb2.OUTCOME_CANCELLED:
            seen = outcome(record.outcome)
            raise Broken(f"its record says {seen} after {record.usage.completion_tokens} tokens")
