"""Every name that Tokenwire's services write into spans and metrics.

The names of RPCs follow the OpenTelemetry conventions at SCHEMA_URL (release candidates there), and
the gen_ai names the conventions for generative AI as they stood at that version (in development,
with no schema URL of their own). Names under `tokenwire.` are our own. `registry.py` says which
span or metric bears which of them.
"""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""Version of the conventions that these names are from."""

# --- attributes ----------------------------------------------------------------------------------

RPC_SYSTEM_NAME = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K = "gen_ai.request.top_k"
GEN_AI_REQUEST_SEED = "gen_ai.request.seed"
GEN_AI_REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_INPUT_MESSAGES = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES = "gen_ai.output.messages"
GEN_AI_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - an attribute's name, not a secret

REQUEST_ID = "tokenwire.request_id"
WORKER = "tokenwire.worker"
ENGINE = "tokenwire.engine"
ROUTE_REASON = "tokenwire.route.reason"
ROUTE_EXPECTED_TOKENS = "tokenwire.route.expected_tokens"
ROUTE_POLICY = "tokenwire.route.policy"
ROUTE_CAUSE = "tokenwire.route.cause"
CANCEL_CAUSE = "tokenwire.cancel.cause"
PROMPT_TOKENS = "tokenwire.prompt_tokens"
COMPLETION_TOKENS = "tokenwire.completion_tokens"
CACHED_PROMPT_TOKENS = "tokenwire.cached_prompt_tokens"
CARRIED_TOKENS = "tokenwire.carried_tokens"
PREFILL_ONLY = "tokenwire.prefill_only"
FETCHED_PROMPT_TOKENS = "tokenwire.fetched_prompt_tokens"
TOKEN_OFFSET = "tokenwire.token_offset"  # noqa: S105 - an attribute's name, not a secret
SIMULATED = "tokenwire.simulated"
OUTCOME = "tokenwire.outcome"
REASON = "tokenwire.reason"
CACHE_RESULT = "tokenwire.prefix_cache.result"
ENCODING_CACHE_RESULT = "tokenwire.encoding_cache.result"
TEXT_STAGE = "tokenwire.text.stage"
ATTACHED_BY = "tokenwire.attached_by"
CONVERSATION_RESULT = "tokenwire.conversation.result"
CONVERSATION_EVICTION = "tokenwire.conversation.eviction"
CONVERSATION_TOKENS = "tokenwire.conversation.tokens"
TENANT = "tokenwire.tenant"
PRIORITY_CLASS = "tokenwire.priority.class"
WORKER_STATE = "tokenwire.worker.state"
TRANSFER_GROUP = "tokenwire.transfer_group"
PROCESS = "tokenwire.process"
PROCESS_STATE = "tokenwire.process.state"

# --- values --------------------------------------------------------------------------------------

GRPC = "grpc"
PROVIDER = "tokenwire"
CHAT = "chat"
TEXT_COMPLETION = "text_completion"
INPUT = "input"
OUTPUT = "output"
HIT = "hit"
MISS = "miss"
NEW = "new"
MISMATCH = "mismatch"
BUSY = "busy"
TURN_RESULTS = (NEW, HIT, MISS, MISMATCH, BUSY)
ROOM = "room"
IDLE = "idle"
HIGH = "high"
NORMAL = "normal"
LOW = "low"
PRIORITY_CLASSES = (HIGH, NORMAL, LOW)
HANDED_OVER = "handed_over"
KEPT = "kept"
ENCODED = "encoded"

# --- spans and events ----------------------------------------------------------------------------

SPAN_LOOP = "loop"
SPAN_RENDER = "render"
SPAN_TOKENIZE = "tokenize"
SPAN_ROUTE = "route"
SPAN_QUEUE = "queue"
SPAN_PREFILL = "prefill"
SPAN_FETCH = "fetch"
SPAN_DECODE = "decode"

EVENT_FIRST_TOKEN = "tokenwire.first_token"  # noqa: S105 - an event's name, not a secret
EVENT_CANCELLED = "tokenwire.cancelled"
EVENT_MOVED = "tokenwire.moved"
