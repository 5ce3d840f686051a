"""Log probabilities of what was generated and of the prompt."""

from __future__ import annotations

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Rule, expect
from tokenwire.frontend.v1 import model_pb2

_ALTERNATIVES = 3


def _of_each_id(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_LOGPROBS)
    found = deployment.stream(deployment.generation(output={"logprobs": True}))
    told = [each.token_id for each in found.logprobs()]
    expect(told == found.ids(), f"log probabilities of {told} came with ids {found.ids()}")
    for each in found.logprobs():
        expect(each.logprob <= 0, f"the log probability of {each.token_id} is {each.logprob}")
        has_bytes = bool(each.token) or not deployment.detokenize([each.token_id])
        expect(has_bytes, f"token {each.token_id} has no bytes")


def _bytes_are_the_text(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_LOGPROBS)
    output = {"logprobs": True, "skip_special_tokens": False}
    found = deployment.stream(deployment.generation(output=output))
    joined = b"".join(each.token for each in found.logprobs()).decode(errors="replace")
    seen, wanted = joined.rstrip("\ufffd"), found.text().rstrip("\ufffd")
    expect(seen == wanted, f"the bytes are {seen!r}; the text is {wanted!r}")


def _alternatives(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_TOP_LOGPROBS)
    output = {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    found = deployment.stream(deployment.generation(output=output))
    expect(bool(found.logprobs()), "no log probabilities came")
    for each in found.logprobs():
        values = [other.logprob for other in each.alternatives]
        expect(0 < len(values) <= _ALTERNATIVES, f"{len(values)} alternatives of {_ALTERNATIVES}")
        expect(values == sorted(values, reverse=True), f"alternatives in the order {values}")


def _of_the_prompt(deployment: Deployment) -> None:
    deployment.need(model_pb2.CAPABILITY_PROMPT_LOGPROBS)
    found = deployment.stream(deployment.generation(output={"prompt_logprobs": 0}))
    told, kinds = found.prompt_logprobs, found.kinds
    expect(bool(told), "no log probabilities of the prompt came")
    late = len(kinds) - 1 - kinds[::-1].index("prompt_logprobs") > kinds.index("delta")
    expect(not late, f"the events were {', '.join(kinds)}")
    count = 0
    for each in told:
        expect(each.token_offset == count, f"token_offset is {each.token_offset} after {count}")
        count += len(each.tokens)
    wanted = found.accepted.prompt_token_count
    expect(count == wanted, f"{count} log probabilities of a prompt of {wanted} tokens")
    first = told[0].tokens[0].logprob
    expect(first == 0, f"the first token's log probability is {first}; not 0")


RULES = (
    Rule("L1", "of each id", _of_each_id),
    Rule("L2", "bytes are the text", _bytes_are_the_text),
    Rule("L3", "alternatives, likeliest first", _alternatives),
    Rule("L4", "of the prompt, before deltas", _of_the_prompt),
)
