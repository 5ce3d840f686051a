"""The command: what it prints, what it asks for, how it ends."""

import json
import shlex
import signal
import subprocess
import sys

import grpc
import pytest
from google.rpc import error_details_pb2
from tokenwire import __version__
from tokenwire.cli.failures import describe, plain
from tokenwire.cli.main import main
from tokenwire.errors import InternalError
from tokenwire.frontend.v1 import generation_pb2

from tests.client.scripted_server import (
    COMPLETED,
    OVERLOADED,
    WAIT_S,
    Event,
    Hold,
    accepted,
    delta,
    end,
    prompt_logprobs,
    reason,
    status,
)

COMMAND = [sys.executable, "-m", "tokenwire"]


def test_generate_prints_the_text(run, server):
    assert run("generate", "hi", "--max-tokens", "8") == (0, "Hello world\n", "")
    assert server.last.generation.stop.max_tokens == 8


def test_generate_adds_no_second_line_break(run, server):
    server.play("line", accepted(), delta("a\n", [1], end=end()), COMPLETED)
    assert run("generate", "line")[1] == "a\n"


def test_an_answer_without_a_text_is_told_from_a_text_that_is_not_shown(run, server):
    server.play("hm", accepted(), delta("", [6], end=end()), COMPLETED)
    code, out, err = run("generate", "hm")
    assert (code, out) == (0, "")
    assert err.startswith("tokenwire: the model ended its answer at once, without a text; ")
    assert len(err.splitlines()) == 1
    assert run("generate", "hm", "--json")[2] == ""
    server.play("cut", accepted(), delta("", [1], end=end("LENGTH")), COMPLETED)
    assert run("generate", "cut", "--max-tokens", "1")[2] == ""


def test_the_text_is_streamed(server):
    hold = Hold()
    server.play("long", accepted(), delta("first", [1]), hold)
    arguments = [*COMMAND, "generate", "long", "--target", server.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"first"
        assert not hold.cancelled.is_set()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stdout.read() == b"\n"
    assert hold.cancelled.wait(WAIT_S)


def test_json_is_one_object(run):
    code, out, err = run("generate", "hi", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    shown = json.loads(out)
    assert list(shown) == [
        *("text", "reasoning", "tool_calls", "token_ids", "finish_reason"),
        *("usage", "timings", "request_id", "trace_id", "continued", "attempts"),
    ]
    assert shown["text"] == "Hello world"
    assert shown["token_ids"] == [7, 8, 9]
    assert shown["finish_reason"] == "stop"
    assert shown["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cached_prompt_tokens": 1,
    }
    assert shown["timings"]["total_s"] == pytest.approx(0.02)
    assert shown["timings"]["stages"][0]["name"] == "tokenize"
    assert shown["trace_id"] == "ab" * 16


def test_json_shows_every_character_as_it_is_where_the_terminal_can(printed, server):
    server.play("uni", accepted(), delta("h\u00e9 \u4f60", [1], end=end()), COMPLETED)
    for encoding, shown in (("utf-8", "h\u00e9 \u4f60"), ("ascii", r"h\u00e9 \u4f60")):
        line = printed(encoding, "generate", "uni", "--json")
        assert f'"text": "{shown}"' in line
        assert json.loads(line)["text"] == "h\u00e9 \u4f60"


def test_several_sequences_are_shown_at_the_end(run, server):
    server.play(
        "two",
        accepted(),
        delta("b", [9], sequence=1, end=end()),
        delta("a", [7], end=end()),
        COMPLETED,
    )
    assert run("generate", "two", "-n", "2")[1] == "[0] a\n[1] b\n"
    assert server.last.generation.sequence_count == 2
    shown = json.loads(run("generate", "two", "-n", "2", "--json")[1])
    assert [each["text"] for each in shown["sequences"]] == ["a", "b"]


def test_json_shows_the_tokens_of_log_probabilities_as_text_and_as_bytes(run, server):
    whole = generation_pb2.Alternative(token_id=8, logprob=-2.0, token="é".encode())
    half = {"token_id": 7, "logprob": -0.5, "token": b"\xc3", "alternatives": [whole]}
    server.play(
        "odd",
        accepted(),
        prompt_logprobs(0, generation_pb2.TokenLogprob(token_id=5, token=b"odd")),
        delta("é", [7], logprobs=[generation_pb2.TokenLogprob(**half)], end=end()),
        COMPLETED,
    )
    shown = json.loads(run("generate", "odd", "--logprobs", "--prompt-logprobs", "0", "--json")[1])
    assert shown["prompt_logprobs"] == [
        {"token_id": 5, "token": "odd", "bytes": [111, 100, 100], "logprob": 0, "alternatives": []}
    ]
    other = {"token_id": 8, "token": "é", "bytes": [195, 169], "logprob": -2.0}
    assert shown["logprobs"] == [
        {"token_id": 7, "token": "\ufffd", "bytes": [195], "logprob": -0.5, "alternatives": [other]}
    ]


WATERFALL = """\
Hello world

request r-1 on worker w-1, trace abababababababababababababababab
service   stage     start ms  took ms
frontend  tokenize       0.0      2.0  ████
worker    prefill        3.0      9.0        ██████████████████
worker    decode        12.0      8.0                          ████████████████
total 20.0 ms, first token 12.0 ms, each further token 4.0 ms
3 prompt tokens (1 cached), 2 generated; ended by stop
"""


def test_explain_ends_with_a_waterfall(run):
    assert run("generate", "hi", "--explain")[1] == WATERFALL


def test_explain_tells_who_had_a_part_in_the_answer(run, server, naps):
    part = generation_pb2.Attempt(worker="w-0", left_because="WORKER_LOST", mode="ATTEMPT_MODE_NEW")
    rest = generation_pb2.Completed(attempts=[part])
    lost = status(grpc.StatusCode.UNAVAILABLE, "lost", reason("WORKER_LOST"))
    server.play("p", accepted(), delta("a", [1]), lost)
    last = delta("b", [2], 1, text_offset=1, end=end())
    server.play("p", accepted(), last, Event(completed=rest))
    shown = run("generate", "p", "--explain")[1].splitlines()
    assert shown[0] == "ab"
    assert shown[-2:] == [
        "continued once by the client, with the tokens that it had",
        "worker w-0: sequence 0 from token 0, new, left because WORKER_LOST",
    ]


def test_explain_leaves_json_alone(run):
    _, out, err = run("generate", "hi", "--explain", "--json")
    assert json.loads(out)["text"] == "Hello world"
    assert err == WATERFALL.removeprefix("Hello world\n")


def test_the_prompt_may_come_from_standard_input(run, stdin, server):
    stdin("two\nlines\n")
    assert run("generate", "-")[0] == 0
    assert server.last.generation.prompt.text == "two\nlines"
    stdin("1 2\n3\n")
    assert run("generate", "-", "--token-ids")[0] == 0
    assert list(server.last.generation.prompt.token_ids.ids) == [1, 2, 3]


EVERY_OPTION = """
    --model demo --time-budget 1.5 --max-delay 0.05 --logprobs --top-logprobs 3 --echo
    --lora-adapter pirate --cache-salt pepper --priority -3 --request-id mine --temperature 0
    --top-p 0.5 --top-k 4 --min-p 0.25 --repetition-penalty 1.5 --presence-penalty 1
    --frequency-penalty -1 --seed 7 --max-tokens 9 --min-tokens 2 --stop a --stop b
    --stop-token-id 3 --ignore-eos --include-stop --truncate-prompt-tokens 6 --prompt-logprobs 0
    --logit-bias 5=-100 --logit-bias 7=2.5 --ban-word dog --ban-word "a cat"
"""


def test_every_generation_option_reaches_the_request(run, server, tmp_path):
    grammar = tmp_path / "grammar.ebnf"
    grammar.write_text('root ::= "a"')
    arguments = shlex.split(EVERY_OPTION)
    assert run("generate", "hi", *arguments, "--grammar", f"@{grammar}")[0] == 0
    sent = server.last.generation
    assert (sent.model, sent.time_budget.ToMilliseconds()) == ("demo", 1500)
    assert server.last.stream.max_delay.ToMilliseconds() == 50
    assert (sent.output.logprobs, sent.output.top_logprobs, sent.output.echo) == (True, 3, True)
    assert (sent.lora_adapter, sent.cache_salt, sent.priority) == ("pirate", "pepper", -3)
    assert sent.request_id == "mine"
    sampling = sent.sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (0.5, 4, 0.25, 7)
    assert (sampling.HasField("temperature"), sampling.repetition_penalty) == (True, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sent.stop.max_tokens, sent.stop.min_tokens) == (9, 2)
    assert (list(sent.stop.stop), list(sent.stop.stop_token_ids)) == (["a", "b"], [3])
    assert (sent.stop.ignore_eos, sent.stop.include_stop_in_output) == (True, True)
    assert (sent.prompt.truncate_prompt_tokens, sent.output.prompt_logprobs) == (6, 0)
    assert sent.output.HasField("prompt_logprobs")
    assert [(each.token_id, each.bias) for each in sampling.logit_bias] == [(5, -100), (7, 2.5)]
    assert list(sampling.banned_words) == ["dog", "a cat"]
    assert sent.guided.grammar == 'root ::= "a"'
    for guide, value in (("json-schema", "{}"), ("regex", "a+"), ("choice", "yes")):
        assert run("generate", "hi", f"--{guide}", value)[0] == 0
        assert server.last.generation.guided.WhichOneof("guide") == guide.replace("-", "_")
    assert run("generate", "hi", "--json-object")[0] == 0
    assert server.last.generation.guided.HasField("json_object")


def test_a_time_budget_that_ended_the_answer_is_told(run, server):
    server.play("slow", accepted(), delta("a", [1], end=end("TIME_BUDGET")), COMPLETED)
    code, out, err = run("generate", "slow")
    assert (code, out) == (0, "a\n")
    assert "time budget" in err


def test_an_answer_that_filled_the_context_is_told_unless_its_length_was_asked_for(run, server):
    server.play("on", accepted(), delta("a", [1], end=end("LENGTH")), COMPLETED)
    note = "tokenwire: the context is full; --max-tokens sets an earlier end\n"
    assert run("generate", "on") == (0, "a\n", note)
    assert run("generate", "on", "--max-tokens", "1") == (0, "a\n", "")


def test_tokenize(run, server):
    assert run("tokenize", "a b c") == (0, "0 1 2\n", "")
    assert not server.last.HasField("add_special_tokens")
    assert run("tokenize", "a", "--offsets")[1] == "ID  START  END  TEXT\n0   0      1    'a'\n"
    out = run("tokenize", "a b", "--json", "--no-special-tokens", "--model", "demo")[1]
    assert json.loads(out) == {"token_ids": [0, 1], "offsets": None}
    assert (server.last.HasField("add_special_tokens"), server.last.model) == (True, "demo")


def test_detokenize(run, stdin, server):
    assert run("detokenize", "1", "2") == (0, "text of [1, 2]\n", "")
    stdin("3 4\n")
    assert run("detokenize", "-", "--keep-special-tokens")[1] == "text of [3, 4]\n"
    assert server.last.HasField("skip_special_tokens")
    assert json.loads(run("detokenize", "5", "--json")[1]) == {"text": "text of [5]"}


MODELS = """\
MODEL  CONTEXT  VOCABULARY  CHAT  WORKERS  CAPABILITIES
demo   4096     4000        yes   1        top_logprobs, 99, lora:pirate
"""

WORKERS = """\
ADDRESS          NAME  STATE     MODEL  ENGINE           RUNNING  WAITING  IN FLIGHT  KV   REASON
127.0.0.1:50061  w-1   draining  demo   openvino 2026.4  2        1        3          25%  stopping
"""


def test_models_and_workers_are_tables_or_lists(run):
    assert run("models") == (0, MODELS, "")
    assert run("workers") == (0, WORKERS, "")
    (model,) = json.loads(run("models", "--json")[1])
    assert (model["name"], model["prompt_tokens_limit"]) == ("demo", 4000)
    (worker,) = json.loads(run("workers", "--json")[1])
    assert (worker["state"], worker["kv_cache_usage"]) == ("draining", 0.25)


def test_no_model_is_told(run, server):
    server.models = []
    code, out, err = run("models")
    assert (code, out) == (0, "")
    assert err.startswith("tokenwire: no model is served: no worker is ready")
    assert run("models", "--json") == (0, "[]\n", "")


def test_a_refusal_names_the_field_in_one_line(run, server):
    detail = error_details_pb2.BadRequest()
    detail.field_violations.add(field="generation.sampling.top_p", description="above 1")
    text = "generation.sampling.top_p: above 1"
    server.play("bad", status(grpc.StatusCode.INVALID_ARGUMENT, text, detail))
    assert run("generate", "bad") == (1, "", f"tokenwire: {text}\n")


def test_a_refusal_says_when_to_try_again(run, server, naps):
    server.play("busy", OVERLOADED)
    code, _, err = run("generate", "busy")
    assert (code, len(naps)) == (1, 1)
    assert err == "tokenwire: 64 generations are held already; try again in 1.5 s\n"


def test_a_failure_comes_after_the_line_that_had_begun(run, server):
    failure = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "lost", reason("NOT_READING"))
    server.play("cut", accepted(), delta("On and", [1]), failure)
    assert run("generate", "cut") == (1, "On and\n", "tokenwire: lost\n")


def test_a_fault_names_its_trace(run, server):
    server.play("fault", status(grpc.StatusCode.INTERNAL, "engine\nfault", reason("FAULT")))
    code, _, err = run("generate", "fault")
    assert code == 1
    assert err.startswith("tokenwire: engine fault (trace id ")
    trace_id = err.rpartition(" ")[2].rstrip(")\n")
    error = InternalError(f"the log has it under {trace_id}", trace_id=trace_id)
    assert describe(error, "here:1") == f"the log has it under {trace_id}"


def test_a_timeout_is_a_failure(run, server):
    server.play("long", accepted(), Hold())
    code, _, err = run("generate", "long", "--timeout", "0.2")
    assert code == 1
    assert err.startswith("tokenwire: the time of --timeout is over (trace id ")


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "UNKNOWN: ipv4:10.0.0.1:1: Failed to connect to remote host: connect: No route (113)",
            "No route",
        ),
        (
            "DNS resolution failed for a:1: C-ares status is not ARES_SUCCESS name=a: Not found",
            "Not found",
        ),
        ("another tokenizer: see (2)", "another tokenizer: see (2)"),
    ],
)
def test_a_connection_that_failed_is_told_without_gRPC_s_words_around_it(cause, said):
    assert plain(cause) == said


def test_nobody_there(capsys, naps):
    assert main(["models", "--target", "127.0.0.1:1"]) == 69
    err = capsys.readouterr().err
    assert err == "tokenwire: no connection to 127.0.0.1:1: Connection refused\n"
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["generate"],
        ["generate", "hi", "--max-tokens", "x"],
        ["generate", "hi", "--temp", "1"],
        ["generate", "hi", "--grammar", "@/nowhere"],
        ["generate", "hi", "--logit-bias", "5"],
        ["generate", "hi", "--logit-bias", "-5=1"],
    ],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_a_value_that_no_request_can_carry_is_wrong_usage(run):
    code, _, err = run("generate", "hi", "--regex", "a", "--json-object")
    assert (code, err.count("\n"), "json_object and regex" in err) == (2, 1, True)


def test_the_target_may_stand_before_the_command_or_after_it(server, capsys):
    assert main(["--target", server.address, "models"]) == 0
    assert main(["--target", "127.0.0.1:1", "models", "--target", server.address]) == 0
    assert capsys.readouterr().out == MODELS * 2


def test_the_target_may_come_from_the_environment(server, monkeypatch, capsys):
    monkeypatch.setenv("TOKENWIRE_TARGET", server.address)
    assert main(["models"]) == 0
    assert "demo" in capsys.readouterr().out


def test_version_and_help(capsys):
    for arguments in (["--version"], ["--help"], ["generate", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_a_closed_pipe_is_silent(server):
    server.play("many", accepted(), *(delta("words " * 999, [i], i) for i in range(99)), COMPLETED)
    arguments = [*COMMAND, "generate", "many", "--target", server.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(WAIT_S) == 141
        assert process.stderr.read() == b""


def test_a_terminal_without_the_characters_shows_substitutes(printed, server):
    server.play("uni", accepted(), delta("h\u00e9", [1], end=end()), COMPLETED)
    shown = printed("ascii", "generate", "uni", "--explain")
    assert shown.startswith("h?\n")
    assert "####" in shown
