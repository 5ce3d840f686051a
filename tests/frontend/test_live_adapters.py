"""Workers' LoRA adapters come and go: the model's list follows, and requests go where theirs is."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2
from tokenwire.frontend.v1 import model_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation

READY = LinkState.READY
LAW = generation(max_tokens=1, lora_adapter="law")


def tell(worker: ScriptedWorker, *adapters: str) -> None:
    """Has a worker tell that it has these adapters from now on."""
    worker.info.ClearField("lora_adapters")
    worker.info.lora_adapters.extend(adapters)
    if not worker.info.capabilities:
        worker.info.capabilities.append(worker_pb2.CAPABILITY_LORA)
    worker.info.description_number += 1
    worker.report(description_number=worker.info.description_number)


def answer(stream: Stream, submit: pb.Submit) -> None:
    stream.generate(submit.handle, 300)


def has_unloaded_it(stream: Stream, submit: pb.Submit) -> None:
    """Refuses as a worker does that has just unloaded a request's adapter."""
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="not here")
    field = error_details_pb2.BadRequest.FieldViolation(
        field="request.lora_adapter", description="'law' is not here"
    )
    info = error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="tokenwire")
    status.details.add().Pack(info)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[field]))
    stream.send(failures=[pb.Failure(handle=submit.handle, status=status)])


async def adapters(frontend: FrontendHere) -> list[str]:
    listed = await frontend.models.ListModels(model_pb2.ListModelsRequest())
    return list(listed.models[0].lora_adapters)


async def test_the_models_adapters_follow_its_workers_and_no_connection_is_made_anew(worker, other):
    async with frontend_of(worker, other) as frontend:
        links = [await frontend.wait_for(each, READY) for each in (worker, other)]
        law = await refused(frontend.generate(LAW))
        assert (law.code, law.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ["generation.lora_adapter"],
        )
        tell(worker, "law")
        tell(other, "poems")
        await until(lambda: all(link.info.limits.lora_adapters for link in links))
        assert await adapters(frontend) == ["law", "poems"]
        worker.script = answer  # the other one would never answer
        for _ in range(4):
            await frontend.generate(LAW)
        tell(worker)
        await until(lambda: not links[0].info.limits.lora_adapters)
        assert await adapters(frontend) == ["poems"]
        assert (await refused(frontend.generate(LAW))).fields == ["generation.lora_adapter"]
        assert len(worker.streams) == len(other.streams) == 1


async def test_a_request_whose_adapter_was_just_unloaded_goes_to_another_worker(worker, other):
    async with frontend_of(worker, other) as frontend:
        links = [await frontend.wait_for(each, READY) for each in (worker, other)]
        tell(worker, "law")
        tell(other, "law")
        await until(lambda: all(link.info.limits.lora_adapters for link in links))
        worker.script, other.script = has_unloaded_it, answer
        for _ in range(3):
            await frontend.generate(LAW)
        assert len(worker.streams[0].messages) >= 1, "it was asked first once"
        assert len(other.streams[0].messages) == 3
        other.script = has_unloaded_it
        last = await refused(frontend.generate(LAW))
        assert (last.code, last.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ["generation.lora_adapter"],
        )


async def test_a_worker_that_turns_into_one_of_another_model_is_met_anew(worker):
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, READY)
        worker.info.model = "another"
        tell(worker)
        await frontend.wait_for(worker, LinkState.CONNECTING, "serves another model")
        await frontend.wait_for(worker, READY)
        assert list(frontend.pool.models) == ["another"]
