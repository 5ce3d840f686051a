"""A strict stand-in of vLLM, built from the record of its surface, for hosts that cannot run it.

It computes nothing: the n-th token of a sequence is the prompt's sum plus n, modulo the vocabulary.
But it hands outputs over the way AsyncLLM does (one task reads the engine, one event and one task
for each request), it refuses every argument that the record does not have, and it dies when told.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

from tokenwire_worker import engines
from tokenwire_worker.engines import vllm as adapter_package

RECORD = json.loads((Path(__file__).parent / "surface.json").read_text())

STEP_S = 0.002
BLOCK_TOKENS = 16
KV_BLOCKS = 4096

_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "None": type(None),
    "list": list,
    "dict": dict,
}


def _default(written: str) -> Any:
    """Returns the default of `annotation = default`; anything but a literal stands for itself."""
    expression = written.partition(" = ")[2]
    try:
        return ast.literal_eval(expression)
    except (ValueError, SyntaxError):
        return expression


def _fits(value: Any, written: str) -> bool:
    """Tells whether a value is of the annotated type, where that is one of `_TYPES`."""
    names = written.partition(" = ")[0].split(" | ")
    types = [_TYPES.get(name.partition("[")[0]) for name in names]
    if None in types:
        return True
    if isinstance(value, bool) and "bool" not in names:
        return False
    return any(isinstance(value, each) for each in types)


def _class(path: str, *further: str, bases: tuple[type, ...] = (), **members: Any) -> type:
    """Makes a class of the recorded fields: nothing else can be given, set or read."""
    fields: dict[str, str] = {}
    for each in (*further, path):
        fields.update(RECORD["fields"][each])
    name = path.rpartition(".")[2]

    def initialise(self: Any, *values: Any, **named: Any) -> None:
        given = {**dict(zip(fields, values, strict=False)), **named}
        for field, value in given.items():
            if field not in fields:
                raise TypeError(f"{name} has no argument {field!r}")
            if not _fits(value, fields[field]):
                raise TypeError(f"{name}.{field}: {value!r} is no {fields[field]}")
        for field, written in fields.items():
            if field not in given and " = " not in written:
                raise TypeError(f"{name} lacks {field!r}")
            setattr(self, field, given.get(field, _default(written)))
        getattr(self, "_check", lambda: None)()

    made = {"__slots__": tuple(fields), "__init__": initialise, "FIELDS": fields, **members}
    return type(name, bases, made)


def _check_call(path: str, positional: int, named: dict[str, Any]) -> None:
    """Refuses a call that the recorded signature does not take."""
    written = RECORD["signatures"][path]
    names = [each.partition("=")[0] for each in written]
    places = names.index("*") if "*" in names else len(names)
    if positional > places:
        raise TypeError(f"{path} takes {places} positional arguments, not {positional}")
    unknown = set(named) - set(names)
    if unknown:
        raise TypeError(f"{path} has no {sorted(unknown)}")
    required = {each for each in names[positional:] if each in written and each[0] != "*"}
    if required - set(named):
        raise TypeError(f"{path} lacks {sorted(required - set(named))}")


# --- values ---------------------------------------------------------------------------------------


def _check_sampling(self: Any) -> None:
    self.stop_token_ids = self.stop_token_ids or []
    if not 0 <= self.temperature <= RECORD["highest_temperature"]:
        raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
    if self.temperature == 0 and self.n > 1:
        raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")
    if self.seed is not None and not -(2**63) <= self.seed < 2**63:
        raise OverflowError("seed")  # which ends the real engine
    if self.min_tokens and len(self.stop_token_ids) > 128:
        raise OverflowError("stop_token_ids")  # likewise
    banned = self._bad_words_token_ids or []
    if len(banned) > 128 or sum(map(len, banned)) > 1024:
        raise OverflowError("bad_words")  # likewise


def _verify(self: Any, *arguments: Any) -> None:
    _check_call("vllm.sampling_params.SamplingParams.verify", len(arguments), {})
    tokenizer, guide = arguments[3], self.structured_outputs
    if guide is None:
        return
    if tokenizer is None:
        raise ValueError("Structured outputs requires a tokenizer")
    if '"not for vllm"' in guide.grammar:
        raise ValueError("vLLM's own rules\nforbid it")


SamplingParams = _class(
    "vllm.sampling_params.SamplingParams", _check=_check_sampling, verify=_verify
)
StructuredOutputsParams = _class("vllm.sampling_params.StructuredOutputsParams")
RequestOutputKind = Enum(
    "RequestOutputKind", RECORD["constants"]["vllm.sampling_params.RequestOutputKind"]
)
UsageContext = Enum("UsageContext", RECORD["constants"]["vllm.usage.usage_lib.UsageContext"])
LoRARequest = _class("vllm.lora.request.LoRARequest")
KVEventsConfig = _class("vllm.config.kv_events.KVEventsConfig")
StructuredOutputsConfig = _class("vllm.config.structured_outputs.StructuredOutputsConfig")
KVTransferConfig = _class("vllm.config.kv_transfer.KVTransferConfig")
CompletionOutput = _class("vllm.outputs.CompletionOutput")
FlatLogprobs = _class("vllm.logprobs.FlatLogprobs")
SchedulerStats = _class("vllm.v1.metrics.stats.SchedulerStats")
RequestStateStats = _class("vllm.v1.metrics.stats.RequestStateStats")
BlockStored = _class("vllm.distributed.kv_events.BlockStored")
BlockRemoved = _class("vllm.distributed.kv_events.BlockRemoved")
AllBlocksCleared = _class("vllm.distributed.kv_events.AllBlocksCleared")
KVEventBatch = _class(
    "vllm.distributed.kv_events.KVEventBatch", "vllm.distributed.kv_events.EventBatch"
)


class _Field:
    """What dataclasses.fields yields, as far as the adapter reads it."""

    def __init__(self, name: str) -> None:
        self.name = name


def _engine_args() -> type:
    made = _class("vllm.engine.arg_utils.AsyncEngineArgs", "vllm.engine.arg_utils.EngineArgs")
    # dataclasses.fields reads this, and asks of each whether it is a field.
    import dataclasses

    class Args(made):  # type: ignore[misc, valid-type]
        __dataclass_fields__ = {}  # noqa: RUF012

    for name in made.FIELDS:
        field = dataclasses.field()
        field.name, field._field_type = name, dataclasses._FIELD
        Args.__dataclass_fields__[name] = field
    Args.__name__ = "AsyncEngineArgs"
    return Args


AsyncEngineArgs = _engine_args()


class EngineDeadError(Exception):
    def __init__(self, *arguments: Any, suppress_context: bool = False) -> None:
        super().__init__("EngineCore encountered an issue.", *arguments)


class PrometheusStatLogger:
    def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
        raise AssertionError("the adapter's own class leaves this out")


def tokens_input(*arguments: Any, **named: Any) -> dict[str, Any]:
    _check_call("vllm.inputs.engine.tokens_input", len(arguments), named)
    return {"type": "token", "prompt_token_ids": arguments[0], **named}


# --- the engine -----------------------------------------------------------------------------------


class _Request:
    """One request: what AsyncLLM keeps of it, and the event that its task waits for."""

    def __init__(self, prompt: dict[str, Any], params: Any, cached: int) -> None:
        self.prompt, self.params, self.cached = prompt["prompt_token_ids"], params, cached
        self.generated = 0
        self.metrics = RequestStateStats(scheduled_ts=time.monotonic())
        self.result: Any = None
        self.ready = asyncio.Event()
        self.transfer = (params.extra_args or {}).get("kv_transfer_params") or {}
        self.handed_over: dict[str, Any] | None = None
        self.prompt_logprobs: Any = None
        if params.prompt_logprobs is not None:
            self.prompt_logprobs = _flat([None, *self.prompt[1:]], params.prompt_logprobs)

    def put(self, ids: list[int], reason: str | None) -> None:
        logprobs = None
        if self.params.logprobs is not None:
            logprobs = _flat(ids, self.params.logprobs)
        if self.result is not None:  # merged, as RequestOutputCollector does
            before = self.result.outputs[0]
            self.prompt_logprobs = self.result.prompt_logprobs
            ids = [*before.token_ids, *ids]
            logprobs = None if logprobs is None else _flat(ids, self.params.logprobs)
        completion = CompletionOutput(0, "", ids, None, logprobs, finish_reason=reason)
        self.result = SimpleNamespace(
            outputs=[completion],
            finished=reason is not None,
            num_cached_tokens=self.cached,
            metrics=self.metrics,
            prompt_logprobs=self.prompt_logprobs,
            kv_transfer_params=self.handed_over if reason == "length" else None,
        )
        self.prompt_logprobs = None if self.prompt_logprobs is None else []
        self.ready.set()

    def step(self, vocabulary: int) -> str | None:
        """Generates one token; returns why the request ends, where it does."""
        token = (sum(self.prompt) + self.generated) % vocabulary
        self.generated += 1
        self.metrics.last_token_ts = time.monotonic()
        self.metrics.first_token_ts = self.metrics.first_token_ts or self.metrics.last_token_ts
        reason = None
        if token in self.params.stop_token_ids and self.generated > self.params.min_tokens:
            reason = "stop"
        elif self.generated >= self.params.max_tokens:
            reason = "length"
        self.put([token], reason)
        return reason

    @property
    def blocks(self) -> int:
        return -(-(len(self.prompt) + self.generated) // BLOCK_TOKENS)


def _flat(ids: list[int | None], top: int) -> Any:
    """Returns log probabilities: -1 for the id itself, and the same id first of the likeliest."""
    flat = FlatLogprobs([], [], [], [], [], [])
    for token in ids:
        run = []
        if token is not None:  # as of a prompt's first
            run = [(token, -1.0), *((token + rank, -1.0 - rank) for rank in range(top))]
        flat.start_indices.append(len(flat.token_ids))
        flat.token_ids += [each for each, _ in run]
        flat.logprobs += [value for _, value in run]
        flat.end_indices.append(len(flat.token_ids))
    return flat


def _given(argument: Any) -> Any:
    """Returns an argument, or None where it is a default that the record knows only as code."""
    return None if isinstance(argument, str) and "Config." in argument else argument


class AsyncLLM:
    """The stand-in of AsyncLLM."""

    latest: AsyncLLM
    held: ClassVar[dict[str, list[int]]] = {}
    """Prompts that engines keep for others, by the request."""

    def __init__(self, arguments: Any, stat_loggers: list[type]) -> None:
        AsyncLLM.latest = self
        # Of a GGUF file vLLM takes the configuration from the file itself.
        of_file = arguments.model.endswith(".gguf")
        folder = Path(arguments.tokenizer if of_file else arguments.model)
        config = json.loads((folder / "config.json").read_text())
        if "not_for_vllm" in config:
            raise ValueError("Model architectures are not supported.\nSee the list.")
        self.arguments = arguments
        self.vocabulary = config["vocab_size"]
        length = _given(arguments.max_model_len) or config["max_position_embeddings"]
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=length,
                max_logprobs=20,
                get_vocab_size=lambda: self.vocabulary,
            ),
            cache_config=SimpleNamespace(
                block_size=BLOCK_TOKENS,
                num_gpu_blocks=KV_BLOCKS,
                enable_prefix_caching=arguments.enable_prefix_caching is not False,
                cache_dtype="auto",
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=_given(arguments.max_num_seqs) or 256),
            speculative_config=arguments.speculative_config,
            kv_transfer_config=arguments.kv_transfer_config,
            structured_outputs_config=None,
        )
        self.loggers = [logger(self.vllm_config, [0]) for logger in stat_loggers]
        self.requests: dict[str, _Request] = {}
        self.prefixes: set[tuple[int, ...]] = set()
        self.adapters: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.errored = False
        self.stopped = False
        self.paused = False
        self.sequence = 0
        self._stepper = asyncio.get_running_loop().create_task(self._step_forever())

    @classmethod
    def from_engine_args(cls, *arguments: Any, **named: Any) -> AsyncLLM:
        _check_call("vllm.v1.engine.async_llm.AsyncLLM.from_engine_args", len(arguments), named)
        return cls(arguments[0], named.get("stat_loggers") or [])

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def is_tracing_enabled(self) -> bool:
        return _given(self.arguments.otlp_traces_endpoint) is not None

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(eos_token_id=2)

    async def add_lora(self, lora_request: Any) -> bool:
        if "broken" in lora_request.lora_path:
            raise ValueError("adapter_model.safetensors is missing")
        self.adapters.append(lora_request)
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        self.adapters = [each for each in self.adapters if each.lora_int_id != lora_id]
        return True

    async def generate(self, *arguments: Any, **named: Any) -> Any:
        _check_call("vllm.v1.engine.async_llm.AsyncLLM.generate", len(arguments), named)
        prompt, params, request_id = arguments
        if self.errored:
            raise EngineDeadError
        if prompt["prompt_token_ids"][0] == 13:
            raise ValueError("unlucky\nreally")
        self.calls.append({"prompt": prompt, "params": params, "id": request_id, **named})
        request = self.requests[request_id] = _Request(prompt, params, self._cached(prompt))
        self._transfer(request, request_id)
        try:
            while True:
                while request.result is None:
                    await request.ready.wait()
                if isinstance(request.result, Exception):
                    raise request.result
                result, request.result = request.result, None
                request.ready.clear()
                yield result
                if result.finished:
                    return
        finally:
            self.requests.pop(request_id, None)

    async def abort(self, *arguments: Any, **named: Any) -> None:
        _check_call("vllm.v1.engine.async_llm.AsyncLLM.abort", len(arguments), named)
        for request_id in arguments[0]:
            request = self.requests.pop(request_id, None)
            if request is not None:
                request.put([], "abort")

    def shutdown(self, timeout: float | None = None) -> None:
        self.stopped = True
        self._stepper.cancel()

    def die(self) -> None:
        """Ends as AsyncLLM does when its engine process has ended."""
        self.errored = True
        self._stepper.cancel()
        for request in self.requests.values():
            request.result = EngineDeadError()
            request.ready.set()

    def _cached(self, prompt: dict[str, Any]) -> int:
        ids, salt = prompt["prompt_token_ids"], prompt.get("cache_salt")
        ends = range(BLOCK_TOKENS, len(ids), BLOCK_TOKENS)
        blocks = [(salt, *ids[:end]) for end in ends]
        known = [each for each in blocks if each in self.prefixes]
        self.prefixes.update(blocks)
        stored = [hash(each) % 2**64 for each in blocks[len(known) :]]
        if stored:
            parent = hash(known[-1]) % 2**64 if known else None
            fresh = ids[len(known) * BLOCK_TOKENS : len(blocks) * BLOCK_TOKENS]
            self.publish(BlockStored(stored, parent, fresh, BLOCK_TOKENS, None, "GPU", None))
        return len(known) * BLOCK_TOKENS

    def _transfer(self, request: _Request, request_id: str) -> None:
        """Keeps the blocks of a prompt for another engine, or takes those of one that does."""
        asked, prompt = request.transfer, request.prompt
        assert not asked or isinstance(self.arguments.kv_transfer_config, KVTransferConfig)
        if asked.get("do_remote_decode"):
            self.held[request_id] = prompt
            request.handed_over = {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_block_ids": [list(range(-(-len(prompt) // BLOCK_TOKENS)))],
                "remote_engine_id": "stand-in",
                "remote_request_id": request_id,
                "remote_host": os.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"],
                "remote_port": int(os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"]),
                "tp_size": 1,
                "remote_num_tokens": len(prompt),
                "remote_blocks_expiry_time": None,
            }
        elif asked.get("do_remote_prefill"):
            # What vLLM takes for granted: other blocks, or none, end its engine or block it.
            blocks = -(-len(prompt) // BLOCK_TOKENS)
            assert [len(group) for group in asked["remote_block_ids"]] == [blocks]
            held = self.held.pop(asked["remote_request_id"], None)
            if held is not None:
                assert held == prompt
                request.cached = len(prompt)

    def publish(self, *events: Any, skip: int = 0) -> None:
        """Publishes KV cache events; `skip` loses as many batches before."""
        if isinstance(self.arguments.kv_events_config, KVEventsConfig):
            number = self.sequence + skip
            self.sequence = number + 1
            queue = _queue(self.arguments.kv_events_config.endpoint)
            queue.put_nowait((b"", number.to_bytes(8, "big"), KVEventBatch(0.0, list(events))))

    async def _step_forever(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            running = {} if self.paused else dict(self.requests)
            for request_id, request in running.items():
                if request.step(self.vocabulary) is not None:
                    self.requests.pop(request_id, None)
            if running:
                used = sum(request.blocks for request in self.requests.values())
                stats = SchedulerStats(
                    num_running_reqs=len(self.requests), kv_cache_usage=used / KV_BLOCKS
                )
                for logger in self.loggers:
                    logger.record(stats, None, mm_cache_stats=None, engine_idx=0)


# --- the other packages that the adapter reads KV cache events with ------------------------------

_queues: dict[str, asyncio.Queue[Any]] = {}


def _queue(endpoint: str) -> asyncio.Queue[Any]:
    return _queues.setdefault(endpoint, asyncio.Queue())


class _Socket:
    def __init__(self, kind: str) -> None:
        assert kind == "SUB"
        self._subscribed = False

    def set_hwm(self, messages: int) -> None:
        assert messages > 0

    def subscribe(self, topic: bytes) -> None:
        self._subscribed = True

    def connect(self, endpoint: str) -> None:
        self._queue = _queue(endpoint)

    async def recv_multipart(self) -> Any:
        assert self._subscribed
        return await self._queue.get()


class _Context:
    def socket(self, kind: str) -> _Socket:
        return _Socket(kind)

    def destroy(self, linger: int) -> None: ...


class _Decoder:
    def __init__(self, of: type) -> None:
        assert of is KVEventBatch

    def decode(self, payload: Any) -> Any:
        return payload


def modules() -> dict[str, ModuleType]:
    """Returns the stand-in's modules by name; what the record does not have is not in them."""
    offered: dict[str, dict[str, Any]] = {
        "vllm.config": {
            "KVEventsConfig": KVEventsConfig,
            "KVTransferConfig": KVTransferConfig,
            "StructuredOutputsConfig": StructuredOutputsConfig,
        },
        "vllm.distributed.kv_events": {
            each.__name__: each
            for each in (BlockStored, BlockRemoved, AllBlocksCleared, KVEventBatch)
        },
        "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
        "vllm.inputs.engine": {"tokens_input": tokens_input},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.sampling_params": {
            each.__name__: each
            for each in (SamplingParams, StructuredOutputsParams, RequestOutputKind)
        },
        "vllm.usage.usage_lib": {"UsageContext": UsageContext},
        "vllm.v1.engine.async_llm": {"AsyncLLM": AsyncLLM},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
        "vllm.v1.metrics.loggers": {"PrometheusStatLogger": PrometheusStatLogger},
        "vllm.version": {"__version__": RECORD["version"]},
        "msgspec": {"msgpack": SimpleNamespace(Decoder=_Decoder)},
        "zmq": {"SUB": "SUB"},
        "zmq.asyncio": {"Context": _Context},
    }
    made: dict[str, ModuleType] = {}
    for name, members in offered.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(made[name]).update(members)
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    return made


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Has `import vllm` find the stand-in, and the adapter imported anew, within the context."""
    ours = [name for name in sys.modules if _is_replaced(name)]
    kept = {name: sys.modules.pop(name) for name in ours}
    sys.modules.update(modules())
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_replaced(name)]:
            del sys.modules[name]
        sys.modules.update(kept)
        engines.vllm = adapter_package


def _is_replaced(name: str) -> bool:
    ours = adapter_package.__name__
    if name == ours or name.startswith(f"{ours}."):
        return name != f"{ours}.settings"  # needs no vLLM, and the worker's settings hold it
    return name.partition(".")[0] in ("vllm", "zmq", "msgspec")
