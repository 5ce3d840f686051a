"""Every span and metric that Tokenwire's services write: what is not declared here does not exist.

Instruments are made from these declarations, `docs/telemetry.md` is written from them, and tests
hold what the services send to them, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tokenwire_service.telemetry import semconv as names

FRONTEND = "tokenwire-frontend"
WORKER = "tokenwire-worker"
BOTH = (FRONTEND, WORKER)

GEN_AI_DURATION_BOUNDS_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""As the gen_ai conventions advise for the duration of a request."""

GEN_AI_FIRST_TOKEN_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
GEN_AI_PER_TOKEN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
"""As the conventions advise, and three below: small models on a GPU make a token in 2 ms."""

RPC_DURATION_BOUNDS_S = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""As the RPC conventions advise."""

SHORT_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
"""For what takes microseconds when all is well: tokenising, engine steps, the event loop."""

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sequences of one engine step: batch sizes are chosen as powers of two."""


class Kind(Enum):
    """What a metric's values are."""

    HISTOGRAM = "histogram"
    COUNTER = "counter"
    """Only grows."""
    GAUGE = "gauge"


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    """By UCUM: `s`, `1` for a share of one, and what is counted in braces."""
    description: str
    attributes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    """Attributes that not every value has."""
    services: tuple[str, ...] = BOTH
    bounds: tuple[float, ...] = field(default=(), repr=False)
    """A histogram's bucket bounds."""

    @property
    def prometheus_name(self) -> str:
        """The name in the Prometheus exposition, which carries unit and kind."""
        suffix = {"s": "_seconds", "1": "_ratio"}.get(self.unit, "")
        total = "_total" if self.kind is Kind.COUNTER else ""
        return self.name.replace(".", "_") + suffix + total


@dataclass(frozen=True)
class SpanForm:
    """One kind of span."""

    name: str
    """`{…}` stands for a value."""
    kind: str
    """Of OpenTelemetry's span kinds."""
    description: str
    services: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    """Attributes that not every such span has."""
    events: tuple[str, ...] = ()


_GEN_AI = (names.GEN_AI_OPERATION_NAME, names.GEN_AI_PROVIDER_NAME, names.GEN_AI_REQUEST_MODEL)
_RPC = (names.RPC_SYSTEM_NAME, names.RPC_METHOD, names.RPC_STATUS_CODE)
_HTTP = (names.HTTP_REQUEST_METHOD, names.HTTP_ROUTE, names.HTTP_RESPONSE_STATUS_CODE)
_ERROR = (names.ERROR_TYPE,)

# --- metrics -------------------------------------------------------------------------------------

REQUEST_DURATION = Metric(
    "gen_ai.server.request.duration", Kind.HISTOGRAM, "s",
    "Time from a generation's receipt to its end, of those that were accepted.",
    _GEN_AI, _ERROR, bounds=GEN_AI_DURATION_BOUNDS_S,
)  # fmt: skip
TIME_TO_FIRST_TOKEN = Metric(
    "gen_ai.server.time_to_first_token", Kind.HISTOGRAM, "s",
    "Time from a generation's receipt to its first token.",
    _GEN_AI, bounds=GEN_AI_FIRST_TOKEN_BOUNDS_S,
)  # fmt: skip
TIME_PER_OUTPUT_TOKEN = Metric(
    "gen_ai.server.time_per_output_token", Kind.HISTOGRAM, "s",
    "A generation's mean time from token to token after the first.",
    _GEN_AI, bounds=GEN_AI_PER_TOKEN_BOUNDS_S,
)  # fmt: skip
RPC_SERVER_DURATION = Metric(
    "rpc.server.call.duration", Kind.HISTOGRAM, "s",
    "Time of each call of Tokenwire's own services, until a stream's end.",
    _RPC, _ERROR, bounds=RPC_DURATION_BOUNDS_S,
)  # fmt: skip
HTTP_SERVER_DURATION = Metric(
    "http.server.request.duration", Kind.HISTOGRAM, "s",
    "Time of each request of the OpenAI-compatible interface, until a stream's end.",
    _HTTP, _ERROR, (FRONTEND,), RPC_DURATION_BOUNDS_S,
)  # fmt: skip
RPC_CLIENT_DURATION = Metric(
    "rpc.client.call.duration", Kind.HISTOGRAM, "s",
    "Time of each generation at a worker, as the frontend sees it on the stream that they share.",
    (*_RPC, names.SERVER_ADDRESS, names.SERVER_PORT), _ERROR, (FRONTEND,), RPC_DURATION_BOUNDS_S,
)  # fmt: skip
GENERATIONS = Metric(
    "tokenwire.generations", Kind.COUNTER, "{generation}",
    "Generations that ended: completed, cancelled, refused or failed, and why.",
    (names.GEN_AI_REQUEST_MODEL, names.OUTCOME, names.REASON),
)  # fmt: skip
TOKENS = Metric(
    "tokenwire.tokens", Kind.COUNTER, "{token}",
    "Prompt tokens of accepted generations (input), and generated tokens as they come (output).",
    (names.GEN_AI_REQUEST_MODEL, names.GEN_AI_TOKEN_TYPE),
)  # fmt: skip
PREFIX_CACHE_TOKENS = Metric(
    "tokenwire.prefix_cache.tokens", Kind.COUNTER, "{token}",
    "Prompt tokens found in the KV cache (hit) or not (miss), of engines that tell.",
    (names.GEN_AI_REQUEST_MODEL, names.CACHE_RESULT),
)  # fmt: skip
EXPECTED_CACHE_TOKENS = Metric(
    "tokenwire.frontend.expected_cache_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens of the same generations that prefix routing expected in the KV cache: far above "
    "tokenwire.prefix_cache.tokens (hit), it knows too little of the workers' caches.",
    (names.GEN_AI_REQUEST_MODEL,), services=(FRONTEND,),
)  # fmt: skip
KV_INDEX_BLOCKS = Metric(
    "tokenwire.frontend.kv_index.blocks", Kind.GAUGE, "{block}",
    "KV blocks of all workers that prefix routing knows of; at most --routing-index-mib.",
    services=(FRONTEND,),
)  # fmt: skip
ROUTED = Metric(
    "tokenwire.frontend.routed", Kind.COUNTER, "{request}",
    "Requests for which a worker was chosen, tries at further workers included, by the policy and "
    "by why it was this worker (docs/operations.md#routing).",
    (names.GEN_AI_REQUEST_MODEL, names.ROUTE_POLICY, names.ROUTE_CAUSE), services=(FRONTEND,),
)  # fmt: skip
EVENT_LOOP_LAG = Metric(
    "tokenwire.event_loop.lag", Kind.HISTOGRAM, "s",
    "How late the event loop runs a timer, sampled ten times a second.",
    optional=(names.PROCESS,), bounds=SHORT_BOUNDS_S,
)  # fmt: skip

ACTIVE_GENERATIONS = Metric(
    "tokenwire.frontend.active_generations", Kind.GAUGE, "{generation}",
    "Generations in this frontend.", services=(FRONTEND,),
)  # fmt: skip
GENERATIONS_LIMIT = Metric(
    "tokenwire.frontend.generations_limit", Kind.GAUGE, "{generation}",
    "Generations that this frontend holds at most.", services=(FRONTEND,),
)  # fmt: skip
QUEUED_REQUESTS = Metric(
    "tokenwire.frontend.queued_requests", Kind.GAUGE, "{request}",
    "Requests that wait for a worker with room, by priority: above 0, 0 and below.",
    (names.GEN_AI_REQUEST_MODEL, names.PRIORITY_CLASS), services=(FRONTEND,),
)  # fmt: skip
FRONTEND_QUEUE_DURATION = Metric(
    "tokenwire.frontend.queue.duration", Kind.HISTOGRAM, "s",
    "Time that a request waited for a worker with room, of those that had to and were not "
    "cancelled. Tenants that the tenants file does not name are one: other.",
    (names.TENANT,), services=(FRONTEND,), bounds=GEN_AI_DURATION_BOUNDS_S,
)  # fmt: skip
REFUSALS = Metric(
    "tokenwire.frontend.refusals", Kind.COUNTER, "{request}",
    "Requests refused with RESOURCE_EXHAUSTED before a worker was sent them, by tenant as above.",
    (names.TENANT, names.REASON), services=(FRONTEND,),
)  # fmt: skip
TOKENIZER_WAITING = Metric(
    "tokenwire.frontend.tokenizer_texts", Kind.GAUGE, "{text}",
    "Texts in and before the tokenizer.", services=(FRONTEND,),
)  # fmt: skip
ENCODING_CACHE_TEXTS = Metric(
    "tokenwire.frontend.encoding_cache.texts", Kind.COUNTER, "{text}",
    "Texts between special tokens that the tokenizer processes remembered (hit) or encoded (miss).",
    (names.ENCODING_CACHE_RESULT,), services=(FRONTEND,),
)  # fmt: skip
ENCODING_CACHE_TEXT_BYTES = Metric(
    "tokenwire.frontend.encoding_cache.text_bytes", Kind.COUNTER, "By",
    "UTF-8 of these texts: how much encoding was saved.",
    (names.ENCODING_CACHE_RESULT,), services=(FRONTEND,),
)  # fmt: skip
ENCODING_CACHE_HELD = Metric(
    "tokenwire.frontend.encoding_cache.held_bytes", Kind.GAUGE, "By",
    "Texts and ids that the tokenizer processes remember now.", services=(FRONTEND,),
)  # fmt: skip
CONVERSATIONS = Metric(
    "tokenwire.frontend.conversations", Kind.GAUGE, "{conversation}",
    "Conversations that this frontend keeps between two turns.", services=(FRONTEND,),
)  # fmt: skip
CONVERSATION_BYTES = Metric(
    "tokenwire.frontend.conversation_bytes", Kind.GAUGE, "By",
    "Messages, texts and token ids of these conversations.", services=(FRONTEND,),
)  # fmt: skip
CONVERSATION_TURNS = Metric(
    "tokenwire.frontend.conversation_turns", Kind.COUNTER, "{turn}",
    "Turns of conversations: begun anew (new), held here (hit), not held (miss), held with another "
    "count of messages (mismatch), or in a turn already (busy).",
    (names.CONVERSATION_RESULT,), services=(FRONTEND,),
)  # fmt: skip
CONVERSATION_EVICTIONS = Metric(
    "tokenwire.frontend.conversation_evictions", Kind.COUNTER, "{conversation}",
    "Conversations dropped, for want of room (room) or after --conversation-ttl-s (idle).",
    (names.CONVERSATION_EVICTION,), services=(FRONTEND,),
)  # fmt: skip
CONVERSATION_TOKENS = Metric(
    "tokenwire.frontend.conversation_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens of conversations' turns: kept from the turn before, or encoded.",
    (names.CONVERSATION_TOKENS,), services=(FRONTEND,),
)  # fmt: skip
TEXT_DURATION = Metric(
    "tokenwire.frontend.text.duration", Kind.HISTOGRAM, "s",
    "Time to render a chat and to tokenise a prompt.",
    (names.TEXT_STAGE,), services=(FRONTEND,), bounds=SHORT_BOUNDS_S,
)  # fmt: skip
DELTAS = Metric(
    "tokenwire.frontend.deltas", Kind.COUNTER, "{delta}",
    "Deltas that clients took; output tokens for each delta tell how far they merge.",
    (names.GEN_AI_REQUEST_MODEL,), services=(FRONTEND,),
)  # fmt: skip
KEPT_GENERATIONS = Metric(
    "tokenwire.frontend.kept_generations", Kind.GAUGE, "{generation}",
    "Generations that outlive their calls, running or ended.", services=(FRONTEND,),
)  # fmt: skip
RETAINED_BYTES = Metric(
    "tokenwire.frontend.retained_bytes", Kind.GAUGE, "By",
    "What counts for them towards --retained-bytes.", services=(FRONTEND,),
)  # fmt: skip
ATTACHES = Metric(
    "tokenwire.frontend.attaches", Kind.COUNTER, "{call}",
    "Times that a caller came to a generation which was there, by token or by idempotency key.",
    (names.ATTACHED_BY,), services=(FRONTEND,),
)  # fmt: skip
KEPT_DROPPED = Metric(
    "tokenwire.frontend.kept_dropped", Kind.COUNTER, "{generation}",
    "Kept generations that were dropped: no caller came in time (expired), or for room (evicted).",
    (names.REASON,), services=(FRONTEND,),
)  # fmt: skip
MOVES = Metric(
    "tokenwire.frontend.moves", Kind.COUNTER, "{move}",
    "Generations, or single sequences of them, that another worker had to go on with, by the "
    "reason for which the worker before was lost.",
    (names.GEN_AI_REQUEST_MODEL, names.ERROR_TYPE), services=(FRONTEND,),
)  # fmt: skip
PREFILLS = Metric(
    "tokenwire.frontend.prefills", Kind.COUNTER, "{prompt}",
    "Prompts sent to a worker for prefill, by what came of it: handed_over, or the reason for "
    "which it was not.",
    (names.GEN_AI_REQUEST_MODEL, names.REASON), services=(FRONTEND,),
)  # fmt: skip
PAIRED_GROUPS = Metric(
    "tokenwire.frontend.paired_groups", Kind.GAUGE, "{group}",
    "Transfer groups in which prompts were fetched: 1 while every long prompt is computed by one "
    "worker for another, 0 while that is stopped because fetching took too long "
    "(docs/disaggregation.md).",
    (names.GEN_AI_REQUEST_MODEL, names.TRANSFER_GROUP), (names.PROCESS,), services=(FRONTEND,),
)  # fmt: skip
WORKERS = Metric(
    "tokenwire.frontend.workers", Kind.GAUGE, "{worker}",
    "Workers that this frontend knows, by state.",
    (names.WORKER_STATE,), (names.PROCESS,), services=(FRONTEND,),
)  # fmt: skip
PROCESSES = Metric(
    "tokenwire.frontend.processes", Kind.GAUGE, "{process}",
    "Processes that serve for a frontend of several, by state.",
    (names.PROCESS_STATE,), services=(FRONTEND,),
)  # fmt: skip
PROCESS_RESTARTS = Metric(
    "tokenwire.frontend.process_restarts", Kind.COUNTER, "{restart}",
    "Times that one of several processes was started again because it had ended by itself.",
    (names.PROCESS,), services=(FRONTEND,),
)  # fmt: skip

FETCHED_TOKENS = Metric(
    "tokenwire.worker.fetched_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens whose KV cache was fetched from another worker, of engines that tell.",
    (names.GEN_AI_REQUEST_MODEL,), services=(WORKER,),
)  # fmt: skip
RUNNING_SEQUENCES = Metric(
    "tokenwire.worker.running_sequences", Kind.GAUGE, "{sequence}",
    "Sequences in the engine.", services=(WORKER,),
)  # fmt: skip
RUNNING_LIMIT = Metric(
    "tokenwire.worker.running_sequences_limit", Kind.GAUGE, "{sequence}",
    "Sequences that the engine runs at once.", services=(WORKER,),
)  # fmt: skip
WAITING_REQUESTS = Metric(
    "tokenwire.worker.waiting_requests", Kind.GAUGE, "{request}",
    "Requests that wait for the engine.", services=(WORKER,),
)  # fmt: skip
WAITING_LIMIT = Metric(
    "tokenwire.worker.waiting_requests_limit", Kind.GAUGE, "{request}",
    "Requests that may wait for the engine.", services=(WORKER,),
)  # fmt: skip
KV_CACHE_USAGE = Metric(
    "tokenwire.worker.kv_cache.usage", Kind.GAUGE, "1",
    "Share of the KV cache in use.", services=(WORKER,),
)  # fmt: skip
KV_BLOCKS_USED = Metric(
    "tokenwire.worker.kv_blocks.used", Kind.GAUGE, "{block}",
    "KV cache blocks in use, where the engine tells how many there are.", services=(WORKER,),
)  # fmt: skip
KV_BLOCKS_CAPACITY = Metric(
    "tokenwire.worker.kv_blocks.capacity", Kind.GAUGE, "{block}",
    "KV cache blocks, where the engine tells.", services=(WORKER,),
)  # fmt: skip
STEP_DURATION = Metric(
    "tokenwire.worker.step.duration", Kind.HISTOGRAM, "s",
    "Time of one engine step.", services=(WORKER,), bounds=SHORT_BOUNDS_S,
)  # fmt: skip
STEP_SEQUENCES = Metric(
    "tokenwire.worker.step.sequences", Kind.HISTOGRAM, "{sequence}",
    "Sequences that an engine step brought tokens to: the batch size.",
    services=(WORKER,), bounds=BATCH_BOUNDS,
)  # fmt: skip
QUEUE_DURATION = Metric(
    "tokenwire.worker.queue.duration", Kind.HISTOGRAM, "s",
    "Time that a generation waited until the engine took it up.",
    (names.GEN_AI_REQUEST_MODEL,), services=(WORKER,), bounds=GEN_AI_FIRST_TOKEN_BOUNDS_S,
)  # fmt: skip

METRICS = tuple(each for each in list(globals().values()) if isinstance(each, Metric))

# --- spans ---------------------------------------------------------------------------------------

_USAGE = (
    names.GEN_AI_USAGE_INPUT_TOKENS,
    names.GEN_AI_USAGE_OUTPUT_TOKENS,
    names.GEN_AI_USAGE_CACHED_TOKENS,
)
"""Of the frontend's span of a generation alone, so that a sum over spans counts each once."""
_WORKERS_USAGE = (names.PROMPT_TOKENS, names.COMPLETION_TOKENS, names.CACHED_PROMPT_TOKENS)
_GENERATION_ENDS = (
    names.GEN_AI_RESPONSE_FINISH_REASONS,
    names.GEN_AI_REQUEST_MAX_TOKENS,
    names.CANCEL_CAUSE,
    names.ERROR_TYPE,
)

SPANS = (
    SpanForm(
        "{rpc.method}", "SERVER", "A call of one of Tokenwire's own services.", BOTH, _RPC, _ERROR
    ),
    SpanForm(
        "{http.request.method} {http.route}", "SERVER",
        "A request of the OpenAI-compatible interface; its route is `other` where no such path is "
        "served.", (FRONTEND,), _HTTP, _ERROR,
    ),
    SpanForm(
        "{gen_ai.operation.name} {gen_ai.request.model}", "INTERNAL",
        "A generation in the frontend, from receipt to end.", (FRONTEND,),
        (*_GEN_AI, names.REQUEST_ID),
        (
            *_USAGE, *_GENERATION_ENDS, names.WORKER, names.ROUTE_REASON,
            names.ROUTE_EXPECTED_TOKENS,
            names.GEN_AI_REQUEST_TEMPERATURE, names.GEN_AI_REQUEST_TOP_P,
            names.GEN_AI_REQUEST_TOP_K, names.GEN_AI_REQUEST_SEED,
            names.GEN_AI_REQUEST_CHOICE_COUNT, names.GEN_AI_INPUT_MESSAGES,
            names.GEN_AI_OUTPUT_MESSAGES,
        ),
        (names.EVENT_FIRST_TOKEN, names.EVENT_CANCELLED, names.EVENT_MOVED),
    ),
    SpanForm(
        names.SPAN_LOOP, "INTERNAL",
        "The call waits for an event loop that is behind, as far as the loop's last lag tells.",
        (FRONTEND,),
    ),
    SpanForm(
        names.SPAN_QUEUE, "INTERNAL", "The generation waits for a worker with room.", (FRONTEND,)
    ),
    SpanForm(names.SPAN_RENDER, "INTERNAL", "The chat template renders the chat.", (FRONTEND,)),
    SpanForm(names.SPAN_TOKENIZE, "INTERNAL", "The prompt becomes token ids.", (FRONTEND,)),
    SpanForm(
        names.SPAN_ROUTE, "INTERNAL", "A worker is chosen and the generation sent to it.",
        (FRONTEND,), (names.WORKER, names.ROUTE_REASON), (names.ROUTE_EXPECTED_TOKENS,),
    ),
    SpanForm(
        "{rpc.method}", "CLIENT", "A generation at a worker, on the stream that they share.",
        (FRONTEND,), (*_RPC, names.SERVER_ADDRESS, names.SERVER_PORT), _ERROR,
    ),
    SpanForm(
        "{gen_ai.operation.name} {gen_ai.request.model}", "SERVER",
        "A generation in a worker, from receipt to end. INTERNAL under a call of Execute.",
        (WORKER,),
        (*_GEN_AI, names.REQUEST_ID, names.WORKER, names.ENGINE),
        (
            *_WORKERS_USAGE, *_GENERATION_ENDS, names.CARRIED_TOKENS, names.PREFILL_ONLY,
            names.FETCHED_PROMPT_TOKENS, names.SIMULATED,
        ),
        (names.EVENT_FIRST_TOKEN, names.EVENT_CANCELLED),
    ),
    SpanForm(names.SPAN_QUEUE, "INTERNAL", "The generation waits for the engine.", (WORKER,)),
    SpanForm(
        names.SPAN_PREFILL, "INTERNAL",
        "From the engine's taking it up to the first token, or to the end of a prompt that another "
        "worker goes on with.", (WORKER,),
    ),
    SpanForm(
        names.SPAN_FETCH, "INTERNAL",
        "The same where the KV cache of the prompt was to be fetched from another worker.",
        (WORKER,),
    ),
    SpanForm(names.SPAN_DECODE, "INTERNAL", "From the first token to the last.", (WORKER,)),
)  # fmt: skip

EVENTS = {
    names.EVENT_FIRST_TOKEN: (),
    names.EVENT_CANCELLED: (names.CANCEL_CAUSE,),
    names.EVENT_MOVED: (names.ERROR_TYPE, names.TOKEN_OFFSET),
}
"""Attributes of each event."""
