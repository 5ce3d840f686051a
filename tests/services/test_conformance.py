"""`tokenwire conformance`: a real deployment passes, and one that breaks a rule fails at it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import grpc
import pytest
from tokenwire.cli.main import main
from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Outcome
from tokenwire.conformance.rules import RULES, selected
from tokenwire.conformance.runner import check
from tokenwire_frontend.core.caller import Role

from tests.frontend.credentials import KeyFile
from tests.services.breach_edits import clearing, of_event, of_response, replacing
from tests.services.breaches import BREACHES
from tests.services.breaking_frontend import Breach, BreakingFrontend
from tests.services.processes import SERVING, wait_for_health

DOCUMENT = Path(__file__).parents[2] / "docs" / "contract.md"

UNSEEN = {"S18", "S24", "M12", "R9", "C8", "C9", "E7", "E8", "E9", "F1"}
"""Rules that can't be checked from outside."""
NOT_OF_THE_DEMO_MODEL = {"S16", "S22", "P4", "B1", "B2", "L3", "L4", "F2"}
"""Rules of what the model, its engine or its size does not have."""
LIMIT_S = 60
"""Of one check, on a loaded machine."""


@pytest.fixture(scope="module")
def breaking(shared_frontend):
    """A frontend that breaks the contract as it is told."""
    made = BreakingFrontend(shared_frontend.address)
    yield made
    made.close()


def test_the_rules_are_those_of_the_document():
    text = DOCUMENT.read_text(encoding="utf-8")
    numbers = re.findall(r"^- \*\*([A-Z]\d+)\*\*", text, re.MULTILINE)
    assert [rule.number for rule in RULES] == numbers
    assert len(set(numbers)) == len(numbers)


def test_a_deployment_passes(frontend, tmp_path, capsys):
    file = tmp_path / "result.json"
    words = ("--target", frontend.address, "--json", str(file), "--timeout", str(LIMIT_S))
    code = main(["conformance", *words])
    out = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert code == 0, out
    assert [each["rule"] for each in result["rules"]] == [rule.number for rule in RULES]
    skipped = {
        each["rule"]
        for each in result["rules"]
        # A machine that runs other things as well may be too busy to try guides.
        if each["result"] == Outcome.SKIPPED and "GUIDE_UNTRIED" not in each["seen"]
    }
    assert skipped == UNSEEN | NOT_OF_THE_DEMO_MODEL | {"E14"}, out  # it asks for no credential
    assert (result["target"], result["model"]) == (frontend.address, "demo")


def test_every_rule_that_can_be_checked_has_a_breach():
    """P4 needs a model without a chat template, and E14 a deployment that asks for credentials."""
    assert {rule.number for rule in RULES} - set(BREACHES) == UNSEEN | {"P4", "E14"}


def test_a_deployment_that_asks_for_credentials_is_to_refuse_those_who_have_none(
    shared_worker, shared_frontend, processes, tmp_path
):
    keys = KeyFile(tmp_path / "keys.yaml")
    file = tmp_path / "key"
    file.write_text(keys.add("acme", *Role))
    strict = processes.frontend("--api-keys-file", str(keys.path), workers=[shared_worker])
    with grpc.insecure_channel(strict.address) as channel:
        wait_for_health(channel, SERVING)
    for address, code in ((strict.address, 0), (shared_frontend.address, 1)):
        words = ("--target", address, "--api-key-file", str(file), "--rule", "E14")
        assert main(["conformance", *words, "--timeout", str(LIMIT_S)]) == code


@pytest.mark.parametrize("number", BREACHES)
def test_a_breach_is_found(frontend, breaking, number):
    breaking.breach, said = BREACHES[number]
    with grpc.insecure_channel(breaking.address) as channel:
        [finding] = check(Deployment(channel), selected([number]), LIMIT_S)
    assert finding.outcome is Outcome.FAIL, finding
    assert said in finding.seen


def test_the_command_fails_with_the_rule_that_is_broken(frontend, breaking, capsys):
    breaking.breach, said = BREACHES["S2"]
    code = main(["conformance", "--target", breaking.address, "--rule", "S2,T*"])
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert code == 1
    assert [row[0] for row in rows] == ["RULE", "S2", "T1", "T2", "T3", "3"]
    assert f"FAIL     {said}" in out
    assert out.endswith("3 passed, 1 failed, 0 skipped in " + out.rpartition(" in ")[2])
    assert err == "tokenwire: conformance: the deployment breaks S2\n"


def test_a_rule_of_a_later_contract_is_skipped(frontend, breaking):
    breaking.breach = of_response("ServerReflectionInfo", replacing(b"credit_tok", b"credit_tik"))
    with grpc.insecure_channel(breaking.address) as channel:
        [finding] = check(Deployment(channel), selected(["R3"]), LIMIT_S)
    assert finding.outcome is Outcome.SKIPPED
    assert finding.seen == "the deployment's contract has no Open.credit_tokens"


def test_an_answer_that_no_check_expects_fails_alone(frontend, breaking):
    breaking.breach = of_event("delta", clearing("token_ids"))
    with grpc.insecure_channel(breaking.address) as channel:
        findings = list(check(Deployment(channel), selected(["S14", "T1"]), LIMIT_S))
    assert [each.outcome for each in findings] == [Outcome.FAIL, Outcome.PASS]
    assert findings[0].seen == "an answer can't be read: IndexError: list index out of range"


def test_a_deployment_that_does_not_answer_fails_in_time(frontend, breaking):
    breaking.breach = Breach(responses={"StreamGenerate": lambda _: []})
    with grpc.insecure_channel(breaking.address) as channel:
        [finding] = check(Deployment(channel), selected(["S19"]), 0.2)
    assert finding.outcome is Outcome.FAIL
    assert finding.seen == "no answer within 0.2 s"
