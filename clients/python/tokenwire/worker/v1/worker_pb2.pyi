import datetime

from google.protobuf import duration_pb2 as _duration_pb2
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
    CAPABILITY_KV_EVENTS: _ClassVar[Capability]
    CAPABILITY_CACHED_PROMPT_TOKENS: _ClassVar[Capability]
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
CAPABILITY_KV_EVENTS: Capability
CAPABILITY_CACHED_PROMPT_TOKENS: Capability

class GetWorkerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkerInfoResponse(_message.Message):
    __slots__ = ("worker_name", "contract_revision", "model", "engine", "engine_version", "version", "limits", "capabilities", "tokenizer_fingerprint", "eos_token_ids", "lora_adapters", "simulated")
    WORKER_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LORA_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    worker_name: str
    contract_revision: int
    model: str
    engine: str
    engine_version: str
    version: str
    limits: Limits
    capabilities: _containers.RepeatedScalarFieldContainer[Capability]
    tokenizer_fingerprint: str
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    lora_adapters: _containers.RepeatedScalarFieldContainer[str]
    simulated: bool
    def __init__(self, worker_name: _Optional[str] = ..., contract_revision: _Optional[int] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., capabilities: _Optional[_Iterable[_Union[Capability, str]]] = ..., tokenizer_fingerprint: _Optional[str] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., lora_adapters: _Optional[_Iterable[str]] = ..., simulated: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("context_tokens", "prompt_tokens", "vocabulary_size", "sequence_count", "running_sequences", "waiting_requests", "kv_block_tokens", "kv_blocks", "top_logprobs")
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    context_tokens: int
    prompt_tokens: int
    vocabulary_size: int
    sequence_count: int
    running_sequences: int
    waiting_requests: int
    kv_block_tokens: int
    kv_blocks: int
    top_logprobs: int
    def __init__(self, context_tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., sequence_count: _Optional[int] = ..., running_sequences: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., kv_block_tokens: _Optional[int] = ..., kv_blocks: _Optional[int] = ..., top_logprobs: _Optional[int] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("file_name", "data", "file_bytes", "sha256")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    data: bytes
    file_bytes: int
    sha256: str
    def __init__(self, file_name: _Optional[str] = ..., data: _Optional[bytes] = ..., file_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class WatchLoadRequest(_message.Message):
    __slots__ = ("min_interval",)
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    min_interval: _duration_pb2.Duration
    def __init__(self, min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchLoadResponse(_message.Message):
    __slots__ = ("running_sequences", "waiting_requests", "kv_cache_usage", "steps", "generated_tokens", "draining")
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USAGE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    running_sequences: int
    waiting_requests: int
    kv_cache_usage: float
    steps: int
    generated_tokens: int
    draining: bool
    def __init__(self, running_sequences: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., kv_cache_usage: _Optional[float] = ..., steps: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., draining: bool = ...) -> None: ...

class WatchKvEventsRequest(_message.Message):
    __slots__ = ("first_number",)
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    first_number: int
    def __init__(self, first_number: _Optional[int] = ...) -> None: ...

class WatchKvEventsResponse(_message.Message):
    __slots__ = ("number", "stored", "removed", "cleared")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    number: int
    stored: KvStored
    removed: KvRemoved
    cleared: KvCleared
    def __init__(self, number: _Optional[int] = ..., stored: _Optional[_Union[KvStored, _Mapping]] = ..., removed: _Optional[_Union[KvRemoved, _Mapping]] = ..., cleared: _Optional[_Union[KvCleared, _Mapping]] = ...) -> None: ...

class KvStored(_message.Message):
    __slots__ = ("parent_hash", "block_hashes", "token_ids")
    PARENT_HASH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    parent_hash: int
    block_hashes: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, parent_hash: _Optional[int] = ..., block_hashes: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class KvRemoved(_message.Message):
    __slots__ = ("block_hashes",)
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    block_hashes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, block_hashes: _Optional[_Iterable[int]] = ...) -> None: ...

class KvCleared(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
