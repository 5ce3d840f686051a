"""GetWorkerInfo, GetTokenizer, WatchLoad, health and reflection of a real worker."""

from __future__ import annotations

import hashlib
import json

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tokenwire.worker.v1 import worker_pb2
from tokenwire_service.version import VERSION

from tests.services.calls import duration
from tests.services.processes import MODEL, MODEL_NAME
from tests.worker.calls import LONG, Exchange, request

SERVICES = {
    "tokenwire.worker.v1.AdminService",
    "tokenwire.worker.v1.ExecutionService",
    "tokenwire.worker.v1.WorkerService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


def info(worker) -> worker_pb2.GetWorkerInfoResponse:
    return worker.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=30)


def test_the_worker_describes_itself(worker):
    told = info(worker)
    config = json.loads((MODEL / "config.json").read_text())
    assert told.worker_name
    assert told.contract_revision == 6
    assert (told.model, told.engine, told.version) == (MODEL_NAME, "openvino", VERSION)
    assert told.engine_version.startswith("2026.")
    limits = told.limits
    assert limits.context_tokens == config["max_position_embeddings"]
    assert limits.prompt_tokens == limits.context_tokens - 1
    assert limits.vocabulary_size == config["vocab_size"]
    assert (limits.kv_block_tokens, limits.kv_blocks) == (32, 2048)
    assert limits.running_sequences == 256
    assert limits.sequence_count == 128
    assert limits.waiting_requests == 256
    assert limits.top_logprobs == 0
    assert list(told.eos_token_ids) == [config["eos_token_id"]]
    assert not told.simulated


def test_capabilities_are_what_the_engine_can_do(worker):
    names = {worker_pb2.Capability.Name(each) for each in info(worker).capabilities}
    assert names == {
        "CAPABILITY_LOGPROBS",
        "CAPABILITY_MIN_P",
        "CAPABILITY_GUIDED_JSON_SCHEMA",
        "CAPABILITY_GUIDED_JSON_OBJECT",
        "CAPABILITY_GUIDED_REGEX",
        "CAPABILITY_FREE_PREFIX",
        "CAPABILITY_GUIDED_GRAMMAR",
        "CAPABILITY_GUIDED_CHOICE",
    }


def test_the_tokenizers_files_arrive_whole(worker):
    files: dict[str, bytes] = {}
    for part in worker.service.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=30):
        assert len(part.data) <= 1024 * 1024
        files[part.file_name] = files.get(part.file_name, b"") + part.data
        assert part.file_bytes == (MODEL / part.file_name).stat().st_size
        assert part.sha256 == hashlib.sha256((MODEL / part.file_name).read_bytes()).hexdigest()
    wanted = {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "generation_config.json",
        "config.json",
    }
    assert set(files) == {name for name in wanted if (MODEL / name).is_file()}
    for name, data in files.items():
        assert data == (MODEL / name).read_bytes()
    assert info(worker).tokenizer_fingerprint == hashlib.sha256(files["tokenizer.json"]).hexdigest()


def test_the_load_is_told_at_once_and_as_it_changes(worker):
    watch = worker.watch()
    try:
        first = next(watch)
        assert (first.running_sequences, first.waiting_requests, first.draining) == (0, 0, False)
        assert first.kv_cache_usage == 0
        with Exchange(worker) as exchange:
            for handle in range(3):
                exchange.submit(handle, request(handle, max_tokens=LONG))
            busy = next(load for load in watch if load.running_sequences == 3)
            later = next(load for load in watch if load.kv_cache_usage > 0 and load != busy)
            assert later.steps > first.steps
            assert later.generated_tokens > first.generated_tokens
            assert later.kv_cache_usage < 1
        idle = next(load for load in watch if load.running_sequences == 0)
        assert idle.generated_tokens >= later.generated_tokens
    finally:
        watch.cancel()


def test_the_load_comes_no_faster_than_asked_for(worker):
    asked = worker_pb2.WatchLoadRequest(min_interval=duration(0.5))
    watch = worker.service.WatchLoad(asked, timeout=30)
    messages = steps = 0
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        exchange.read_until(lambda: exchange[1].ids)
        first = next(watch)
        while steps < 20:
            messages, steps = messages + 1, next(watch).steps - first.steps
    watch.cancel()
    # Each step is a change. It takes about a millisecond, a tenth of a second on a busy machine.
    assert steps > 2 * messages


def test_every_service_and_the_whole_are_healthy(worker):
    health = health_pb2_grpc.HealthStub(worker.raw)
    for name in ["", "tokenwire.worker.v1.ExecutionService", "tokenwire.worker.v1.WorkerService"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services_and_describes_them(worker):
    stub = reflection_pb2_grpc.ServerReflectionStub(worker.raw)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tokenwire.worker.v1.ExecutionService"
        ),
    ]
    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=30)
    assert {each.name for each in listed.list_services_response.service} == SERVICES
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    assert "tokenwire/worker/v1/execution.proto" in {file.name for file in files}
