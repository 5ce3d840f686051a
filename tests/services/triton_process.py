"""Triton's own client, in a process of its own: its stubs and the frontend's clash in one.

    python -m tests.services.triton_process HOST:PORT

Each line of standard input is a call, as JSON; what came of it is a line of standard output.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

WAIT_S = 120.0


def tensors(given: dict[str, Any]) -> list[triton.InferInput]:
    """Returns inputs; each is a datatype, a shape, and the elements."""
    made = []
    for name, (datatype, shape, values) in given.items():
        if datatype == "BYTES":
            array = np.array([each.encode() for each in values], dtype=np.object_)
        else:
            array = np.array(values, dtype=triton_to_np_dtype(datatype))
        tensor = triton.InferInput(name, shape, datatype)
        tensor.set_data_from_numpy(array.reshape(shape))
        made.append(tensor)
    return made


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Returns what `infer` and its kin take."""
    outputs = request.pop("outputs", None)
    if outputs is not None:
        outputs = [triton.InferRequestedOutput(name) for name in outputs]
    inputs = tensors(request.pop("inputs"))
    return {"model_name": "demo", "inputs": inputs, "outputs": outputs, **request}


def plain(result: triton.InferResult) -> dict[str, Any]:
    """Returns a response as JSON has it."""
    response = result.get_response()
    outputs = {}
    for each in response.outputs:
        array = result.as_numpy(each.name)
        values = [v.decode() if isinstance(v, bytes) else v.item() for v in array.flatten()]
        outputs[each.name] = [list(array.shape), values]
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }
    return {
        "id": response.id,
        "model": response.model_name,
        "parameters": parameters,
        "outputs": outputs,
    }


class Calls:
    """The calls that a line may ask for."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)
        self._came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._unary: Any = None

    def ask(self, method: str, **given: Any) -> Any:
        """Calls a method of the client that needs no tensors."""
        answer = getattr(self._client, method)(**given)
        return answer if isinstance(answer, bool | dict) else json.loads(json.dumps(answer))

    def infer(self, **request: Any) -> Any:
        """Asks for one response."""
        return plain(self._client.infer(**arguments(request)))

    def start(self, **request: Any) -> None:
        """Begins to ask for one response."""
        done = self._came.put
        self._unary = self._client.async_infer(
            callback=lambda result, error: done((result, error)), **arguments(request)
        )

    def cancel(self) -> str:
        """Gives up the response that `start` asks for; returns how that ends."""
        self._unary.cancel()
        _, error = self._came.get(timeout=WAIT_S)
        return str(error.status())

    def stream(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Sends requests over one stream, closes it and returns every response and error."""
        self.open_stream(requests)
        self._client.stop_stream()
        return [self._next() for _ in range(self._came.qsize())]

    def open_stream(self, requests: list[dict[str, Any]]) -> None:
        """Sends requests over a stream that stays open."""
        self._client.start_stream(lambda result, error: self._came.put((result, error)))
        self.send(requests)

    def send(self, requests: list[dict[str, Any]]) -> None:
        """Sends more over the open stream."""
        for request in requests:
            self._client.async_stream_infer(**arguments(request))

    def read(self, count: int) -> list[Any]:
        """Returns the next responses of the open stream."""
        return [self._next() for _ in range(count)]

    def read_to_final(self, count: int) -> list[Any]:
        """Returns responses of the open stream until so many requests have ended."""
        came: list[Any] = []
        while count:
            came.append(self._next())
            count -= "error" in came[-1] or came[-1]["parameters"]["triton_final_response"]
        return came

    def close_stream(self, *, cancels: bool) -> None:
        """Closes the stream."""
        self._client.stop_stream(cancel_requests=cancels)
        self._came = queue.Queue()

    def _next(self) -> Any:
        result, error = self._came.get(timeout=WAIT_S)
        return plain(result) if error is None else {"error": str(error)}

    def fields(self) -> dict[str, Any]:
        """Returns the number, type and label of every field of Triton's own messages."""
        return {
            field.full_name: [field.number, field.type, field.is_repeated]
            for file in (service_pb2, model_config_pb2)
            for message in file.DESCRIPTOR.message_types_by_name.values()
            for kind in (message, *message.nested_types)
            for field in kind.fields
        }


def main() -> None:
    """Answers until standard input ends."""
    calls = Calls(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": getattr(calls, asked.pop("call"))(**asked)}
        except InferenceServerException as error:
            answer = {"error": error.message(), "status": error.status()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
