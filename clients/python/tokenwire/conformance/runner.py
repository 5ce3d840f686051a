"""Checks one rule after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import grpc

from tokenwire.conformance import refusal
from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Broken, Finding, Outcome, Rule, Skipped

CHECK_LIMIT_S = 30.0
"""Time of one check: it waits for a few short answers, which a deployment under load may queue."""

_BUSY = frozenset(
    {
        "QUEUE_FULL",
        "QUEUE_TIMEOUT",
        "BUDGET_TOO_SHORT",
        "TOO_MANY_GENERATIONS",
        "TOKENIZER_BUSY",
        "GUIDE_QUEUE_FULL",
        "GUIDE_UNTRIED",
        "RETENTION_FULL",
    }
)
"""Reasons with which a deployment that is under load refuses what it else would do."""


def check(deployment: Deployment, rules: Iterable[Rule], limit_s: float) -> Iterator[Finding]:
    """Checks the rules, and yields what was found as it comes.

    Args:
        deployment: what is checked.
        rules: the rules.
        limit_s: time that one check may take, in seconds.
    """
    for rule in rules:
        start_s = time.monotonic()
        outcome, seen = _judge(deployment, rule, limit_s)
        yield Finding(rule, outcome, seen, time.monotonic() - start_s)


def _judge(deployment: Deployment, rule: Rule, limit_s: float) -> tuple[Outcome, str]:
    try:
        with deployment.limited(limit_s):
            rule.check(deployment)
    except Broken as error:
        return Outcome.FAIL, str(error)
    except Skipped as error:
        return Outcome.SKIPPED, str(error)
    except grpc.RpcError as error:
        return _judge_call(refusal.of_error(error), limit_s)
    except StopIteration:
        return Outcome.FAIL, "a stream ended too early"
    except Exception as error:  # noqa: BLE001 - a deployment may answer anything, and the run goes on
        return Outcome.FAIL, f"an answer can't be read: {type(error).__name__}: {error}"
    return Outcome.PASS, ""


def _judge_call(failed: refusal.Refusal, limit_s: float) -> tuple[Outcome, str]:
    """Judges a call that the check expected to go well."""
    if failed.reason in _BUSY:
        return Outcome.SKIPPED, f"the deployment is under load: {failed.reason}"
    if failed.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Outcome.FAIL, f"no answer within {limit_s:g} s"
    return Outcome.FAIL, f"{failed.code.name} {failed.reason}: {failed.message}"
