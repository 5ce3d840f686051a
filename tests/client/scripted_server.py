"""A frontend that does what a test tells it, on a real socket.

It is a threaded server, so that both clients can be tested against it: the blocking one blocks the
test's thread, and grpc.aio has one poller for all event loops of a process.
"""

import queue
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from tokenwire.frontend.v1 import (
    activity_pb2,
    activity_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

from tests.client.activity_messages import DONE, FIRST, SECOND

Event = generation_pb2.StreamGenerateResponse
TRACE_ID = "ab" * 16
ACTIVITY = "(the activity)"
WAIT_S = 60
"""Bound on every wait of a test; it is only reached by a failure."""


class Hold:
    """A step at which a generation stays until it is cancelled."""

    def __init__(self):
        self.reached = threading.Event()
        self.cancelled = threading.Event()


class Disconnect:
    """A step at which the stream ends without an error, too early."""


class Break:
    """A step at which the stream ends as gRPC ends it where the connection breaks.

    No details say that a service meant it.
    """

    def __init__(self, code=grpc.StatusCode.UNAVAILABLE):
        self.code = code


def accepted(request_id="r-1", prompt_tokens=3):
    return Event(
        accepted=generation_pb2.Accepted(
            request_id=request_id, prompt_token_count=prompt_tokens, trace_id=TRACE_ID
        )
    )


def prompt_logprobs(offset, *tokens):
    told = generation_pb2.PromptLogprobs(token_offset=offset, tokens=tokens)
    return Event(prompt_logprobs=told)


def delta(text="", ids=(), offset=0, sequence=0, end=None, **rest):
    return Event(
        delta=generation_pb2.Delta(
            sequence=sequence,
            token_offset=offset,
            token_ids=ids,
            text=text,
            end=end,
            **rest,
        )
    )


def end(reason="STOP", **matched):
    value = generation_pb2.FinishReason.Value(f"FINISH_REASON_{reason}")
    return generation_pb2.SequenceEnd(reason=value, **matched)


def ms(value):
    return duration_pb2.Duration(nanos=value * 1_000_000)


USAGE = generation_pb2.Usage(prompt_tokens=3, completion_tokens=2, cached_prompt_tokens=1)
TIMINGS = generation_pb2.Timings(
    time_to_first_token=ms(12),
    time_per_output_token=ms(4),
    total=ms(20),
    worker="w-1",
    stages=[
        generation_pb2.Stage(service="frontend", name="tokenize", start=ms(0), duration=ms(2)),
        generation_pb2.Stage(service="worker", name="prefill", start=ms(3), duration=ms(9)),
        generation_pb2.Stage(service="worker", name="decode", start=ms(12), duration=ms(8)),
    ],
)
COMPLETED = Event(completed=generation_pb2.Completed(usage=USAGE, timings=TIMINGS))
HELLO = [accepted(), delta("Hello", [7]), delta(" world", [8, 9], 1, end=end()), COMPLETED]


def call_delta(index=0, arguments="", **first):
    return generation_pb2.ToolCallDelta(index=index, arguments=arguments, **first)


PARSED = [
    accepted(),
    delta(ids=[1], reasoning="let me "),
    delta(ids=[2], offset=1, reasoning="see", reasoning_offset=7),
    delta("It is ", [3], 2),
    delta("sunny.", [4], 3, text_offset=6),
    delta(ids=[5], offset=4, tool_calls=[call_delta(id="c-0", name="add", arguments='{"b": 1e2')]),
    delta(
        ids=[6],
        offset=5,
        tool_calls=[call_delta(0, ', "a": 1}'), call_delta(1, "{}", id="c-1", name="now")],
        end=end("TOOL_CALLS"),
    ),
    COMPLETED,
]
"""An answer with reasoning, text and two calls."""


def status(code, message, *details):
    made = status_pb2.Status(code=code.value[0], message=message)
    for each in details:
        made.details.add().Pack(each)
    return made


def reason(name, **metadata):
    return error_details_pb2.ErrorInfo(reason=name, domain="tokenwire", metadata=metadata)


def retry_after(seconds):
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


OVERLOADED = status(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "64 generations are held already",
    reason("TOO_MANY_GENERATIONS"),
    retry_after(1.5),
)


@dataclass
class Call:
    """A call as it arrived."""

    method: str
    request: object
    metadata: dict
    time_remaining: float | None


@dataclass
class Script:
    """What the server does, by the text of the prompt; the last steps of a prompt stay.

    The activity is watched as if it were a generation of the prompt ACTIVITY.
    """

    steps: dict = field(default_factory=lambda: defaultdict(list))
    failures: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    sessions_ended: threading.Event = field(default_factory=threading.Event)

    def play(self, prompt, *steps):
        """Adds the steps of one more generation from this prompt."""
        self.steps[prompt].append(list(steps))

    def fail_next(self, *statuses):
        """Lets so many calls of generations fail."""
        self.failures.extend(statuses)

    def fail(self, context):
        """Fails the call if it is to."""
        if self.failures:
            abort(context, self.failures.pop(0))

    def steps_of(self, prompt, default):
        plays = self.steps[prompt] or [default]
        return plays.pop(0) if len(plays) > 1 else plays[0]

    def note(self, method, request, context):
        metadata = dict(context.invocation_metadata())
        self.calls.append(Call(method, request, metadata, context.time_remaining()))


def abort(context, failure):
    context.set_trailing_metadata((("grpc-status-details-bin", failure.SerializeToString()),))
    codes = {code.value[0]: code for code in grpc.StatusCode}
    context.abort(codes[failure.code], failure.message)


def perform(steps, context):
    for hold in (step for step in steps if isinstance(step, Hold)):
        context.add_callback(hold.cancelled.set)
    for step in steps:
        if isinstance(step, Hold):
            step.reached.set()
            step.cancelled.wait(WAIT_S)
        elif isinstance(step, Disconnect):
            return
        elif isinstance(step, Break):
            context.abort(step.code, "broken")
        elif isinstance(step, status_pb2.Status):
            abort(context, step)
        else:
            yield step


class Generations(generation_pb2_grpc.GenerationServiceServicer):
    def __init__(self, script):
        self._script = script

    def StreamGenerate(self, request, context):
        self._script.note("StreamGenerate", request, context)
        self._script.fail(context)
        yield from perform(self._script.steps_of(request.generation.prompt.text, HELLO), context)

    def Attach(self, request, context):
        """Plays the steps of the prompt that the token is."""
        self._script.note("Attach", request, context)
        yield from perform(self._script.steps_of(request.resume_token, HELLO), context)

    def CancelGeneration(self, request, context):
        self._script.note("CancelGeneration", request, context)
        self._script.fail(context)
        return generation_pb2.CancelGenerationResponse(cancelled=1 if request.request_id else 0)

    def Session(self, requests, context):
        self._script.note("Session", None, context)
        context.add_callback(self._script.sessions_ended.set)
        session = _Session(self._script)
        context.add_callback(session.end)
        threading.Thread(target=session.read, args=(requests,), daemon=True).start()
        while (events := session.next_events()) is not None:
            for failure in (each for each in events if isinstance(each, status_pb2.Status)):
                abort(context, failure)
            yield generation_pb2.SessionResponse(events=events)


class _Session:
    """The server's end of a session: every generation plays its steps up to a Hold."""

    def __init__(self, script):
        self._script = script
        self._events = queue.Queue()
        self._held = {}
        self._sent = defaultdict(int)

    def next_events(self):
        """Returns everything that is there, as a frontend puts it into one message."""
        events = [self._events.get(timeout=WAIT_S)]
        while not self._events.empty():
            events.append(self._events.get())
        return None if None in events else events

    def read(self, requests):
        try:
            for request in requests:
                self._script.calls.append(Call("Session", request, {}, None))
                if request.HasField("open"):
                    self._open(request.open.id, request.open.generation.prompt.text)
                for attach in request.attaches:
                    self._open(attach.id, attach.generation.resume_token)
                if request.cancel.id in self._held:
                    self._cancel(request.cancel.id)
        except grpc.RpcError:
            pass
        finally:
            self.end()

    def end(self):
        self._events.put(None)

    def _open(self, number, prompt):
        for step in self._script.steps_of(prompt, HELLO):
            if isinstance(step, Hold):
                self._held[number] = step
                step.reached.set()
                return
            if isinstance(step, Disconnect):
                self._events.put(status(grpc.StatusCode.UNAVAILABLE, "going away"))
            elif isinstance(step, status_pb2.Status):
                self._events.put(generation_pb2.SessionEvent(id=number, error=step))
            elif isinstance(step, generation_pb2.Draining):
                self._events.put(generation_pb2.SessionEvent(draining=step))
            else:
                self._put(number, step)

    def _cancel(self, number):
        self._held.pop(number).cancelled.set()
        self._put(number, delta(offset=self._sent[number], end=end("CANCELLED")))
        self._put(number, COMPLETED)

    def _put(self, number, step):
        if step.HasField("delta"):
            self._sent[number] = step.delta.token_offset + len(step.delta.token_ids)
        event = generation_pb2.SessionEvent(id=number)
        kind = step.WhichOneof("event")
        getattr(event, kind).CopyFrom(getattr(step, kind))
        self._events.put(event)


class Tokenization(tokenization_pb2_grpc.TokenizationServiceServicer):
    def __init__(self, script):
        self._script = script

    def Tokenize(self, request, context):
        self._script.note("Tokenize", request, context)
        words = request.text.split()
        ends = list(accumulate(len(word) + 1 for word in words)) if request.with_offsets else []
        return tokenization_pb2.TokenizeResponse(
            token_ids=range(len(words)),
            offset_starts=[0, *ends[:-1]] if ends else [],
            offset_ends=[end - 1 for end in ends],
        )

    def Detokenize(self, request, context):
        self._script.note("Detokenize", request, context)
        return tokenization_pb2.DetokenizeResponse(text=f"text of {list(request.token_ids)}")

    def RenderChat(self, request, context):
        self._script.note("RenderChat", request, context)
        return tokenization_pb2.RenderChatResponse(text="<chat>", token_ids=[1, 2])

    def StreamTokenize(self, request_iterator, context):
        raise NotImplementedError

    def StreamDetokenize(self, request_iterator, context):
        raise NotImplementedError


MODEL = model_pb2.Model(
    name="demo",
    context_tokens=4096,
    prompt_tokens_limit=4000,
    sequence_count_limit=8,
    vocabulary_size=4000,
    eos_token_ids=[2],
    tokenizer_fingerprint="f" * 64,
    has_chat_template=True,
    capabilities=[model_pb2.CAPABILITY_TOP_LOGPROBS, 99],
    lora_adapters=["pirate"],
    ready_worker_count=1,
)
WORKER = model_pb2.Worker(
    address="127.0.0.1:50061",
    name="w-1",
    state=model_pb2.WORKER_STATE_DRAINING,
    state_reason="stopping",
    model="demo",
    engine="openvino 2026.4",
    running=2,
    waiting=1,
    in_flight=3,
    kv_cache_usage=0.25,
)


class Models(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, script):
        self._script = script

    def ListModels(self, request, context):
        self._script.note("ListModels", request, context)
        return model_pb2.ListModelsResponse(models=self._script.models)

    def GetModel(self, request, context):
        self._script.note("GetModel", request, context)
        if request.name not in ("", "demo"):
            abort(
                context,
                status(
                    grpc.StatusCode.NOT_FOUND,
                    f"model {request.name!r} is not served here",
                    reason("UNKNOWN_MODEL", model=request.name),
                ),
            )
        return model_pb2.GetModelResponse(model=MODEL)

    def ListWorkers(self, request, context):
        self._script.note("ListWorkers", request, context)
        return model_pb2.ListWorkersResponse(workers=[WORKER])


class Activities(activity_pb2_grpc.ActivityServiceServicer):
    def __init__(self, script):
        self._script = script

    def WatchActivity(self, request, context):
        self._script.note("WatchActivity", request, context)
        yield from perform(self._script.steps_of(ACTIVITY, [FIRST, SECOND, Hold()]), context)

    def GetRecord(self, request, context):
        self._script.note("GetRecord", request, context)
        if request.request_id != DONE.request_id:
            text = f"no record of request {request.request_id!r}"
            abort(context, status(grpc.StatusCode.NOT_FOUND, text, reason("UNKNOWN_REQUEST")))
        return activity_pb2.GetRecordResponse(record=DONE)


class ScriptedServer(Script):
    """The server; `address` says where."""

    def __init__(self, credentials=None, port=0):
        super().__init__()
        self.models = [MODEL]
        self._threads = ThreadPoolExecutor(16)
        self._server = grpc.server(self._threads)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(Generations(self), self._server)
        tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(
            Tokenization(self), self._server
        )
        model_pb2_grpc.add_ModelServiceServicer_to_server(Models(self), self._server)
        activity_pb2_grpc.add_ActivityServiceServicer_to_server(Activities(self), self._server)
        if credentials is None:
            port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait(WAIT_S)
        self._threads.shutdown()

    @property
    def last(self):
        """The last call's request."""
        return self.calls[-1].request
