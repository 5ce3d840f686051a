"""What a scripted frontend tells of itself: two snapshots, 2 s apart, and the records in them."""

from google.protobuf import duration_pb2, timestamp_pb2
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2


def ms(value):
    return duration_pb2.Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)


def quantiles(count, **values):
    return activity_pb2.Quantiles(count=count, **{name: ms(each) for name, each in values.items()})


def stage(service, name, start, took):
    return generation_pb2.Stage(service=service, name=name, start=ms(start), duration=ms(took))


WORKERS = [
    model_pb2.Worker(
        address="127.0.0.1:50061",
        name="w-1",
        state=model_pb2.WORKER_STATE_READY,
        model="demo",
        engine="openvino 2026.4.1.0-3408-ab01d1771e4",
        running=2,
        waiting=1,
        in_flight=3,
        kv_cache_usage=0.25,
    ),
    model_pb2.Worker(
        address="127.0.0.1:50062",
        name="w-2",
        state=model_pb2.WORKER_STATE_CONNECTING,
        state_reason="connection refused",
    ),
]
DONE = activity_pb2.Record(
    request_id="ea0d8bda55f8184c",
    trace_id="cd" * 16,
    received_at=timestamp_pb2.Timestamp(seconds=1_800_000_000, nanos=250_000_000),
    model="demo",
    outcome=activity_pb2.OUTCOME_COMPLETED,
    reason="stop",
    route_reason="prefix",
    usage=generation_pb2.Usage(prompt_tokens=870, completion_tokens=193, cached_prompt_tokens=832),
    timings=generation_pb2.Timings(
        time_to_first_token=ms(43),
        time_per_output_token=ms(5),
        total=ms(1100),
        worker="w-1",
        stages=[
            stage("frontend", "tokenize", 1, 2),
            stage("worker", "prefill", 5, 38),
            stage("worker", "decode", 43, 1057),
        ],
    ),
)
REFUSED = activity_pb2.Record(
    request_id="job-7",
    trace_id="ef" * 16,
    received_at=timestamp_pb2.Timestamp(seconds=1_799_999_990),
    model="demo",
    outcome=activity_pb2.OUTCOME_REFUSED,
    reason="QUEUE_FULL",
)


def snapshot(uptime_s, completed, prompt_tokens, completion_tokens, **fields):
    count = activity_pb2.OutcomeCount
    return activity_pb2.WatchActivityResponse(
        workers=WORKERS,
        active_generations=3,
        generations_limit=64,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        outcomes=[
            count(outcome=activity_pb2.OUTCOME_COMPLETED, count=completed),
            count(outcome=activity_pb2.OUTCOME_REFUSED, count=1),
        ],
        window=ms(60_000),
        time_to_first_token=quantiles(12, p50=43, p90=120, p99=260),
        time_per_output_token=quantiles(11, p50=5, p90=6, p99=9),
        total=quantiles(0),
        records=[DONE, REFUSED],
        uptime=ms(round(uptime_s * 1000)),
        **fields,
    )


FIRST = snapshot(3723, 100, 50_000, 20_000)
SECOND = snapshot(3725, 103, 52_000, 20_301)
