from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Capability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAPABILITY_UNSPECIFIED: _ClassVar[Capability]
    CAPABILITY_LOGPROBS: _ClassVar[Capability]
    CAPABILITY_TOP_LOGPROBS: _ClassVar[Capability]
    CAPABILITY_GUIDED_JSON_SCHEMA: _ClassVar[Capability]
    CAPABILITY_GUIDED_JSON_OBJECT: _ClassVar[Capability]
    CAPABILITY_GUIDED_REGEX: _ClassVar[Capability]
    CAPABILITY_GUIDED_GRAMMAR: _ClassVar[Capability]
    CAPABILITY_GUIDED_CHOICE: _ClassVar[Capability]
    CAPABILITY_LORA: _ClassVar[Capability]
    CAPABILITY_CACHE_SALT: _ClassVar[Capability]
    CAPABILITY_MIN_P: _ClassVar[Capability]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_CONNECTING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_REFUSED: _ClassVar[WorkerState]
CAPABILITY_UNSPECIFIED: Capability
CAPABILITY_LOGPROBS: Capability
CAPABILITY_TOP_LOGPROBS: Capability
CAPABILITY_GUIDED_JSON_SCHEMA: Capability
CAPABILITY_GUIDED_JSON_OBJECT: Capability
CAPABILITY_GUIDED_REGEX: Capability
CAPABILITY_GUIDED_GRAMMAR: Capability
CAPABILITY_GUIDED_CHOICE: Capability
CAPABILITY_LORA: Capability
CAPABILITY_CACHE_SALT: Capability
CAPABILITY_MIN_P: Capability
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_CONNECTING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_REFUSED: WorkerState

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "context_tokens", "prompt_tokens_limit", "sequence_count_limit", "vocabulary_size", "eos_token_ids", "tokenizer_fingerprint", "has_chat_template", "capabilities", "lora_adapters", "ready_worker_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_COUNT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LORA_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    READY_WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    context_tokens: int
    prompt_tokens_limit: int
    sequence_count_limit: int
    vocabulary_size: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    tokenizer_fingerprint: str
    has_chat_template: bool
    capabilities: _containers.RepeatedScalarFieldContainer[Capability]
    lora_adapters: _containers.RepeatedScalarFieldContainer[str]
    ready_worker_count: int
    def __init__(self, name: _Optional[str] = ..., context_tokens: _Optional[int] = ..., prompt_tokens_limit: _Optional[int] = ..., sequence_count_limit: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., tokenizer_fingerprint: _Optional[str] = ..., has_chat_template: bool = ..., capabilities: _Optional[_Iterable[_Union[Capability, str]]] = ..., lora_adapters: _Optional[_Iterable[str]] = ..., ready_worker_count: _Optional[int] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("address", "name", "state", "state_reason", "model", "engine", "running", "waiting", "in_flight", "kv_cache_usage")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USAGE_FIELD_NUMBER: _ClassVar[int]
    address: str
    name: str
    state: WorkerState
    state_reason: str
    model: str
    engine: str
    running: int
    waiting: int
    in_flight: int
    kv_cache_usage: float
    def __init__(self, address: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[WorkerState, str]] = ..., state_reason: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., in_flight: _Optional[int] = ..., kv_cache_usage: _Optional[float] = ...) -> None: ...
