"""A stream: what StreamGenerate sends, and how it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import grpc
from google.protobuf import duration_pb2

from tokenwire.conformance import answer
from tokenwire.conformance.answer import Answer
from tokenwire.conformance.deployment import ANSWER_TOKENS, PROMPT, Deployment
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.frontend.v1 import generation_pb2, model_pb2

_DELAY_S = 10
"""Of max_delay: the most that it takes, so that a short answer is over before."""
_MOST_DELTAS = 3
"""Of a short answer whose deltas are held: the first token, what comes until the end, the end."""
_SHORT_S = 0.3
"""A deadline or budget that passes while a long answer is generated."""
_MESSAGE_BYTES = 1024 * 1024
_LONG_PROMPT_TOKENS = 4000
"""Whose log probabilities have more than 1 MiB, with 20 alternatives each."""


def _plain(holds: Callable[[Answer], None]) -> Callable[[Deployment], None]:
    """Returns a check of what must hold of any stream."""

    def check(deployment: Deployment) -> None:
        holds(deployment.stream())

    return check


def _text_of_ids(deployment: Deployment) -> None:
    found = deployment.stream()
    prompt = deployment.tokenize(PROMPT)
    before = deployment.detokenize(prompt)
    whole = deployment.detokenize([*prompt, *found.ids()])[len(before) :]
    # The end may be within a character, of which each side shows what it has.
    seen, wanted = found.text().rstrip("\ufffd"), whole.rstrip("\ufffd")
    expect(seen == wanted, f"the text is {seen!r}; its ids are {wanted!r}")


def _sequences(deployment: Deployment) -> None:
    count = min(2, deployment.model.sequence_count_limit)
    for asked, wanted in ((count, count), (0, 1)):
        what = deployment.generation(max_tokens=3, sequence_count=asked)
        found = deployment.stream(what)
        numbers = sorted({delta.sequence for delta in found.deltas})
        expect(numbers == list(range(wanted)), f"sequences {numbers} came of {wanted}")
        for number in numbers:
            found.end(number)


def _usage(deployment: Deployment) -> None:
    found = deployment.stream()
    usage, ids = found.completed.usage, found.ids()
    told = found.accepted.prompt_token_count
    expect(usage.prompt_tokens == told, f"{usage.prompt_tokens} prompt tokens; accepted: {told}")
    expect(
        usage.completion_tokens == len(ids),
        f"{usage.completion_tokens} completion tokens; {len(ids)} ids were sent",
    )


def _timings(deployment: Deployment) -> None:
    timings = deployment.stream().completed.timings
    for name in ("time_to_first_token", "total"):
        expect(timings.HasField(name), f"timings.{name} is not set")
    first, total = timings.time_to_first_token, timings.total
    expect(first.ToNanoseconds() <= total.ToNanoseconds(), "the first token came after the end")
    expect(bool(timings.worker), "timings.worker is empty")
    services = {stage.service for stage in timings.stages}
    expect({"frontend", "worker"} <= services, f"stages of {', '.join(services) or 'no service'}")


def _request_id(deployment: Deployment) -> None:
    what = deployment.generation(max_tokens=1)
    found = deployment.stream(what).accepted.request_id
    expect(found == what.request_id, f"{what.request_id} came back as {found!r}")
    what.request_id = ""
    expect(bool(deployment.stream(what).accepted.request_id), "no request id was made")


def _max_tokens(deployment: Deployment) -> None:
    found = deployment.stream()
    expect(len(found.ids()) == ANSWER_TOKENS, f"{len(found.ids())} tokens of {ANSWER_TOKENS}")
    found.expect_reason(generation_pb2.FINISH_REASON_LENGTH)


def _stopped_at_text(deployment: Deployment, *, kept: bool) -> None:
    whole = deployment.stream().text()
    # Whole characters, from the middle on if there are any.
    runs = re.findall("[^\ufffd]{2,}", whole[len(whole) // 2 :]) or re.findall(
        "[^\ufffd]{2,}", whole
    )
    if not runs:
        raise Skipped("the model's answer has no text to stop at")
    stop = runs[0][:3]
    before = whole[: whole.index(stop)]
    fields = {"stop": [stop], "include_stop_in_output": kept}
    found = deployment.stream(deployment.generation(stop=fields))
    text = found.text()
    _same_answer(whole, text)
    wanted = before + stop if kept else before
    expect(text == wanted, f"the text is {text!r}; not {wanted!r}, with the stop {stop!r}")
    found.expect_reason(generation_pb2.FINISH_REASON_STOP)
    expect(found.end().stop == stop, f"end.stop is {found.end().stop!r}; not {stop!r}")


def _same_answer(whole: str, text: str) -> None:
    """Raises Skipped where a greedy answer is another the second time."""
    length = min(len(whole), len(text))
    if whole[:length] != text[:length]:
        raise Skipped("the model gave two greedy answers to one prompt")


def _stop_string(deployment: Deployment) -> None:
    _stopped_at_text(deployment, kept=False)


def _kept_stop_string(deployment: Deployment) -> None:
    _stopped_at_text(deployment, kept=True)


def _stop_token(deployment: Deployment) -> None:
    token = deployment.stream().ids()[2]
    found = deployment.stream(deployment.generation(stop={"stop_token_ids": [token]}))
    ids = found.ids()
    if token not in ids and len(ids) == ANSWER_TOKENS:
        raise Skipped("the model gave two greedy answers to one prompt")
    expect(
        ids.index(token) == len(ids) - 1 if token in ids else False,
        f"stop token {token} is not the last of {ids}",
    )
    found.expect_reason(generation_pb2.FINISH_REASON_STOP)
    told = found.end().stop_token_id
    expect(told == token, f"end.stop_token_id is {told}; not {token}")


def _min_tokens(deployment: Deployment) -> None:
    whole = deployment.stream()
    least = 4
    early = {"stop_token_ids": whole.ids()[:1]}, {"stop": [whole.text()[:1] or " "]}
    for fields in early:
        found = deployment.stream(deployment.generation(stop={"min_tokens": least, **fields}))
        ids = found.ids()
        expect(len(ids) >= least, f"{fields} ended the sequence at token {len(ids)} of {least}")


def _special_stop(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_LOGIT_BIAS)
    for token in deployment.model.eos_token_ids:
        text = deployment.detokenize([token], skip_special_tokens=False)
        if not text or deployment.detokenize([token]):
            continue  # not a special token
        bias = {"temperature": 0.0, "logit_bias": [{"token_id": token, "bias": 100.0}]}
        what = deployment.generation(sampling=bias, stop={"stop": [text]})
        found = deployment.stream(what)
        found.expect_reason(generation_pb2.FINISH_REASON_STOP)
        expect(found.end().stop == text, f"end.stop is {found.end().stop!r}; not {text!r}")
        expect(not found.text(), f"the text is {found.text()!r}; not empty")
        return
    raise Skipped(f"{deployment.model.name} has no special token that ends a sequence")


def _max_delay(deployment: Deployment) -> None:
    delay = duration_pb2.Duration(seconds=_DELAY_S)
    start_s = time.monotonic()
    found = deployment.stream(stream={"max_delay": delay})
    took_s = time.monotonic() - start_s
    total_s = found.completed.timings.total.ToNanoseconds() / 1e9
    if total_s > _DELAY_S / 2:
        raise Skipped(f"{ANSWER_TOKENS} tokens took {total_s:.1f} s: as long as a delta is held")
    expect(took_s < _DELAY_S, f"the end was held: it came after {took_s:.1f} s")
    count = len(found.deltas)
    expect(count <= _MOST_DELTAS, f"{ANSWER_TOKENS} tokens came in {count} deltas")


def _cancel(deployment: Deployment) -> None:
    what = deployment.endless()
    call = deployment.start(what)
    for event in call:
        if event.HasField("delta"):
            break
    call.cancel()
    deployment.expect_stopped(what.request_id)


def _deadline(deployment: Deployment) -> None:
    what = deployment.endless()
    refusal = refused(lambda: _without_end(deployment.start(what, timeout_s=_SHORT_S)))
    expect(
        refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED,
        f"the call ended with {refusal.code.name}: {refusal.message}",
    )
    deployment.expect_stopped(what.request_id)


def _without_end(
    call: Iterator[generation_pb2.StreamGenerateResponse],
) -> Iterator[generation_pb2.StreamGenerateResponse]:
    """Yields the events; raises Skipped where the answer is over before it is ended."""
    for event in call:
        if event.HasField("completed"):
            raise Skipped("the model had filled its context before")
        yield event


def _time_budget(deployment: Deployment) -> None:
    budget = duration_pb2.Duration(nanos=round(_SHORT_S * 1e9))
    found = deployment.stream(deployment.endless(time_budget=budget))
    used = found.completed.usage
    if used.prompt_tokens + used.completion_tokens >= deployment.model.context_tokens:
        raise Skipped("the model had filled its context before")
    found.expect_reason(generation_pb2.FINISH_REASON_TIME_BUDGET)


def _message_size(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_PROMPT_LOGPROBS)
    count = min(_LONG_PROMPT_TOKENS, deployment.model.prompt_tokens_limit - 1)
    ids = deployment.tokenize(PROMPT)
    prompt = (ids * (count // len(ids) + 1))[:count]
    what = deployment.generation(prompt, 1, output={"prompt_logprobs": 20})
    found = deployment.stream(what)
    largest = max(event.ByteSize() for event in found.events)
    expect(largest < _MESSAGE_BYTES, f"a message has {largest} bytes")
    if sum(event.ByteSize() for event in found.events) < _MESSAGE_BYTES:
        raise Skipped(f"no prompt of {deployment.model.name} has so much to tell")


def _generate(deployment: Deployment) -> None:
    count = min(2, deployment.model.sequence_count_limit)
    what = deployment.generation(sequence_count=count)
    found = deployment.generate(what)
    expect(len(found.sequences) == count, f"{len(found.sequences)} sequences of {count}")
    expect(found.request_id == what.request_id, f"the request id is {found.request_id!r}")
    prompt = deployment.tokenize(PROMPT)
    before = len(deployment.detokenize(prompt))
    for each in found.sequences:
        expect(each.HasField("end"), "a sequence has no end")
        whole = deployment.detokenize([*prompt, *each.token_ids])[before:]
        seen, wanted = each.text.rstrip("\ufffd"), whole.rstrip("\ufffd")
        expect(seen == wanted, f"the text is {seen!r}; its ids are {wanted!r}")
    tokens = sum(len(each.token_ids) for each in found.sequences)
    told = found.usage.completion_tokens
    expect(told == tokens, f"{told} completion tokens; {tokens} ids")
    expect(found.timings.HasField("total"), "timings.total is not set")


RULES = (
    Rule("S1", "accepted, deltas, completed", _plain(answer.order_holds)),
    Rule("S2", "token_offset counts ids", _plain(answer.token_offsets_hold)),
    Rule("S3", "text_offset counts bytes", _plain(answer.text_offsets_hold)),
    Rule("S4", "the last delta has the end", _plain(answer.ends_hold)),
    Rule("S5", "no empty delta", _plain(answer.deltas_hold_something)),
    Rule("S6", "the text is that of the ids", _text_of_ids),
    Rule("S7", "as many sequences as asked for", _sequences),
    Rule("S8", "usage counts what was sent", _usage),
    Rule("S9", "timings of both hops", _timings),
    Rule("S10", "the request id", _request_id),
    Rule("S11", "max_tokens", _max_tokens),
    Rule("S12", "a stop string", _stop_string),
    Rule("S13", "include_stop_in_output", _kept_stop_string),
    Rule("S14", "a stop token", _stop_token),
    Rule("S15", "min_tokens", _min_tokens),
    Rule("S16", "a stop string of special tokens", _special_stop),
    Rule("S17", "max_delay merges deltas", _max_delay),
    unseen(
        "S18",
        "a slow reader gets larger deltas",
        "how much the connection holds before it stops a sender is not known",
    ),
    Rule("S19", "a cancel stops the engine", _cancel),
    Rule("S20", "a deadline stops the engine", _deadline),
    Rule("S21", "time_budget", _time_budget),
    Rule("S22", "messages below 1 MiB", _message_size),
    Rule("S23", "Generate answers whole", _generate),
    unseen("S24", "a budget that is too short", "the deployment would have to be under load"),
)
