"""/v1/responses: answers that are not stored, of text and calls of functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.channels import CallDelta
from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import Delta, End, Finish
from tokenwire_frontend.core.prompt_log import PromptPart
from tokenwire_frontend.edge.openai import answers, errors, whole
from tokenwire_frontend.edge.openai.response_request import ResponseForm

PATH = "/v1/responses"

PREFIX = "resp_"
"""Of an answer's id; the request's own id follows. Those of its items have its number beside."""

_CUT = {
    Finish.LENGTH: "max_output_tokens",
    Finish.TIME_BUDGET: "time_budget",
    Finish.CANCELLED: "cancelled",
}
"""Why an answer is incomplete."""


class Item:
    """One item of an answer's output: a message, reasoning, or a call."""

    def __init__(self, kind: str, name: str, call: CallDelta | None = None) -> None:
        self.kind = kind
        self.name = name
        """Its id."""
        self._call = call
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        """Adds what is new of its text or arguments."""
        self._parts.append(text)

    @property
    def text(self) -> str:
        """Its text or arguments so far."""
        return "".join(self._parts)

    def part(self, text: str) -> dict[str, Any]:
        """Returns its content's only part with this text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def told(self, status: str) -> dict[str, Any]:
        """Returns the item as it is now."""
        base = {"id": self.name, "type": self.kind}
        if self._call is not None:
            told = {"call_id": self._call.id, "name": self._call.name, "arguments": self.text}
            return {**base, "status": status, **told}
        content = [self.part(self.text)] if self._parts else []
        if self.kind == "reasoning":
            return {**base, "summary": [], "content": content}
        return {**base, "status": status, "role": "assistant", "content": content}


class Output:
    """The items of an answer, as they come.

    Args:
        request_id: the request's id.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.items: list[Item] = []
        self._calls: dict[int, Item] = {}

    def item(self, kind: str, prefix: str) -> tuple[Item, bool]:
        """Returns the item of this kind that is being told, and whether it begins here."""
        if self.items and self.items[-1].kind == kind:
            return self.items[-1], False
        return self._begin(kind, prefix, None), True

    def call(self, delta: CallDelta) -> tuple[Item, bool]:
        """Returns the item of a call, and whether it begins here."""
        found = self._calls.get(delta.index)
        if found is not None:
            return found, False
        made = self._calls[delta.index] = self._begin("function_call", "fc_", delta)
        return made, True

    def _begin(self, kind: str, prefix: str, call: CallDelta | None) -> Item:
        made = Item(kind, f"{prefix}{self._request_id}_{len(self.items)}", call)
        self.items.append(made)
        return made


class Answer:
    """What an answer is, whole or at the beginning and the end of a stream.

    Args:
        form: the request.
        request_id: its id.
        model: name of its model.
    """

    def __init__(self, form: ResponseForm, request_id: str, model: str) -> None:
        self._told: dict[str, Any] = {
            "id": PREFIX + request_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "store": False,
            "error": None,
            **form.told,
        }
        self.output = Output(request_id)

    def begun(self) -> dict[str, Any]:
        """Returns the answer before anything has come."""
        nothing: dict[str, Any] = {"incomplete_details": None, "output": [], "usage": None}
        return {**self._told, "status": "in_progress", **nothing}

    def ended(self, end: End | None, completion: Completion) -> dict[str, Any]:
        """Returns the whole answer."""
        reason = _CUT.get(end.finish) if end is not None else None
        status = "completed" if reason is None else "incomplete"
        items = self.output.items
        return {
            **self._told,
            "status": status,
            "incomplete_details": None if reason is None else {"reason": reason},
            # Only the last can be cut short.
            "output": [each.told("completed") for each in items[:-1]]
            + [each.told(status) for each in items[-1:]],
            "usage": _usage(completion),
        }


def answer(form: ResponseForm, request_id: str, model: str, told: whole.Answer) -> bytes:
    """Returns the whole answer of a request."""
    made, [sequence] = Answer(form, request_id, model), told.sequences
    if sequence.reasoning:
        made.output.item("reasoning", "rs_")[0].add(sequence.reasoning)
    if sequence.text or not sequence.calls:
        made.output.item("message", "msg_")[0].add(sequence.text)
    for call in sequence.calls:
        made.output.call(call)[0].add(call.arguments)
    return answers.as_json(made.ended(sequence.end, told.completion))


class ResponseChunks:
    """The events of a streamed answer; see `stream.Chunks`."""

    def __init__(self, made: Answer) -> None:
        self._answer = made
        self._number = 0
        self._end: End | None = None
        self._open: Item | None = None

    def opening(self) -> bytes:
        """Returns that the answer has begun."""
        begun = self._answer.begun()
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def text(self, choice: int, text: str) -> bytes:
        """Returns the events of new text."""
        return self._of_text("message", "msg_", "response.output_text.delta", text, logprobs=[])

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Returns the events of what is new."""
        parts = []
        if delta.reasoning:
            kind = "response.reasoning_text.delta"
            parts.append(self._of_text("reasoning", "rs_", kind, delta.reasoning))
        if delta.text:
            parts.append(self.text(choice, delta.text))
        parts += [self._of_call(call) for call in delta.calls]
        if delta.end is not None:
            self._end = delta.end
        return b"".join(parts)

    def prompt(self, choice: int, part: PromptPart) -> bytes:
        """Returns nothing: an answer is not told of its prompt."""
        return b""

    def closing(self, completions: Sequence[Completion]) -> bytes:
        """Returns the ends of the last item and of the answer."""
        begun = b"" if self._answer.output.items else self.text(0, "")
        told = self._answer.ended(self._end, completions[0])
        closed = self._close(told["status"])
        return begun + closed + self._event(f"response.{told['status']}", response=told)

    def failure(self, error: ServiceError) -> bytes:
        """Returns the event that ends a stream with an error."""
        told = errors.body(error)["error"]
        return self._event("error", code=told["code"], message=told["message"], param=told["param"])

    def _of_text(self, kind: str, prefix: str, event: str, text: str, **more: Any) -> bytes:
        item, begins = self._answer.output.item(kind, prefix)
        opened = self._open_item(item) if begins else b""
        item.add(text)
        return opened + self._event(event, **self._at(item), content_index=0, delta=text, **more)

    def _of_call(self, call: CallDelta) -> bytes:
        item, begins = self._answer.output.call(call)
        opened = self._open_item(item) if begins else b""
        if not call.arguments:
            return opened
        item.add(call.arguments)
        event = "response.function_call_arguments.delta"
        return opened + self._event(event, **self._at(item), delta=call.arguments)

    def _open_item(self, item: Item) -> bytes:
        closed = self._close("completed")
        self._open = item
        place = self._place(item)
        added = self._event(
            "response.output_item.added", output_index=place, item=item.told("in_progress")
        )
        if item.kind == "function_call":
            return closed + added
        part = {**self._at(item), "content_index": 0, "part": item.part("")}
        return closed + added + self._event("response.content_part.added", **part)

    def _close(self, status: str) -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        place, text, told = self._at(item), item.text, item.told(status)
        if item.kind == "function_call":
            event = "response.function_call_arguments.done"
            events = [self._event(event, **place, name=told["name"], arguments=text)]
        else:
            place["content_index"] = 0
            part = item.part(text)
            more = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            events = [
                self._event(f"response.{part['type']}.done", **place, text=text, **more),
                self._event("response.content_part.done", **place, part=part),
            ]
        ended = {"output_index": place["output_index"], "item": told}
        return b"".join((*events, self._event("response.output_item.done", **ended)))

    def _place(self, item: Item) -> int:
        return self._answer.output.items.index(item)

    def _at(self, item: Item) -> dict[str, Any]:
        return {"item_id": item.name, "output_index": self._place(item)}

    def _event(self, kind: str, **told: Any) -> bytes:
        body = answers.as_json({"type": kind, "sequence_number": self._number, **told})
        self._number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), body)


def _usage(completion: Completion) -> dict[str, Any]:
    """Returns the tokens counted; those of reasoning are not told apart."""
    return {
        "input_tokens": completion.prompt_tokens,
        "input_tokens_details": {"cached_tokens": completion.cached_prompt_tokens or 0},
        "output_tokens": completion.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
    }
