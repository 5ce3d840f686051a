"""A frontend whose words are its tokens, and which answers with as many as are asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc import error_details_pb2, status_pb2
from tokenwire.frontend.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

WORDS = ["", "", "", "a", *(f"{a}{b}{c}" for a in "bdk" for b in "aeiou" for c in "nrst")]
"""Each token's text; the first three are control tokens."""


class BenchServer(generation_pb2_grpc.GenerationServiceServicer):
    """What it does wrong is `fault`: lose, cut, refuse, or nothing."""

    def __init__(self, fault="", credentials=None):
        self.fault = fault
        self.context = 4096
        self.requests = []
        self.busy = threading.Event()
        """Generations stay after their first token while it is clear."""
        self.busy.set()
        self.reached = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16))
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(self, self._server)
        port = (
            self._server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self):
        self.busy.set()
        self._server.stop(0).wait()

    # --- what is served

    def GetModel(self, request, context):
        model = model_pb2.Model(
            name="words",
            context_tokens=self.context,
            prompt_tokens_limit=self.context,
            vocabulary_size=len(WORDS),
            has_chat_template=True,
        )
        return model_pb2.GetModelResponse(model=model)

    def ListModels(self, request, context):
        raise NotImplementedError

    def ListWorkers(self, request, context):
        worker = model_pb2.Worker(address="worker:1", engine="words 1", model="words")
        return model_pb2.ListWorkersResponse(workers=[worker])

    def StreamDetokenize(self, requests, context):
        for each in requests:
            word = WORDS[each.token_ids[0]]
            yield tokenization_pb2.StreamDetokenizeResponse(
                sequence=each.sequence, text=f" {word}" if word else ""
            )

    def StreamTokenize(self, requests, context):
        for each in requests:
            ids = [1, *map(WORDS.index, each.text.split())]
            yield tokenization_pb2.StreamTokenizeResponse(token_ids=ids)

    def RenderChat(self, request, context):
        return tokenization_pb2.RenderChatResponse(token_ids=[1] * 8)

    Tokenize = Detokenize = ListModels

    # --- generation

    def StreamGenerate(self, request, context):
        refusal = self._refusal()
        if refusal is not None:
            context.abort_with_status(_Status(refusal))
        for event in self._events(request.generation):
            yield generation_pb2.StreamGenerateResponse(**event)

    def Session(self, requests, context):
        for message in requests:
            for opening in message.opens:
                refusal = self._refusal()
                events = [{"error": refusal}] if refusal else self._events(opening.generation)
                yield generation_pb2.SessionResponse(
                    events=[generation_pb2.SessionEvent(id=opening.id, **event) for event in events]
                )

    def Generate(self, request, context):
        count = self._count(request.generation)
        sequence = generation_pb2.Sequence(token_ids=[3] * count)
        usage = generation_pb2.Usage(
            prompt_tokens=_prompt_tokens(request.generation), completion_tokens=count
        )
        return generation_pb2.GenerateResponse(sequences=[sequence], usage=usage)

    def _refusal(self):
        if self.fault != "refuse":
            return None
        status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL"))
        return status

    def _count(self, generation):
        self.requests.append(generation)
        return generation.stop.max_tokens

    def _events(self, generation):
        count, prompt = self._count(generation), _prompt_tokens(generation)
        accepted = generation_pb2.Accepted(request_id="r", prompt_token_count=prompt)
        yield {"accepted": accepted}
        sent = range(count - 1) if self.fault == "lose" else range(count)
        for number in sent:
            delta = generation_pb2.Delta(
                token_offset=number, token_ids=[3], text=" a", text_offset=2 * number
            )
            if number == count - 1:
                delta.end.reason = generation_pb2.FINISH_REASON_LENGTH
            yield {"delta": delta}
            self.reached.set()
            self.busy.wait(20)
        if self.fault != "cut":
            usage = generation_pb2.Usage(
                prompt_tokens=prompt, completion_tokens=count, cached_prompt_tokens=prompt // 2
            )
            completed = generation_pb2.Completed(usage=usage)
            completed.timings.time_to_first_token.FromMilliseconds(7)
            yield {"completed": completed}


class _Status(grpc.Status):
    def __init__(self, status):
        self.code = grpc.StatusCode.RESOURCE_EXHAUSTED
        self.details = status.message
        self.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)


def _prompt_tokens(generation):
    prompt = generation.prompt
    if prompt.HasField("token_ids"):
        return len(prompt.token_ids.ids)
    if prompt.HasField("chat"):
        return sum(len(each.content.split()) for each in prompt.chat.messages)
    return 1 + len(prompt.text.split())
