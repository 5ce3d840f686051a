"""The public contract's messages as plain values."""

from __future__ import annotations

import sys
from typing import Any

from google.protobuf import duration_pb2
from tokenwire.frontend.v1 import generation_pb2, options_pb2, prompt_pb2
from tokenwire_service.errors import invalid
from tokenwire_service.limits import CHOICE_OPTIONS

from tokenwire_frontend.core.events import Content, Delivery
from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.request import (
    ChatPrompt,
    ConversationTurn,
    GenerationRequest,
    Guide,
    Output,
    Prompt,
    Sampling,
    SoFar,
    Stopping,
    TextPrompt,
    TokenPrompt,
    ToolChoice,
    ToolMode,
)
from tokenwire_frontend.core.validation import (
    BANNED_WORDS_LIMIT,
    CONTENT_PARTS_LIMIT,
    DOCUMENTS_LIMIT,
    LOGIT_BIAS_LIMIT,
    MESSAGES_LIMIT,
    SEQUENCE_COUNT_LIMIT,
    STOP_STRINGS_LIMIT,
    STOP_TOKEN_IDS_LIMIT,
    TOOL_CALLS_LIMIT,
    TOOLS_LIMIT,
)

MAX_DELAY_LIMIT_S = 10.0

DURATION_LIMIT_S = 315_576_000_000
"""Of google.protobuf.Duration: 10,000 years."""

_ROLES = {
    prompt_pb2.ROLE_SYSTEM: "system",
    prompt_pb2.ROLE_USER: "user",
    prompt_pb2.ROLE_ASSISTANT: "assistant",
    prompt_pb2.ROLE_TOOL: "tool",
    prompt_pb2.ROLE_DEVELOPER: "developer",
    prompt_pb2.ROLE_FUNCTION: "function",
}


_TOOL_MODES = {
    prompt_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: ToolMode.AUTO,
    prompt_pb2.TOOL_CHOICE_MODE_AUTO: ToolMode.AUTO,
    prompt_pb2.TOOL_CHOICE_MODE_NONE: ToolMode.NONE,
    prompt_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolMode.REQUIRED,
}


_CONTENTS = {
    options_pb2.STREAM_CONTENT_UNSPECIFIED: Content.TEXT_AND_IDS,
    options_pb2.STREAM_CONTENT_TEXT_AND_IDS: Content.TEXT_AND_IDS,
    options_pb2.STREAM_CONTENT_TEXT: Content.TEXT,
    options_pb2.STREAM_CONTENT_IDS: Content.IDS,
}


# Of requests that do not ask for anything else.
_SAMPLING, _STOPPING, _TOOL_CHOICE = Sampling(), Stopping(), ToolChoice()


def generation_request(message: generation_pb2.Generation) -> GenerationRequest:
    """Reads a generation; what it holds is checked by core.validation.

    Raises:
        InvalidRequestError: a duration or a guide that can't be read at all, or too many calls.
    """
    prompt = message.prompt
    special = prompt.HasField("add_special_tokens")
    return GenerationRequest(
        prompt=_prompt(prompt),
        model=message.model,
        add_special_tokens=prompt.add_special_tokens if special else None,
        truncate_prompt_tokens=prompt.truncate_prompt_tokens,
        sampling=_sampling(message.sampling) if message.HasField("sampling") else _SAMPLING,
        stopping=_stopping(message.stop) if message.HasField("stop") else _STOPPING,
        output=_output(message.output, is_chat=prompt.HasField("chat")),
        guide=_guide(message),
        tool_choice=_tool_choice(prompt.chat) if prompt.HasField("chat") else _TOOL_CHOICE,
        sequence_count=message.sequence_count or 1,
        lora_adapter=message.lora_adapter,
        cache_salt=message.cache_salt,
        priority=message.priority,
        request_id=message.request_id,
        time_budget_s=(
            seconds(message.time_budget, "time_budget") if message.HasField("time_budget") else None
        ),
        conversation=(
            ConversationTurn(message.conversation.id, message.conversation.messages)
            if message.HasField("conversation")
            else None
        ),
        output_so_far=tuple(
            SoFar(each.token_ids, each.ended)
            for each in message.output_so_far[: SEQUENCE_COUNT_LIMIT + 1]
        ),
    )


def delivery(message: options_pb2.StreamOptions, field: str) -> Delivery:
    """Reads how deltas are put into messages; `field` is the message's own path.

    Raises:
        InvalidRequestError: the delay is out of bounds, or the content unknown.
    """
    delay_s = seconds(message.max_delay, f"{field}.max_delay")
    if not 0 <= delay_s <= MAX_DELAY_LIMIT_S:
        raise invalid(
            f"{field}.max_delay",
            f"is {delay_s:g} s; at least 0 and at most {MAX_DELAY_LIMIT_S:g} s",
        )
    if message.content not in _CONTENTS:
        raise invalid(f"{field}.content", "is not a content of this contract")
    return Delivery(delay_s, message.max_tokens or sys.maxsize, _CONTENTS[message.content])


def chat_prompt(chat: prompt_pb2.Chat, field: str) -> ChatPrompt:
    """Reads a chat that stands at `field`, in the form that chat templates take.

    Of a list that is too long, only so much is read that core.validation refuses it.

    Raises:
        InvalidRequestError: too many calls of tools, or parts, or an unknown choice of tools.
    """
    if chat.tool_choice.mode not in _TOOL_MODES:
        raise invalid(f"{field}.tool_choice.mode", "is not a mode of this contract")
    messages = chat.messages[: MESSAGES_LIMIT + 1]
    parts = sum(len(message.content_parts) for message in messages)
    if parts > CONTENT_PARTS_LIMIT:
        raise invalid(
            f"{field}.messages", f"have {parts} content_parts; at most {CONTENT_PARTS_LIMIT} in all"
        )
    calls = sum(len(message.tool_calls) for message in messages)
    if calls > TOOL_CALLS_LIMIT:
        raise invalid(
            f"{field}.messages", f"have {calls} tool_calls; at most {TOOL_CALLS_LIMIT} in all"
        )
    asked = chat.HasField("add_generation_prompt")
    return ChatPrompt(
        messages=[
            _message(message, f"{field}.messages[{index}]")
            for index, message in enumerate(messages)
        ],
        tools=[
            _function(
                name=tool.name,
                **_given(description=tool.description, parameters=tool.parameters),
            )
            for tool in chat.tools[: TOOLS_LIMIT + 1]
            if chat.tool_choice.mode != prompt_pb2.TOOL_CHOICE_MODE_NONE
        ],
        documents=[
            {**_given(title=each.title), "text": each.text}
            for each in chat.documents[: DOCUMENTS_LIMIT + 1]
        ],
        add_generation_prompt=(
            chat.add_generation_prompt if asked else not chat.continue_final_message
        ),
        continue_final_message=chat.continue_final_message,
        template_arguments=chat.template_arguments,
        escape_control_tokens=chat.escape_control_tokens,
    )


def _prompt(message: prompt_pb2.Prompt) -> Prompt | None:
    form = message.WhichOneof("content")
    if form == "text":
        return TextPrompt(message.text)
    if form == "token_ids":
        return TokenPrompt(message.token_ids.ids)
    if form == "chat":
        return chat_prompt(message.chat, "prompt.chat")
    return None


def _content(message: prompt_pb2.ChatMessage, at: str) -> dict[str, Any]:
    """Returns the message's content under its key, in the form that chat templates take."""
    has_text, parts = message.HasField("content"), message.content_parts
    if has_text and parts:
        raise invalid(f"{at}.content_parts", "does not go with `content`")
    if message.omit_content:
        if has_text or parts:
            raise invalid(f"{at}.omit_content", "does not go with a content")
        return {}
    if not parts:
        return {"content": message.content if has_text else None}
    for place, part in enumerate(parts):
        form = part.WhichOneof("part")
        if form is None:
            raise invalid(f"{at}.content_parts[{place}]", "is empty")
        if form != "text":
            raise invalid(f"{at}.content_parts[{place}].{form}", "is not supported")
    return {"content": [{"type": "text", "text": part.text} for part in parts]}


def _message(message: prompt_pb2.ChatMessage, at: str) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "role": _ROLES.get(message.role, ""),
        **_content(message, at),
        **_given(
            name=message.name,
            tool_call_id=message.tool_call_id,
            reasoning_content=message.reasoning,
        ),
    }
    if message.tool_calls:
        plain["tool_calls"] = [
            {**_given(id=call.id), **_function(name=call.name, arguments=call.arguments)}
            for call in message.tool_calls
        ]
    return plain


def _given(**texts: str) -> dict[str, str]:
    """Leaves out what is empty: templates ask whether a key is defined."""
    return {name: text for name, text in texts.items() if text}


def _function(**parts: str) -> dict[str, Any]:
    """Returns a tool, or a call of one."""
    return {"type": "function", "function": parts}


def _sampling(message: options_pb2.SamplingOptions) -> Sampling:
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    if "logit_bias" in given:
        biases = message.logit_bias[: LOGIT_BIAS_LIMIT + 1]
        given["logit_bias"] = tuple((each.token_id, each.bias) for each in biases)
    if "banned_words" in given:
        given["banned_words"] = tuple(message.banned_words[: BANNED_WORDS_LIMIT + 1])
    return Sampling(**given)


def _stopping(message: options_pb2.StopConditions) -> Stopping:
    return Stopping(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        min_tokens=message.min_tokens,
        stop=tuple(message.stop[: STOP_STRINGS_LIMIT + 1]),
        stop_token_ids=tuple(message.stop_token_ids[: STOP_TOKEN_IDS_LIMIT + 1]),
        ignore_eos=message.ignore_eos,
        include_stop_in_output=message.include_stop_in_output,
    )


def _tool_choice(chat: prompt_pb2.Chat) -> ToolChoice:
    choice = chat.tool_choice
    named = choice.WhichOneof("choice") == "name"
    return ToolChoice(
        ToolMode.NAMED if named else _TOOL_MODES[choice.mode],
        choice.name,
        parallel=chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls"),
        strict=frozenset(
            place for place, tool in enumerate(chat.tools[:TOOLS_LIMIT]) if tool.strict
        ),
    )


def _output(message: options_pb2.OutputOptions, *, is_chat: bool) -> Output:
    skips = message.HasField("skip_special_tokens")
    return Output(
        logprobs=message.logprobs,
        top_logprobs=message.top_logprobs,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        echo=message.echo,
        skip_special_tokens=message.skip_special_tokens if skips else True,
        parse=message.parse if message.HasField("parse") else is_chat,
        stop_in_reasoning=message.stop_in_reasoning,
    )


def _guide(message: generation_pb2.Generation) -> Guide | None:
    if not message.HasField("guided"):
        return None
    form = message.guided.WhichOneof("guide")
    if form is None:
        raise invalid("guided", "is set, but none of its forms is")
    ability = Ability(f"guided.{form}")
    if ability is Ability.GUIDED_CHOICE:
        return Guide(ability, options=tuple(message.guided.choice.options[: CHOICE_OPTIONS + 1]))
    if ability is Ability.GUIDED_JSON_OBJECT:
        return Guide(ability)
    return Guide(ability, text=getattr(message.guided, form))


def seconds(message: duration_pb2.Duration, field: str) -> float:
    """Returns a duration in seconds.

    Raises:
        InvalidRequestError: it is none; names the field.
    """
    seconds, nanos = message.seconds, message.nanos
    # What google.protobuf.Duration allows: nanos within a second, and of the seconds' sign.
    fits = abs(seconds) <= DURATION_LIMIT_S and abs(nanos) <= 999_999_999
    if not fits or seconds * nanos < 0:
        raise invalid(field, f"is not a duration: {seconds} s and {nanos} ns")
    return seconds + nanos / 1e9
