"""Triton's own client against the frontend: the Open Inference Protocol v2 over gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tokenwire.frontend.v1 import activity_pb2
from tokenwire_frontend.edge.kserve import outputs
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2 as pb
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2_grpc

from tests.services.bad_values_of_inference import FEW, TEXT, tensor
from tests.services.calls import LONG, generation
from tests.services.processes import ROOT, WAIT_S
from tests.services.test_documents import EXAMPLE

CLIENT = ROOT / "build/tritonclient"

pytestmark = pytest.mark.skipif(
    not CLIENT.exists(), reason="tritonclient is not here: make grpc-tools"
)

# Its own grpcio, which it requires, goes before that of the services.
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{CLIENT}{os.pathsep}{ROOT}"}


class RefusedError(Exception):
    """The client has raised an error: (message, status)."""


class Triton:
    """Triton's client, in its process."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.services.triton_process", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        )

    def __getattr__(self, call: str) -> Any:
        return lambda **given: self._call(call, given)

    def _call(self, call: str, given: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RefusedError(answer["error"], answer["status"])
        return answer["answer"]

    def close(self) -> None:
        self._process.communicate(timeout=WAIT_S)


@pytest.fixture(scope="module")
def started(shared_frontend) -> Iterator[Triton]:
    client = Triton(shared_frontend.address)
    yield client
    client.close()


@pytest.fixture
def triton(started, frontend) -> Triton:
    return started


def asking(prompt: str = "Hello", max_tokens: int = 8, **more: Any) -> dict[str, Any]:
    """Returns inputs as a client of Triton's TensorRT-LLM ensemble sends them."""
    return {
        "text_input": ["BYTES", [1, 1], [prompt]],
        "max_tokens": ["INT32", [1, 1], [max_tokens]],
        "temperature": ["FP32", [1, 1], [0.0]],
        **more,
    }


ON = ["BOOL", [1, 1], [True]]


def text(*responses: dict[str, Any]) -> str:
    return "".join(each["outputs"]["text_output"][1][0] for each in responses)


@pytest.fixture(scope="module")
def known(services) -> str:
    """What the model says after Hello."""
    return services[1].stream(generation(max_tokens=8)).text()


def test_the_messages_have_the_numbers_and_types_of_tritons(triton):
    theirs = triton.fields()
    ours = {
        field.full_name: [field.number, field.type, field.is_repeated]
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for kind in (message, *message.nested_types)
        for field in kind.fields
    }
    assert ours == {name: theirs[name] for name in ours}


def test_the_server_and_its_models_are_described(triton):
    assert triton.ask(method="is_server_live") is True
    assert triton.ask(method="is_server_ready") is True
    assert triton.ask(method="is_model_ready", model_name="demo") is True
    assert triton.ask(method="is_model_ready", model_name="nope") is False
    server = triton.ask(method="get_server_metadata", as_json=True)
    assert server["name"] == "tokenwire"
    model = triton.ask(method="get_model_metadata", model_name="demo", as_json=True)
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in model["inputs"]}
    assert inputs["text_input"] == ("BYTES", ["1"])
    assert inputs["stop_words"] == ("BYTES", ["-1"])
    assert {each["name"] for each in model["outputs"]} >= {"text_output", "cum_log_probs"}
    config = triton.ask(method="get_model_config", model_name="demo", as_json=True)["config"]
    assert config["model_transaction_policy"] == {"decoupled": True}
    index = triton.ask(method="get_model_repository_index", as_json=True)
    assert index["models"] == [{"name": "demo", "version": "1", "state": "READY"}]
    with pytest.raises(RefusedError, match=r"'nope' is not served here.*NOT_FOUND"):
        triton.ask(method="get_model_metadata", model_name="nope")


def test_one_response_has_the_prompt_before_the_output_unless_it_is_excluded(triton, known):
    whole = triton.infer(inputs=asking(), request_id="a 1")
    assert whole["outputs"] == {"text_output": [[1], [f"Hello{known}"]]}
    assert (whole["id"], whole["model"], whole["parameters"]) == ("a 1", "demo", {})
    bare = triton.infer(inputs=asking(exclude_input_in_output=ON))
    assert text(bare) == known


def test_outputs_come_by_their_flags_or_by_their_names(triton, frontend, known):
    one = {"exclude_input_in_output": ON, "return_log_probs": ON, "return_finish_reason": ON}
    flagged = triton.infer(inputs=asking(**one, return_num_input_tokens=ON))["outputs"]
    assert flagged["finish_reason"] == [[1], ["length"]]
    assert flagged["num_input_tokens"] == [[1], [len(frontend.tokenize("Hello"))]]
    each, total = flagged["output_log_probs"], flagged["cum_log_probs"]
    assert each[0] == [1, 1, 8]
    assert total == [[1, 1], [pytest.approx(sum(each[1]), rel=1e-5)]]
    named = triton.infer(inputs=asking(), outputs=["num_output_tokens", "cumulative_logprob"])
    assert named["outputs"] == {
        "num_output_tokens": [[1], [8]],
        "cumulative_logprob": [[1], [pytest.approx(total[1][0], rel=1e-5)]],
    }
    [told] = triton.infer(inputs=asking(), outputs=["logprobs"])["outputs"]["logprobs"][1]
    decoded = [next(iter(token.values()))["decoded_token"] for token in json.loads(told)]
    assert "".join(decoded) == known


def test_sampling_parameters_are_the_inputs_the_json_or_the_parameters(triton):
    hot = {"temperature": 5.0, "seed": 11, "max_tokens": 6, "n": 2, "ignore_eos": True}
    alone = {"text_input": ["BYTES", [1], ["Hello"]], "exclude_input_in_output": ON}
    by_json = {**alone, "sampling_parameters": ["BYTES", [1], [json.dumps(hot)]]}
    found = triton.infer(inputs=by_json)["outputs"]["text_output"]
    assert found[0] == [2]
    parameters = {**hot, "temperature": "5.0"}
    assert triton.infer(inputs=alone, parameters=parameters)["outputs"]["text_output"] == found
    tensors = {
        "temperature": ["FP32", [1], [5.0]],
        "random_seed": ["UINT64", [1], [11]],
        "max_tokens": ["INT32", [1], [6]],
        "num_return_sequences": ["INT32", [1], [2]],
    }
    more = {"ignore_eos": True}
    found_again = triton.infer(inputs={**alone, **tensors}, parameters=more)
    assert found_again["outputs"]["text_output"] == found


def test_stop_words_and_guides_hold(triton, known):
    stop = known[3:6]
    empty = ["BYTES", [1, 1], [""]]
    stopped = triton.infer(
        inputs=asking(
            stop_words=["BYTES", [1, 2], ["no such words", stop]],
            bad_words=empty,
            exclude_input_in_output=ON,
            return_finish_reason=ON,
        )
    )["outputs"]
    assert stopped["text_output"][1] == [known[: known.index(stop)]]
    assert stopped["finish_reason"][1] == ["stop"]
    structured = json.dumps({"structured_outputs": json.dumps({"regex": "(yes|no)"})})
    guides = [
        {
            "guided_decoding_guide_type": ["BYTES", [1], ["regex"]],
            "guided_decoding_guide": ["BYTES", [1], ["(yes|no)"]],
        },
        {"sampling_parameters": ["BYTES", [1], [structured]]},
        {"sampling_parameters": ["BYTES", [1], ['{"guided_decoding": {"choice": ["yes", "no"]}}']]},
    ]
    for guide in guides:
        answer = triton.infer(inputs=asking(exclude_input_in_output=ON, **guide))
        assert text(answer) in ("yes", "no")


def test_a_stream_carries_several_requests_each_under_its_id(triton, known):
    requests = [
        {"inputs": asking(stream=ON), "request_id": "streams"},
        {"inputs": asking(), "request_id": "whole"},
        {"inputs": asking(stream=ON, return_finish_reason=ON), "request_id": "reasons"},
        {"inputs": asking(top_p=["FP32", [1, 1], [7.0]]), "request_id": "bad"},
        {"inputs": asking(), "request_id": "unknown", "model_name": "nope"},
    ]
    came = triton.stream(requests=requests)
    errors = sorted(each["error"] for each in came if "error" in each)
    assert "'nope' is not served here" in errors[0]
    assert "top_p: is 7" in errors[1]
    assert len(errors) == 2
    by_id: dict[str, list[Any]] = {}
    for each in came:
        if "error" not in each:
            by_id.setdefault(each["id"], []).append(each)
    assert set(by_id) == {"streams", "whole", "reasons"}
    assert text(*by_id["streams"]) == text(*by_id["reasons"]) == known
    assert text(*by_id["whole"]) == f"Hello{known}"
    assert len(by_id["whole"]) == 1
    assert len(by_id["streams"]) > 1
    for responses in by_id.values():
        finals = [each["parameters"]["triton_final_response"] for each in responses]
        assert finals == [False] * (len(finals) - 1) + [True]
    reasons = [each["outputs"]["finish_reason"][1][0] for each in by_id["reasons"]]
    assert reasons == ["None"] * (len(reasons) - 1) + ["length"]


def test_an_error_ends_neither_the_stream_nor_others_and_has_the_id(frontend):
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(frontend.raw)
    bad = tensor("top_k", "FP32", 1.0)
    requests = [
        pb.ModelInferRequest(id="a", model_name="demo", inputs=[TEXT, FEW, bad]),
        pb.ModelInferRequest(id="b", model_name="demo", inputs=[TEXT, FEW]),
    ]
    came = {each.infer_response.id: each for each in stub.ModelStreamInfer(iter(requests))}
    assert came["a"].error_message.startswith("top_k: has datatype 'FP32'")
    assert came["a"].infer_response.parameters[outputs.FINAL].bool_param
    assert came["b"].error_message == ""


def test_a_request_is_ended_by_stop_by_closing_the_stream_and_by_its_call(triton, worker, frontend):
    def endless(name: str) -> dict[str, Any]:
        never = {"parameters": {"ignore_eos": True}, "request_id": name}
        return {"inputs": asking("One,", LONG, stream=ON, return_finish_reason=ON), **never}

    triton.open_stream(requests=[endless("first"), endless("second")])
    assert {each["id"] for each in triton.read(count=6)} <= {"first", "second"}
    running = frontend.activity.WatchActivity(activity_pb2.WatchActivityRequest(), timeout=WAIT_S)
    assert next(running).active_generations == 2
    running.cancel()
    triton.send(requests=[{"inputs": {"stop": ON}, "request_id": "first"}])
    last = triton.read_to_final(count=1)[-1]
    assert (last["id"], last["outputs"]["finish_reason"][1]) == ("first", ["cancelled"])
    triton.close_stream(cancels=True)
    worker.wait_until_idle()

    whole = {**endless("third"), "inputs": asking("One,", LONG)}
    triton.start(**whole)
    worker.wait_for_load(lambda load: load.running_sequences == 1)
    assert "CANCELLED" in triton.cancel()
    worker.wait_until_idle()
    frontend.wait_for_no_work()


def test_a_generation_is_one_of_the_frontends_own(triton, frontend):
    triton.infer(inputs=asking(), request_id="from-triton")
    asked = activity_pb2.GetRecordRequest(request_id="from-triton")
    record = frontend.activity.GetRecord(asked, timeout=WAIT_S).record
    assert record.outcome == activity_pb2.OUTCOME_COMPLETED
    assert record.usage.completion_tokens == 8


def test_a_deadline_and_a_timeout_are_kept(triton):
    never = {"inputs": asking("One,", LONG), "parameters": {"ignore_eos": True}}
    with pytest.raises(RefusedError, match="DEADLINE_EXCEEDED"):
        triton.infer(**never, client_timeout=0.3)
    never["inputs"]["return_finish_reason"] = ON
    partial = triton.infer(**never, timeout=300_000)
    assert partial["outputs"]["finish_reason"][1] == ["time_budget"]


def test_the_examples_of_the_document_print_what_it_shows(frontend):
    text = (ROOT / "docs/kserve.md").read_text(encoding="utf-8")
    examples, shown = zip(*EXAMPLE.findall(text), strict=True)
    source = "".join(examples).replace("127.0.0.1:50051", frontend.address)
    command = [sys.executable, "-c", source]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=ENVIRONMENT
    )
    assert (done.stdout, done.returncode) == ("".join(shown), 0), done.stderr


def test_what_is_not_served_is_unimplemented(triton):
    for method in ("get_inference_statistics", "get_trace_settings"):
        with pytest.raises(RefusedError, match="UNIMPLEMENTED"):
            triton.ask(method=method)


def test_the_hot_path_writes_what_the_runtime_would(known):
    responses = outputs.Responses("demo", "7", ["text_output"], 1, 3)
    read = pb.ModelStreamInferResponse.FromString(responses.text("né".encode()))
    assert read.infer_response.raw_output_contents == [b"\x03\0\0\0n\xc3\xa9"]
    assert read.infer_response.outputs[0].name == "text_output"
    assert not read.infer_response.parameters[outputs.FINAL].bool_param
