"""What requests of every kind say of how to generate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenwire_service.errors import invalid
from tokenwire_service.limits import CHOICE_OPTIONS

from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.request import GenerationRequest, Guide, Prompt, Sampling, Stopping
from tokenwire_frontend.core.validation import (
    BANNED_WORDS_LIMIT,
    LOGIT_BIAS_LIMIT,
    STOP_STRINGS_LIMIT,
    STOP_TOKEN_IDS_LIMIT,
)
from tokenwire_frontend.edge.openai.fields import (
    INT32_MOST,
    INT64_LEAST,
    UINT64_MOST,
    Fields,
    json_text,
    number,
)

HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Members that change nothing of an answer: they are passed over."""

GUIDES = {
    "guided_json": Ability.GUIDED_JSON_SCHEMA,
    "guided_regex": Ability.GUIDED_REGEX,
    "guided_grammar": Ability.GUIDED_GRAMMAR,
    "guided_choice": Ability.GUIDED_CHOICE,
}
STRUCTURES = {
    "json": Ability.GUIDED_JSON_SCHEMA,
    "regex": Ability.GUIDED_REGEX,
    "grammar": Ability.GUIDED_GRAMMAR,
    "choice": Ability.GUIDED_CHOICE,
    "json_object": Ability.GUIDED_JSON_OBJECT,
}
"""Members of vLLM's `structured_outputs`, and its older names before."""


@dataclass(frozen=True, slots=True)
class General:
    """What every kind of request may say of a generation beside sampling and stops."""

    model: str
    request_id: str
    priority: int
    cache_salt: str
    lora_adapter: str
    time_budget_s: float | None
    sequence_count: int
    add_special_tokens: bool | None
    truncate_prompt_tokens: int

    def request(self, prompt: Prompt, **told: Any) -> GenerationRequest:
        """Returns a generation of this prompt; `told` are the fields that are not here."""
        return GenerationRequest(
            prompt=prompt,
            model=self.model,
            add_special_tokens=self.add_special_tokens,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            sequence_count=self.sequence_count,
            lora_adapter=self.lora_adapter,
            cache_salt=self.cache_salt,
            priority=self.priority,
            request_id=self.request_id,
            time_budget_s=self.time_budget_s,
            **told,
        )


@dataclass(slots=True)
class Names:
    """What the request calls fields that may have several names."""

    max_tokens: str = "max_tokens"
    given: dict[str, str] = field(default_factory=dict)
    """By our own: the form that the output is held to, and each bias, which stands under its id."""


def general(body: Fields, request_id: str) -> General:
    """Reads what names the request and places it.

    Args:
        body: the request.
        request_id: what the request's header says; empty: nothing.
    """
    body.ignore(*HARMLESS)
    body.accept("service_tier", "auto", "default")
    body.accept("store", False)  # noqa: FBT003 - a value of JSON
    special = body.take("add_special_tokens")
    if special is not None and type(special) is not bool:
        raise invalid(body.at("add_special_tokens"), "must be a boolean")
    return General(
        model=body.text("model"),
        request_id=body.text("request_id", request_id),
        priority=body.whole("priority", INT32_MOST, -INT32_MOST) or 0,
        cache_salt=body.text("cache_salt"),
        lora_adapter=body.text("lora_adapter"),
        time_budget_s=body.number("time_budget"),
        sequence_count=body.whole("n", least=1) or 1,
        add_special_tokens=special,
        truncate_prompt_tokens=body.whole("truncate_prompt_tokens") or 0,
    )


def sampling(body: Fields, names: Names) -> Sampling:
    """Reads how tokens are chosen."""
    return Sampling(
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        top_k=_top_k(body),
        min_p=body.number("min_p"),
        repetition_penalty=body.number("repetition_penalty"),
        presence_penalty=body.number("presence_penalty"),
        frequency_penalty=body.number("frequency_penalty"),
        seed=_seed(body),
        logit_bias=_logit_bias(body, names),
        banned_words=body.texts("bad_words", BANNED_WORDS_LIMIT),
    )


def stopping(body: Fields, max_tokens: int | None) -> Stopping:
    """Reads when a sequence ends, but for the most tokens that it has."""
    ids = body.items("stop_token_ids", STOP_TOKEN_IDS_LIMIT) or []
    path = body.at("stop_token_ids")
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=body.whole("min_tokens") or 0,
        stop=body.texts("stop", STOP_STRINGS_LIMIT),
        stop_token_ids=tuple(_id(each, f"{path}[{place}]") for place, each in enumerate(ids)),
        ignore_eos=body.flag("ignore_eos"),
        include_stop_in_output=body.flag("include_stop_str_in_output"),
    )


def guide(body: Fields, names: Names) -> Guide | None:
    """Reads what the output is held to, under OpenAI's name or vLLM's.

    Raises:
        InvalidRequestError: two forms, or one that is not supported.
    """
    found = [*text_format(body, "response_format")]
    for name, ability in GUIDES.items():
        found += _form(body, name, ability)
    structured = body.inner("structured_outputs")
    if structured is not None:
        for name, ability in STRUCTURES.items():
            found += _form(structured, name, ability)
        structured.end()
    if len(found) > 1:
        raise invalid(found[1][0], f"does not go with `{found[0][0]}`")
    for path, given in found:
        names.given[given.form.value] = path
        return given
    return None


def text_format(holder: Fields, name: str, *, flat: bool = False) -> list[tuple[str, Guide]]:
    """Reads OpenAI's form of an output, and returns the guide that it is, with its path.

    A schema stands within `json_schema`, or with `flat`, as in /v1/responses, beside the type.
    """
    asked = holder.inner(name)
    if asked is None:
        return []
    kind = asked.text("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid(asked.at("type"), "must be text, json_object or json_schema")
    found = []
    if kind == "json_object":
        found = [(holder.at(name), Guide(Ability.GUIDED_JSON_OBJECT))]
    elif kind == "json_schema":
        inner = asked if flat else asked.inner("json_schema")
        if inner is None:
            raise invalid(asked.at("json_schema"), "is required")
        found = [_schema(inner)]
        inner.end()
    asked.end()
    return found


def _schema(holder: Fields) -> tuple[str, Guide]:
    """Reads a named schema, and returns it with its path."""
    holder.ignore("name", "description", "strict")  # the output is held to it in any case
    text = holder.json_text("schema")
    if not text:
        raise invalid(holder.at("schema"), "is required")
    return holder.at("schema"), Guide(Ability.GUIDED_JSON_SCHEMA, text)


def _form(holder: Fields, name: str, ability: Ability) -> list[tuple[str, Guide]]:
    """Reads one form of a guide, if it is there."""
    path = holder.at(name)
    if ability is Ability.GUIDED_CHOICE:
        options = holder.texts(name, CHOICE_OPTIONS)
        return [(path, Guide(ability, options=options))] if options else []
    if ability is Ability.GUIDED_JSON_OBJECT:
        return [(path, Guide(ability))] if holder.flag(name) else []
    value = holder.take(name)
    if value is None:
        return []
    if ability is Ability.GUIDED_JSON_SCHEMA and type(value) is dict:
        return [(path, Guide(ability, json_text(value, path)))]
    if type(value) is not str:
        raise invalid(path, "must be a string")
    return [(path, Guide(ability, value))]


def _top_k(body: Fields) -> int | None:
    """Reads how many tokens are chosen from: all are 0 here, and also -1 in vLLM."""
    most = body.whole("top_k", least=-1)
    return None if most is None else max(most, 0)


def _seed(body: Fields) -> int | None:
    """Reads a seed: OpenAI's are signed, the contract's are not."""
    seed = body.whole("seed", UINT64_MOST, INT64_LEAST)
    return None if seed is None else seed % 2**64


def _logit_bias(body: Fields, names: Names) -> tuple[tuple[int, float], ...]:
    biases = body.take("logit_bias")
    path = body.at("logit_bias")
    if biases is None:
        return ()
    if type(biases) is not dict:
        raise invalid(path, "must be an object of numbers by token id")
    if len(biases) > LOGIT_BIAS_LIMIT:
        raise invalid(path, f"has {len(biases)} members; at most {LOGIT_BIAS_LIMIT}")
    for place, key in enumerate(biases):
        for part in ("token_id", "bias"):
            names.given[f"sampling.logit_bias[{place}].{part}"] = f"{path}.{key}"
    return tuple((_key(key, path), number(bias, f"{path}.{key}")) for key, bias in biases.items())


def _key(key: str, path: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= 10):
        raise invalid(f"{path}.{key}", "is not a token id")
    return _id(int(key), f"{path}.{key}")


def _id(value: Any, path: str) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise invalid(path, "is not a token id")
    return value
