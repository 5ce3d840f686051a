"""A worker process with the real vLLM, on a GPU host: its end, its patience, adapters that come."""

import importlib.util
import json
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from tokenwire.cli.main import main
from tokenwire.worker.v1 import execution_pb2, execution_pb2_grpc, worker_pb2

from tests.engines.conftest import EVERY, MODELS, SHARED_GPU
from tests.engines.vllm.test_gpu import prompt
from tests.services.calls import Frontend, Worker, generation, refused
from tests.services.processes import SERVING, Process, wait_for_health

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"
)

WAIT_S = 60.0


class WorkerProcess(Process):
    """A worker with vLLM as a process."""

    def __init__(self, *arguments, settings=EVERY["vllm"]):
        arguments = ["--model", str(MODELS["vllm"]), "--engine", "vllm", *settings, *arguments]
        serving = ["--listen", "127.0.0.1:0", "--log-format", "json"]
        super().__init__("tokenwire_worker", [*arguments, *serving])

    @property
    def engine_pid(self):
        """The process that vLLM titles `VLLM::EngineCore`, once the worker serves."""
        assert self.address
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # processes come and go
                parent = f"PPid:\t{self.process.pid}\n" in (folder / "status").read_text()
                if parent and "EngineCore" in (folder / "cmdline").read_text():
                    return int(folder.name)
        raise AssertionError("the worker has no engine process")


# One token of a prompt a step: more steps without an output than the bound of a stall has room for.
SMALLEST = ("--vllm.max-num-batched-tokens", "1", "--vllm.max-num-seqs", "1")


@pytest.fixture(scope="module")
def workers(adapter):
    """A worker for each test, by name; all start side by side, which takes half a minute."""
    lora = ("--vllm.enable-lora", "--vllm.dtype", "bfloat16", "--lora-folder", str(adapter.parent))
    made = {
        "dies": WorkerProcess(),
        "is killed": WorkerProcess(),
        "is interrupted": WorkerProcess(),
        "stands still": WorkerProcess("--stall-s", "5"),
        "takes small steps": WorkerProcess(
            "--stall-s", "2", settings=[*SMALLEST, "--vllm.enforce-eager", *SHARED_GPU]
        ),
        "has room for adapters": WorkerProcess(*lora),
    }
    yield made
    for each in made.values():
        each.kill()


def test_a_worker_whose_engine_process_died_ends_with_70(workers):
    worker = workers["dies"]
    os.kill(worker.engine_pid, signal.SIGKILL)
    assert worker.wait() == 70
    assert worker.wait_for("engine_died")


def test_an_engine_process_ends_with_a_worker_that_is_killed(workers):
    end = os.pidfd_open(workers["is killed"].engine_pid)
    try:
        workers["is killed"].process.kill()
        assert select.select([end], [], [], WAIT_S)[0], "it holds the GPU's memory"
    finally:
        os.close(end)


def test_ctrl_c_lets_what_runs_finish(workers):
    """A terminal sends it to the worker and to the engine's process alike."""
    worker = workers["is interrupted"]
    with grpc.insecure_channel(worker.address) as channel:
        stub = execution_pb2_grpc.ExecutionServiceStub(channel)
        request = execution_pb2.Request(
            prompt_token_ids=prompt(9),
            stopping=execution_pb2.Stopping(max_tokens=1500, ignore_eos=True),
        )
        stream = stub.Execute(execution_pb2.ExecuteRequest(request=request), timeout=WAIT_S)
        counted = 0
        for response in stream:
            if response.WhichOneof("event") == "tokens" and not counted:
                os.kill(worker.engine_pid, signal.SIGINT)
                os.kill(worker.process.pid, signal.SIGINT)
            counted += len(response.tokens.token_ids)
    assert counted == 1500
    assert worker.wait() == 0


def execution(worker):
    return execution_pb2_grpc.ExecutionServiceStub(grpc.insecure_channel(worker.address))


def asked(tokens, max_tokens):
    return execution_pb2.ExecuteRequest(
        request=execution_pb2.Request(
            prompt_token_ids=prompt(10, tokens=tokens),
            stopping=execution_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True),
        )
    )


def test_an_engine_process_that_stands_still_with_work_ends_the_worker_with_70(workers):
    worker = workers["stands still"]
    stream = execution(worker).Execute(asked(100, 1900), timeout=WAIT_S)
    while next(stream).WhichOneof("event") != "tokens":
        pass
    os.kill(worker.engine_pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    with pytest.raises(grpc.RpcError) as failure:
        for _ in stream:
            pass
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert worker.wait() == 70
    # Beyond the bound: to notice it, and the exit of a process with a GPU. 2.4 s on an H200.
    assert time.monotonic() - stopped_s < 5 + 5


def test_a_prompt_of_many_steps_is_no_stall(workers):
    worker = workers["takes small steps"]
    stub = execution(worker)
    began_s = time.monotonic()
    events = list(stub.Execute(asked(1900, 1), timeout=WAIT_S))
    assert events[-1].HasField("completed")
    assert time.monotonic() - began_s > 4, "it took so little that nothing was tested"
    worker.terminate()
    assert worker.wait() == 0


def test_an_adapter_is_loaded_into_a_worker_that_serves(workers, adapter, capsys):
    worker = workers["has room for adapters"]
    frontend = Process(
        "tokenwire_frontend",
        ["--worker", worker.address, "--listen", "127.0.0.1:0", "--log-format", "json"],
    )

    def lora(*arguments):
        assert main(["lora", *arguments, "--target", worker.address]) == 0
        return capsys.readouterr().out

    def wait_for_adapters(*names):
        until_s = time.monotonic() + WAIT_S
        while list(client.model().lora_adapters) != list(names):
            assert time.monotonic() < until_s, client.model()

    ids = prompt(13, tokens=100)
    try:
        with Frontend(frontend.address) as client, Worker(worker.address) as behind:
            wait_for_health(client.raw, SERVING)
            plain = client.generate(generation(ids, 16))
            assert lora("load", "odd", "--path", adapter.name) == "odd is loaded\n"
            wait_for_adapters("odd")
            odd = client.generate(generation(ids, 16, lora_adapter="odd", cache_salt="mine"))
            assert odd.sequences[0].token_ids != plain.sequences[0].token_ids
            (listed,) = json.loads(lora("list", "--json"))
            assert (listed["name"], listed["state"]) == ("odd", "loaded")
            told = behind.service.WatchKvEvents(
                worker_pb2.WatchKvEventsRequest(first_number=1), timeout=WAIT_S
            )
            firsts = (each.stored for each in told if each.HasField("stored"))
            firsts = (each for each in firsts if not each.parent_hash)
            assert next(firsts).lora_adapter == ""
            first = next(firsts)
            assert (first.lora_adapter, first.cache_salt) == ("odd", "mine")
            told.cancel()
            assert lora("unload", "odd") == "odd is unloaded\n"
            wait_for_adapters()
            named = generation(ids, 16, lora_adapter="odd")
            assert refused(lambda: client.generate(named)).fields == ["generation.lora_adapter"]
    finally:
        frontend.kill()
