"""Every span, attribute and event name that Tokenwire's services write.

RPC names follow the OpenTelemetry RPC conventions as of 1.44 (release candidate), gen_ai names the
GenAI conventions (in development, no schema URL yet). Names under `tokenwire.` are our own.
"""

RPC_SYSTEM_NAME = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"

GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

REQUEST_ID = "tokenwire.request_id"
WORKER = "tokenwire.worker"
ROUTE_REASON = "tokenwire.route.reason"
CANCEL_CAUSE = "tokenwire.cancel.cause"
SIMULATED = "tokenwire.simulated"
FIRST_TOKEN = "tokenwire.first_token"  # noqa: S105 - an event's name, not a secret

SPAN_QUEUE = "queue"
SPAN_PREFILL = "prefill"
SPAN_DECODE = "decode"

GRPC = "grpc"
TEXT_COMPLETION = "text_completion"
PROVIDER = "tokenwire"
