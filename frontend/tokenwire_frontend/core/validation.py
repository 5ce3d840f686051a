"""Whether a generation can be served: every violation at once, each naming its field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from tokenwire_service.errors import FieldViolation
from tokenwire_service.limits import CHOICE_OPTIONS, GUIDE_BYTES, utf8_bytes
from tokenwire_service.wording import counted, cut

from tokenwire_frontend.core.held_calls import tool_violations
from tokenwire_frontend.core.model import Ability, ModelLimits
from tokenwire_frontend.core.request import (
    ChatPrompt,
    GenerationRequest,
    Guide,
    TextPrompt,
    TokenPrompt,
)

SEQUENCE_COUNT_LIMIT = 32
"""Bound of the contract; a worker's own may be lower."""
TOP_LOGPROBS_LIMIT = 20
"""As above."""
STOP_STRINGS_LIMIT = 16
STOP_STRING_CHARS_LIMIT = 1024
STOP_TOKEN_IDS_LIMIT = 64
LOGIT_BIAS_LIMIT = 300
LOGIT_BIAS_BOUND = 100.0
"""A bias is from minus this to this."""
BANNED_WORDS_LIMIT = 64
BANNED_WORD_CHARS_LIMIT = 256
BANNED_WORD_TOKENS_LIMIT = 256
"""Of a word once it is tokenised: workers take no more."""
PROMPT_LOGPROBS_LIMIT = 512 * 1024
"""Log probabilities of a prompt, alternatives included: 10 MiB on the wire, 4 MiB in memory for as
long as a client does not read."""
CACHE_SALT_CHARS_LIMIT = 256
PRIORITY_LIMIT = 100
PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
"""Reason of a prompt with more tokens than are accepted."""
MESSAGES_LIMIT = 4096
TOOL_CALLS_LIMIT = 4096
"""Of all messages of a chat."""
CONTENT_PARTS_LIMIT = 4096
"""Of all messages of a chat."""
TOOLS_LIMIT = 1024
DOCUMENTS_LIMIT = 1024
NAME_BYTES = 80
"""Of a caller's name in an error."""
FIRST_IDS = 16 * 1024
"""Ids of a prompt that are checked together with everything else; more would hold up others, so
they are checked when they are read."""
TRUNCATED_TOKENS = 256 * 1024
"""Tokens of a prompt of which only the last are to be kept: all of them are tokenised, so that what
is kept is what the whole prompt ends with. As long as prompts of the models with the largest
contexts, a second of a tokenizer's process."""
TEMPERATURE_LIMIT = 100.0
PENALTY_LIMIT = 2.0
TIME_BUDGET_LIMIT_S = 24 * 3600.0

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{0,128}")
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})

_CHAT_LIMITS = {
    "messages": MESSAGES_LIMIT,
    "tools": TOOLS_LIMIT,
    "documents": DOCUMENTS_LIMIT,
}

Violations = Iterator[FieldViolation]


def violations(request: GenerationRequest, limits: ModelLimits) -> list[FieldViolation]:
    """Returns what is wrong with the request, by field path from `Generation`."""
    return [
        *_prompt(request, limits),
        *_sampling(request, limits),
        *_stopping(request, limits),
        *_output(request, limits),
        *_guide(request.guide, limits),
        *tool_violations(request),
        *_rest(request, limits),
        *_conversation(request),
    ]


def most_prompt_tokens(request: GenerationRequest, limits: ModelLimits) -> int:
    """Returns the most tokens that a prompt may have before it is truncated, if it is to be."""
    if request.truncate_prompt_tokens:
        return max(limits.prompt_tokens, TRUNCATED_TOKENS)
    return limits.prompt_tokens


def prompt_too_long(prompt: str, most_tokens: int) -> FieldViolation:
    """Returns what is wrong with a prompt of more tokens than are accepted.

    Args:
        prompt: how many it has, such as `at least 2 tokens`.
        most_tokens: how many it may have.
    """
    return FieldViolation("prompt", f"has {prompt}; at most {most_tokens}")


def prompt_length_violation(
    prompt_tokens: int, request: GenerationRequest, limits: ModelLimits
) -> FieldViolation | None:
    """Returns what is wrong with the prompt's length once it is known in tokens, or None."""
    if prompt_tokens == 0:
        return FieldViolation("prompt", "is empty once tokenised")
    prompt = counted(prompt_tokens, "token")
    if prompt_tokens > limits.prompt_tokens:
        return prompt_too_long(prompt, limits.prompt_tokens)
    room = limits.context_tokens - prompt_tokens
    if room < 1:
        return FieldViolation(
            "prompt",
            f"has {prompt} and leaves no room to generate in a context of {limits.context_tokens}",
        )
    wanted = request.stopping.max_tokens
    if wanted is not None and wanted > room:
        return FieldViolation(
            "stop.max_tokens",
            f"is {wanted}; a prompt of {prompt} leaves room for {room} in a context "
            f"of {limits.context_tokens}",
        )
    alternatives = request.output.prompt_logprobs
    if alternatives is not None and prompt_tokens * (1 + alternatives) > PROMPT_LOGPROBS_LIMIT:
        return FieldViolation(
            "output.prompt_logprobs",
            f"asks for {prompt_tokens * (1 + alternatives)} log probabilities of a prompt of "
            f"{prompt}; at most {PROMPT_LOGPROBS_LIMIT}",
        )
    for place, each in enumerate(request.output_so_far):
        if len(each.token_ids) > room:
            return FieldViolation(
                f"output_so_far[{place}].token_ids",
                f"has {len(each.token_ids)}; a prompt of {prompt} leaves room for {room} in a "
                f"context of {limits.context_tokens}",
            )
    if request.stopping.min_tokens > room:
        return FieldViolation(
            "stop.min_tokens",
            f"is {request.stopping.min_tokens}; the context leaves room for {room}",
        )
    return None


def _prompt(request: GenerationRequest, limits: ModelLimits) -> Violations:
    prompt = request.prompt
    if prompt is None:
        yield FieldViolation("prompt", "is not set; give `text`, `token_ids` or `chat`")
    elif isinstance(prompt, TextPrompt):
        if not prompt.text:
            yield FieldViolation("prompt.text", "is empty")
    elif isinstance(prompt, TokenPrompt):
        if not prompt.token_ids:
            yield FieldViolation("prompt.token_ids.ids", "is empty")
        yield from _ids("prompt.token_ids.ids", prompt.token_ids[:FIRST_IDS], limits)
        if request.add_special_tokens is not None:
            yield FieldViolation("prompt.add_special_tokens", "does not go with `token_ids`")
    else:
        yield from chat_violations(prompt, "prompt.chat")
    if request.truncate_prompt_tokens > limits.prompt_tokens:
        yield FieldViolation(
            "prompt.truncate_prompt_tokens",
            f"is {request.truncate_prompt_tokens}; at most {limits.prompt_tokens}",
        )


def chat_violations(chat: ChatPrompt, path: str) -> Violations:
    """Yields what is wrong with a chat that stands at `path`."""
    if not chat.messages:
        yield FieldViolation(f"{path}.messages", "is empty")
    for name, limit in _CHAT_LIMITS.items():
        if len(getattr(chat, name)) > limit:
            yield FieldViolation(f"{path}.{name}", f"has more than {limit}, which is the most")
    for index, message in enumerate(chat.messages[:MESSAGES_LIMIT]):
        at = f"{path}.messages[{index}]"
        if message.get("role") not in _ROLES:
            yield FieldViolation(f"{at}.role", "is not set, or not a role of this contract")
        for place, call in enumerate(message.get("tool_calls", ())):
            if not call["function"]["name"]:
                yield FieldViolation(f"{at}.tool_calls[{place}].name", "is empty")
    for index, tool in enumerate(chat.tools[:TOOLS_LIMIT]):
        if not tool["function"]["name"]:
            yield FieldViolation(f"{path}.tools[{index}].name", "is empty")
    if chat.add_generation_prompt and chat.continue_final_message:
        yield FieldViolation(
            f"{path}.add_generation_prompt", "does not go with `continue_final_message`"
        )


def _ids(field: str, token_ids: Sequence[int], limits: ModelLimits) -> Violations:
    if token_ids and max(token_ids) >= limits.vocabulary_size:
        index = next(i for i, token in enumerate(token_ids) if token >= limits.vocabulary_size)
        yield FieldViolation(
            f"{field}[{index}]",
            f"is {token_ids[index]}; the vocabulary has {limits.vocabulary_size} ids",
        )


def _between(
    field: str, value: float | None, low: float, high: float, *, above: bool = False
) -> Violations:
    """Checks low <= value <= high, or low < value <= high with `above`; NaN is in no range."""
    if value is None:
        return
    inside = low < value <= high if above else low <= value <= high
    if math.isnan(value) or not inside:
        bound = f"above {low:g} and" if above else f"at least {low:g} and"
        limit = "finite" if math.isinf(high) else f"at most {high:g}"
        yield FieldViolation(field, f"is {value:g}; it must be {bound} {limit}")


def _sampling(request: GenerationRequest, limits: ModelLimits) -> Violations:
    sampling = request.sampling
    yield from _between("sampling.temperature", sampling.temperature, 0, TEMPERATURE_LIMIT)
    yield from _between("sampling.top_p", sampling.top_p, 0, 1, above=True)
    yield from _between("sampling.min_p", sampling.min_p, 0, 1)
    yield from _between(
        "sampling.repetition_penalty", sampling.repetition_penalty, 0, TEMPERATURE_LIMIT, above=True
    )
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        yield from _between(f"sampling.{name}", value, -PENALTY_LIMIT, PENALTY_LIMIT)
    if sampling.min_p:
        yield from _able(Ability.MIN_P, limits)
    if sampling.logit_bias:
        yield from _logit_bias(sampling.logit_bias, limits)
    if sampling.banned_words:
        yield from _banned_words(sampling.banned_words, limits)


def _logit_bias(biases: Sequence[tuple[int, float]], limits: ModelLimits) -> Violations:
    field = Ability.LOGIT_BIAS.value
    if Ability.LOGIT_BIAS not in limits.abilities:
        yield from _able(Ability.LOGIT_BIAS, limits)
        return
    if len(biases) > LOGIT_BIAS_LIMIT:
        yield FieldViolation(field, f"has more than {LOGIT_BIAS_LIMIT}, which is the most")
    seen: set[int] = set()
    for place, (token_id, bias) in enumerate(biases[:LOGIT_BIAS_LIMIT]):
        at = f"{field}[{place}]"
        if token_id >= limits.vocabulary_size:
            yield FieldViolation(
                f"{at}.token_id",
                f"is {token_id}; the vocabulary has {limits.vocabulary_size} ids",
            )
        elif token_id in seen:
            yield FieldViolation(f"{at}.token_id", f"is {token_id}, which came before")
        seen.add(token_id)
        yield from _between(f"{at}.bias", bias, -LOGIT_BIAS_BOUND, LOGIT_BIAS_BOUND)


def _banned_words(words: Sequence[str], limits: ModelLimits) -> Violations:
    field = Ability.BANNED_WORDS.value
    if Ability.BANNED_WORDS not in limits.abilities:
        yield from _able(Ability.BANNED_WORDS, limits)
        return
    if len(words) > BANNED_WORDS_LIMIT:
        yield FieldViolation(field, f"has more than {BANNED_WORDS_LIMIT}, which is the most")
    for place, word in enumerate(words[:BANNED_WORDS_LIMIT]):
        if not 1 <= len(word) <= BANNED_WORD_CHARS_LIMIT:
            yield FieldViolation(
                f"{field}[{place}]", f"has {len(word)} characters; 1 to {BANNED_WORD_CHARS_LIMIT}"
            )


def _stopping(request: GenerationRequest, limits: ModelLimits) -> Violations:
    stopping = request.stopping
    if stopping.max_tokens == 0:
        yield FieldViolation("stop.max_tokens", "is 0; at least 1, or unset for all the context")
    if stopping.max_tokens and stopping.min_tokens > stopping.max_tokens:
        yield FieldViolation(
            "stop.min_tokens", f"is {stopping.min_tokens}, above max_tokens {stopping.max_tokens}"
        )
    if len(stopping.stop) > STOP_STRINGS_LIMIT:
        yield FieldViolation("stop.stop", f"has more than {STOP_STRINGS_LIMIT}, which is the most")
    for index, text in enumerate(stopping.stop):
        if not 1 <= len(text) <= STOP_STRING_CHARS_LIMIT:
            yield FieldViolation(
                f"stop.stop[{index}]",
                f"has {len(text)} characters; 1 to {STOP_STRING_CHARS_LIMIT}",
            )
    if len(stopping.stop_token_ids) > STOP_TOKEN_IDS_LIMIT:
        yield FieldViolation(
            "stop.stop_token_ids", f"has more than {STOP_TOKEN_IDS_LIMIT}, which is the most"
        )
    yield from _ids("stop.stop_token_ids", stopping.stop_token_ids, limits)


def _output(request: GenerationRequest, limits: ModelLimits) -> Violations:
    output = request.output
    if output.logprobs:
        yield from _able(Ability.LOGPROBS, limits)
    if output.prompt_logprobs is not None:
        if Ability.PROMPT_LOGPROBS not in limits.abilities:
            yield from _able(Ability.PROMPT_LOGPROBS, limits)
        elif output.prompt_logprobs > limits.top_logprobs:
            yield FieldViolation(
                "output.prompt_logprobs",
                f"is {output.prompt_logprobs}; at most {limits.top_logprobs}",
            )
    if not output.top_logprobs:
        return
    if not output.logprobs:
        yield FieldViolation("output.top_logprobs", "needs `logprobs`")
    if Ability.TOP_LOGPROBS not in limits.abilities:
        yield from _able(Ability.TOP_LOGPROBS, limits)
    elif output.top_logprobs > limits.top_logprobs:
        yield FieldViolation(
            "output.top_logprobs", f"is {output.top_logprobs}; at most {limits.top_logprobs}"
        )


def _guide(guide: Guide | None, limits: ModelLimits) -> Violations:
    if guide is None:
        return
    yield from _able(guide.form, limits)
    field = guide.form.value
    if guide.form is Ability.GUIDED_CHOICE:
        field += ".options"
        if not 1 <= len(guide.options) <= CHOICE_OPTIONS:
            yield FieldViolation(
                field, f"has none, or more than {CHOICE_OPTIONS}, which is the most"
            )
        for index, option in enumerate(guide.options):
            if not option:
                yield FieldViolation(f"{field}[{index}]", "is empty")
    elif guide.form is not Ability.GUIDED_JSON_OBJECT and not guide.text:
        yield FieldViolation(field, "is empty")
    size = utf8_bytes(guide.text) + sum(map(utf8_bytes, guide.options))
    if size > GUIDE_BYTES:
        yield FieldViolation(field, f"has {size} bytes; at most {GUIDE_BYTES}")


def _so_far(request: GenerationRequest, limits: ModelLimits) -> Violations:
    given = len(request.output_so_far)
    if given != request.sequence_count:
        yield FieldViolation(
            "output_so_far",
            f"has {given}; one for each of {counted(request.sequence_count, 'sequence')}",
        )
    most = request.stopping.max_tokens or limits.context_tokens
    for place, each in enumerate(request.output_so_far[:SEQUENCE_COUNT_LIMIT]):
        if len(each.token_ids) > most:
            yield FieldViolation(
                f"output_so_far[{place}].token_ids",
                f"has {len(each.token_ids)}; at most {most}",
            )


def _rest(request: GenerationRequest, limits: ModelLimits) -> Violations:
    if request.sequence_count > limits.sequence_count:
        yield FieldViolation(
            "sequence_count", f"is {request.sequence_count}; at most {limits.sequence_count}"
        )
    if request.output_so_far:
        yield from _so_far(request, limits)
    if request.lora_adapter and request.lora_adapter not in limits.lora_adapters:
        known = ", ".join(sorted(limits.lora_adapters)) or "none"
        name = cut(request.lora_adapter, NAME_BYTES)
        yield FieldViolation(
            "lora_adapter", f"{name!r} is not among this model's adapters ({known})"
        )
    if request.cache_salt:
        yield from _able(Ability.CACHE_SALT, limits)
        if len(request.cache_salt) > CACHE_SALT_CHARS_LIMIT:
            yield FieldViolation(
                "cache_salt",
                f"has {len(request.cache_salt)} characters; at most {CACHE_SALT_CHARS_LIMIT}",
            )
    if not -PRIORITY_LIMIT <= request.priority <= PRIORITY_LIMIT:
        yield FieldViolation(
            "priority", f"is {request.priority}; {-PRIORITY_LIMIT} to {PRIORITY_LIMIT}"
        )
    if not REQUEST_ID.fullmatch(request.request_id):
        yield FieldViolation("request_id", "is not up to 128 of A-Z a-z 0-9 . _ : -")
    if request.time_budget_s is not None:
        yield from _between(
            "time_budget", request.time_budget_s, 0, TIME_BUDGET_LIMIT_S, above=True
        )


def _conversation(request: GenerationRequest) -> Violations:
    turn, prompt = request.conversation, request.prompt
    if turn is None:
        return
    if not turn.id or not REQUEST_ID.fullmatch(turn.id):
        yield FieldViolation("conversation.id", "is not 1 to 128 of A-Z a-z 0-9 . _ : -")
    if request.sequence_count != 1:
        yield FieldViolation("conversation", "needs `sequence_count` 1")
    # The ids that are kept are those of the whole chat's text, from its first character on.
    apart = "does not go with `conversation`"
    if request.add_special_tokens:
        yield FieldViolation("prompt.add_special_tokens", apart)
    if request.truncate_prompt_tokens:
        yield FieldViolation("prompt.truncate_prompt_tokens", apart)
    if not isinstance(prompt, ChatPrompt):
        yield FieldViolation("conversation", "needs `prompt.chat`")
    elif prompt.continue_final_message:
        yield FieldViolation("prompt.chat.continue_final_message", apart)
    elif not prompt.add_generation_prompt:
        yield FieldViolation("prompt.chat.add_generation_prompt", f"is false; it {apart}")


def _able(ability: Ability, limits: ModelLimits) -> Violations:
    if ability not in limits.abilities:
        yield FieldViolation(ability.value, "is not supported by every worker of this model")
