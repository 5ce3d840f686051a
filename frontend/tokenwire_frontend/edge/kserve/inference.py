"""One inference request: what it asks for, and its errors under its own names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext
from tokenwire_service.errors import FieldViolation, InvalidRequestError, invalid
from tokenwire_service.wording import cut

from tokenwire_frontend.core.events import Delivery
from tokenwire_frontend.core.request import GenerationRequest
from tokenwire_frontend.core.validation import REQUEST_ID
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.kserve import inputs, outputs, sampling
from tokenwire_frontend.edge.kserve.inputs import Values
from tokenwire_frontend.edge.kserve.outputs import MODEL_VERSION, Responses
from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import ModelInferRequest
from tokenwire_frontend.edge.kserve.tensors import BOOL, Tensor
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.reader import Reader

_PATH = "inference"
"""Before the fields of a generation that is refused, to tell them from the request's own."""


class Inference:
    """A request, of which the generation is read once there is a place for it.

    Args:
        message: the request.
        on_stream: it came by ModelStreamInfer.
    """

    def __init__(self, message: ModelInferRequest, *, on_stream: bool) -> None:
        self.model = message.model_name
        self.id = message.id
        self._message: ModelInferRequest | None = message
        self._on_stream = on_stream
        self._values = Values()
        self._outputs: Sequence[str] = ()
        self._tensors: dict[str, Tensor] = {}
        self._fault: InvalidRequestError | None = None
        try:
            self._tensors = inputs.by_key(message)
        except InvalidRequestError as error:
            self._fault = error
        self.streams = self._flag("stream")
        """Its output comes as it is generated."""
        self.stops = on_stream and self._flag("stop")
        """It ends the request of its id, and is none itself."""

    def _flag(self, key: str) -> bool:
        """Returns whether an input is true; what can't be read is refused later."""
        try:
            return key in self._tensors and bool(self._tensors[key].one(BOOL))
        except InvalidRequestError:
            return False

    def incoming(
        self,
        reader: Reader,
        *,
        lane: str,
        deadline_s: float | None,
        context: Context | None = None,
        links: Sequence[SpanContext] = (),
    ) -> Incoming:
        """Returns the generation, to be read; all but the reader is as Incoming has it.

        Args:
            reader: who takes it; its delivery is set when the generation is read.
            lane: see Incoming.
            deadline_s: as above.
            context: as above.
            links: as above.

        Raises:
            ServiceError: the caller's credential is not good any more.
        """

        def read() -> GenerationRequest:
            request = self._read()
            reader.delivery = Delivery(
                content=outputs.content(self._outputs), only_end=not self.streams
            )
            return request

        return Incoming(
            reads=read,
            path=_PATH,
            caller=callers.current(),
            lane=lane,
            model=self.model,
            size_bytes=0 if self._message is None else self._message.ByteSize(),
            request_id=self._request_id,
            deadline_s=deadline_s,
            context=context,
            links=links,
            answer_bytes_limit=None if self.streams else ANSWER_BYTES_LIMIT,
        )

    @property
    def _request_id(self) -> str:
        """The caller's id, if it can be a generation's."""
        return self.id if REQUEST_ID.fullmatch(self.id) else ""

    def _read(self) -> GenerationRequest:
        """Returns the generation that the request asks for, once; raises InvalidRequestError.

        What it was read from is let go, which may be large.
        """
        message, self._message = self._message, None
        tensors, self._tensors = self._tensors, {}
        assert message is not None  # noqa: S101 - read once; for the type checker
        if self._fault is not None:
            raise self._fault
        check_version(message.model_version, "model_version")
        values = self._values = inputs.gathered(tensors)
        if not self._on_stream:
            for key in ("stream", "stop"):
                if values.get(key):
                    raise invalid(values.name(key), "requires ModelStreamInfer")
        text = values.get("sampling_parameters")
        if text is not None:
            sampling.add_json(values, text, values.name("sampling_parameters"))
        sampling.add_parameters(values, message)
        self._outputs = outputs.wanted(message, values)
        request = inputs.generation_request(
            values,
            model=self.model,
            request_id=self._request_id,
            streams=self.streams,
            logprobs=not outputs.LOGPROBS.isdisjoint(self._outputs),
        )
        values.forget()
        return request

    def responses(self, generation: Generation) -> Responses:
        """Returns what makes the responses of the generation that was read."""
        return Responses(
            self.model or generation.record.model,
            self.id,
            self._outputs,
            len(generation.logs),
            generation.prompt_tokens,
        )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Names the fields of what the block raises as the request has them."""
        try:
            yield
        except InvalidRequestError as error:
            raise self._named(error) from error

    def _named(self, error: InvalidRequestError) -> InvalidRequestError:
        violations = []
        for each in error.violations:
            path, field = each.field.removeprefix(f"{_PATH}."), each.field
            if path != field:
                field = self._values.name_of(path)
            violations.append(FieldViolation(field, each.description))
        named = InvalidRequestError(violations, reason=error.reason, metadata=error.metadata)
        named.logged, named.quota = error.logged, error.quota
        return named


def check_version(version: str, field: str) -> None:
    """Refuses a version that no model has.

    Raises:
        InvalidRequestError: names the field.
    """
    if version not in ("", MODEL_VERSION):
        raise invalid(field, f"is {cut(version, 24)!r}; a model has version {MODEL_VERSION} alone")
