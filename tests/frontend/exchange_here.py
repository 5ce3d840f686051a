"""One Exchange stream without a connection: its receivers, and frames right and wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.protobuf import any_pb2
from google.rpc import status_pb2
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.call_order import Handles
from tokenwire_frontend.core.fast_path import Columns, Inlet, Listener, TokenQuota
from tokenwire_frontend.core.link_state import AwakeClock
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.workers.exchange import Exchange
from tokenwire_frontend.workers.messages import WorkerInfo
from tokenwire_frontend.workers.outgoing import Outgoing
from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry.metrics import Count

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

LENGTH, STOP = pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP


class Receiver:
    """Writes down what it hears; `broken` names a method that raises."""

    def __init__(self, broken: str = "") -> None:
        self.heard: list[tuple[Any, ...]] = []
        self._broken = broken

    @property
    def errors(self) -> list[ServiceError]:
        return [event[1] for event in self.heard if event[0] == "failed"]

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.heard]

    def _hear(self, name: str, *what: Any) -> None:
        assert not {"completed", "failed"} & set(self.names), f"{name} after the end"
        if name == self._broken:
            raise LookupError("a fault of the receiver")
        self.heard.append((name, *what))

    def on_accepted(self) -> None:
        self._hear("accepted")

    def on_prompt_logprobs(self, logprobs: Any) -> None:
        self._hear("prompt_logprobs", list(logprobs))

    def on_tokens(self, sequence: int, token_ids: Any, logprobs: Any, _came_s: float) -> None:
        self._hear("tokens", sequence, list(token_ids), list(logprobs))

    def inlet(self, quota: TokenQuota) -> Inlet | None:
        """Takes tokens that come alone, unless a method is to raise."""
        if self._broken == "inlet":
            raise LookupError("a fault of the receiver")
        if self._broken:
            return None
        decoder = SimpleNamespace(
            log=Columns(), unseen_ids=frozenset(), straight_texts=[], push_one=self._push_one
        )
        inlet = Inlet(quota, decoder, Listener(_nothing), Count(), _nothing, _nothing)
        inlet.open()
        return inlet

    def _push_one(self, token_id: int) -> bool:
        self.on_tokens(0, (token_id,), (), 0.0)
        return False

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        self._hear("ending", sequence, finish, stop_token_id)

    def on_completed(self, report: Any) -> None:
        self._hear("completed", report)

    def on_failed(self, error: ServiceError) -> None:
        self._hear("failed", error)


def _nothing(*_: Any) -> None:
    pass


def exchange(revision: int = 2, last_handle: int = 0) -> Exchange:
    limits = ModelLimits(4096, 4095, 1000, 32, 20, (2,), frozenset(), frozenset())
    info = WorkerInfo("w", "demo", "scripted 0", revision, "", 64, 64, 16, 0, False, limits)
    commands = Outgoing("127.0.0.1:1", revision, REQUEST_BYTES)
    return Exchange("127.0.0.1:1", info, commands, Handles(last_handle), AwakeClock())


def deliver(stream: Exchange, frame: pb.ExchangeResponse) -> None:
    """Delivers a frame, to its end."""
    for _ in stream.deliver(frame):
        pass


def request(**fields: Any) -> pb.Request:
    trace = pb.TraceContext(traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
    return pb.Request(**{"prompt_token_ids": [7, 8], "trace_context": trace, **fields})


def started(stream: Exchange, broken: str = "", **fields: Any) -> tuple[int, Receiver]:
    """Returns a generation that the worker has accepted."""
    receiver = Receiver(broken)
    handle = stream.submit(request(**fields), receiver)
    deliver(stream, pb.ExchangeResponse(accepted=[handle]))
    return handle, receiver


def ending(handle: int, sequence: int = 0, reason: int = LENGTH, **how: Any) -> pb.SequenceEnding:
    return pb.SequenceEnding(
        handle=handle, sequence=sequence, ending=pb.Ending(reason=reason, **how)
    )


def done(handle: int, **counted: Any) -> pb.GenerationEnd:
    return pb.GenerationEnd(handle=handle, completed=pb.Completed(**counted))


def scored(entry: int, *ids: int) -> pb.EntryLogprobs:
    tokens = [pb.TokenLogprob(token_id=each, logprob=-1.0) for each in ids]
    return pb.EntryLogprobs(entry=entry, tokens=tokens)


async def sent(stream: Exchange) -> list[pb.ExchangeRequest]:
    """Returns the messages that wait to be sent."""
    found = []
    commands = stream.commands()
    while stream._outgoing._waiting:
        found.append(pb.ExchangeRequest.FromString(await anext(commands)))
    await commands.aclose()
    return found


BAD_FRAMES: dict[str, dict[str, Any]] = {
    "accepted twice": {"accepted": [1]},
    "a sequence that was not asked for": {"handles": [1], "sequences": [3], "token_ids": [5]},
    "an id outside the vocabulary": {"handles": [1], "token_ids": [4096]},
    "an id outside, in columns": {"handles": [1], "counts": [2], "token_ids": [5, 2**32 - 1]},
    "an entry without tokens": {"handles": [1], "counts": [0]},
    "more counts than handles": {"handles": [1], "counts": [1, 1], "token_ids": [5, 5]},
    "more handles than tokens": {"handles": [1, 1], "token_ids": [5]},
    "more tokens than handles": {"handles": [1], "token_ids": [5, 6]},
    "counts that are not those of the ids": {"handles": [1], "counts": [9], "token_ids": [5]},
    "more sequences than handles": {"handles": [1], "sequences": [0, 1], "token_ids": [5]},
    "the end of a sequence that was not asked for": {"endings": [ending(1, 3)]},
    "two ends of a sequence": {"endings": [ending(1), ending(1)]},
    "tokens after the end": {"endings": [ending(1)], "then": {"handles": [1], "token_ids": [5]}},
    "a stop token outside the vocabulary": {"endings": [ending(1, 0, STOP, stop_token_id=9999)]},
    "complete with an open sequence": {"completions": [done(1)]},
    "a failure without a code": {"failures": [pb.Failure(handle=1)]},
    "a failure with a code of nobody's": {
        "failures": [pb.Failure(handle=1, status=status_pb2.Status(code=99))]
    },
    "a failure with details that can't be parsed": {
        "failures": [
            pb.Failure(
                handle=1,
                status=status_pb2.Status(
                    code=8,
                    details=[
                        any_pb2.Any(
                            type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"
                        )
                    ],
                ),
            )
        ]
    },
}
"""Frames about an accepted generation of handle 1; `then` is a second frame."""
