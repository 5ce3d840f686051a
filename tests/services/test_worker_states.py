"""What is told of a worker that serves nothing here, or less than it could."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import model_pb2
from tokenwire_service.wording import counted

from tests.services.calls import Frontend, endless, generation, read_to_first_token, refused
from tests.services.processes import MODEL, SERVING, wait_for_health


def test_the_load_of_a_worker_that_is_gone_reads_0(processes):
    worker = processes.worker()
    started = processes.frontend(workers=[worker])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        calls = [client.start(endless()) for _ in range(2)]
        for call in calls:
            read_to_first_token(call)
        while client.workers()[0].running != 2:
            next(calls[0])
        seen = started.event_count
        worker.kill()
        started.wait_for("worker", state="connecting", after=seen)
        (gone,) = client.workers()
        assert (gone.running, gone.waiting, gone.in_flight, gone.kv_cache_usage) == (0, 0, 0, 0)


def test_a_frontend_in_the_place_of_a_worker_is_told_from_one(processes):
    worker = processes.worker()
    first = processes.frontend(workers=[worker])
    second = processes.frontend(workers=[first])
    second.wait_for("worker", state="refused")
    with Frontend(second.address) as client:
        (listed,) = client.workers()
    assert listed.state == model_pb2.WORKER_STATE_REFUSED
    assert "no worker, such as another frontend" in listed.state_reason


def test_a_folder_without_what_guides_need_is_named_at_the_start(processes, tmp_path):
    for file in MODEL.iterdir():
        if not file.name.startswith("openvino_tokenizer"):
            (tmp_path / file.name).symlink_to(file.resolve())
    worker = processes.worker(model=tmp_path)
    assert "has no openvino_tokenizer.xml" in worker.wait_for("no_guided_decoding")["reason"]
    started = processes.frontend(workers=[worker])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        refusal = refused(lambda: client.stream(generation(guided={"regex": "a"})))
    assert refusal.descriptions == ["is not supported by every worker of this model"]


@pytest.mark.parametrize(("count", "says"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_a_count_of_one_has_no_plural(count, says):
    assert counted(count, "token") == says
