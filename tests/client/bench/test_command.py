"""`tokenwire bench` as a person runs it, against a frontend that answers at once."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from tokenwire.bench import report
from tokenwire.cli.main import main

from tests.client.bench.server import BenchServer

SHORT = ("--duration", "0.5", "--warmup", "0", "--concurrency", "2", "--output", "4")


@pytest.fixture
def server():
    running = BenchServer()
    yield running
    running.stop()


@pytest.fixture
def bench(server, tmp_path, capsys):
    """Runs a scenario: the exit code, the result, and what was printed on either stream."""

    def bench(*words):
        out = tmp_path / "result"
        code = main(["bench", *words, "--target", server.address, "--out", str(out)])
        result = json.loads((tmp_path / "result.json").read_text())
        return code, result, *capsys.readouterr()

    return bench


def test_wire_measures_both_calls_and_checks_every_token(bench, server, tmp_path):
    code, result, printed, _ = bench("wire", *SHORT, "--input", "20", "--processes", "2")

    assert (code, result["schema"], result["scenario"]) == (0, "tokenwire.bench/1", "wire")
    assert result["command"][:2] == ["bench", "wire"]
    assert [each["name"] for each in result["phases"]] == [
        "stream, 2 at once",
        "session, 2 at once",
    ]
    for phase in result["phases"]:
        flow = phase["flows"]["all"]
        done = flow["requests"]["completed"]
        assert done > 0
        assert flow["requests"]["failed"] == 0
        assert flow["tokens"] == {
            "prompt": 20 * done,
            "completion": 4 * done,
            "cached": 10 * done,
        }
        assert flow["figures"]["cached_share"]["value"] == 0.5
        assert flow["figures"]["output_tokens_per_s"]["value"] > 0
        assert flow["lost"] == {"lost": 0, "repeated": 0, "text_gaps": 0}
        assert flow["figures"]["frontend_ttft_p50_s"]["value"] == pytest.approx(0.007, rel=0.01)
        assert 0 < flow["figures"]["ttft_p50_s"]["value"] <= flow["figures"]["e2e_max_s"]["value"]
        # The server is this very process: it was found by its port.
        watched = {each["name"]: each["pids"] for each in phase["processes"]}
        assert watched["frontend"] == [os.getpid()]
        assert watched["load"] == watched["load 1"] + watched["load 2"]
    assert "stream, 2 at once" in printed
    page = (tmp_path / "result.html").read_text()
    assert "http" not in page.replace("tokenwire bench", "")
    assert "<script" not in page
    result["deployment"]["workers"] *= 20
    assert "and 4 more" in report.page(result)
    # No two prompts are alike, or a prefix cache would be measured.
    texts = [each.prompt.text for each in server.requests]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("fault", "call"), [("lose", "session"), ("cut", "stream")])
def test_a_token_that_is_lost_is_found_and_fails_the_command(bench, server, fault, call):
    server.fault = fault

    code, result, printed, errors = bench("wire", *SHORT, "--call", call)

    flow = result["phases"][0]["flows"]["all"]
    assert flow["lost"]["lost"] >= flow["requests"]["started"] > 0
    assert "NOT ALL CAME AS IT SHOULD: lost" in printed
    assert (code, errors.splitlines()[-1]) == (
        1,
        "tokenwire: bench: not every token came once and in order; see the notes above",
    )


def test_refusals_are_counted_by_their_reason_and_are_no_latencies(bench, server):
    server.fault = "refuse"

    code, result, _, errors = bench("wire", *SHORT, "--rate", "50", "--call", "stream")

    flow = result["phases"][0]["flows"]["all"]
    assert flow["errors"] == {"QUEUE_FULL": flow["requests"]["started"]}
    assert flow["figures"]["e2e_p50_s"]["value"] is None
    assert (code, "no request was completed" in errors) == (1, True)


def test_a_request_that_takes_too_long_has_failed(bench, server):
    server.busy.clear()

    _, result, *_ = bench("wire", *SHORT, "--call", "session", "--timeout", "0.3")

    flow = result["phases"][0]["flows"]["all"]
    assert flow["errors"] == {"TIMEOUT": flow["requests"]["started"]}
    assert flow["requests"]["started"] > 0


def test_overload_offers_multiples_of_the_capacity_that_it_measures(bench):
    words = ("--multiples", "0.2,0.4", "--objective", "e2e=10s")

    _, result, _, _ = bench("overload", *SHORT, *words)

    capacity, *loads = result["phases"]
    measured = capacity["flows"]["all"]["figures"]["requests_per_s"]["value"]
    rates = [each["plan"]["flows"][0]["arrivals"]["rate_per_s"] for each in loads]
    assert rates == pytest.approx([0.2 * measured, 0.4 * measured])
    assert [each["flows"]["all"]["figures"]["good_share"]["value"] for each in loads] == [1, 1]


def test_a_trace_is_replayed_with_its_lengths_and_texts(bench, server, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"timestamp": 1500, "input_length": 9, "output_length": 3}\n'
        '{"timestamp": 1700, "text": "ban ker", "output_length": 2}\n'
    )

    _, result, _, _ = bench("wire", "--replay", str(trace), "--warmup", "0", "--call", "generate")

    assert [each.stop.max_tokens for each in server.requests] == [3, 2]
    assert len(server.requests[0].prompt.text.split()) == 8  # and one that the tokenizer adds
    assert server.requests[1].prompt.text == "ban ker"
    assert result["phases"][0]["window_s"] < 5  # it ends with its last request


def test_a_conversation_continues_its_own_answers(bench, server):
    words = ("--turns", "3", "--prefixes", "1", "--prefix-tokens", "12", "--prompt", "ids")

    # Four requests one after the other, also on a busy machine.
    time = ("--duration", "3", "--think", "0", "--concurrency", "1")
    bench("prefix", *SHORT, *words, "--input", "6", *time)

    ids = [list(each.prompt.token_ids.ids) for each in server.requests]
    first, second, third = ids[:3]
    assert (len(first), len(second), len(third)) == (18, 18 + 4 + 6, 18 + 2 * (4 + 6))
    assert second[:22] == first + [3] * 4
    assert third[:28] == second
    assert ids[3][:12] == first[:12]
    assert ids[3][12:18] != first[12:18]


def test_long_prompts_fill_the_context_beside_short_streams(bench, server):
    _, result, _, _ = bench("long", *SHORT, "--input", "10")

    alone, beside = result["phases"]
    assert list(alone["flows"]) == ["short"]
    flow = beside["flows"]["long"]
    tokens = flow["tokens"]["prompt"] / flow["requests"]["completed"]
    assert 0.8 * server.context < tokens < server.context


def test_a_sessions_messages_stay_below_what_a_server_takes(bench, server):
    server.context = 100_000
    # Forty prompts of 160 kB are more than the 4 MiB of one message.
    words = ("--call", "session", "--concurrency", "40", "--input", "40000", "--output", "2")

    _, result, *_ = bench("wire", "--duration", "0.2", "--warmup", "0", *words)

    flow = result["phases"][0]["flows"]["all"]
    assert flow["errors"] == {}
    assert flow["requests"]["completed"] == flow["requests"]["started"] > 0


def test_chats_offer_tools_and_are_parsed(bench, server):
    bench("chat", *SHORT, "--turns", "2")

    chat = server.requests[1].prompt.chat
    assert [each.name for each in chat.tools] == ["get_weather", "search"]
    assert {each.prompt.WhichOneof("content") for each in server.requests} == {"chat"}


@pytest.mark.parametrize(("warmup", "measured"), [("0", True), ("60", False)])
def test_ctrl_c_writes_what_there_is(bench, server, warmup, measured):
    server.busy.clear()

    def interrupt():
        server.reached.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    words = ("--duration", "60", "--warmup", warmup, "--concurrency", "2")
    code, result, printed, _ = bench("wire", *words, "--call", "stream,session")
    pressing.join()

    assert (code, result["interrupted"]) == (130, True)
    (phase,) = result["phases"]
    assert (0 < phase["window_s"] < 30) == measured
    assert phase["flows"]["all"]["figures"]["ttft_p50_s"]["value"] is None or measured
    assert ("the phase ended in its warm-up" in printed) != measured


def test_a_result_is_compared_with_another(bench, tmp_path, capsys):
    _, result, *_ = bench("wire", *SHORT, "--call", "stream", "--label", "as it was")
    worse = json.loads(json.dumps(result))
    for each in (result, worse):
        for figure in each["phases"][0]["flows"]["all"]["figures"].values():
            figure["noise"] = 0.0
    worse["phases"][0]["flows"]["all"]["figures"]["output_tokens_per_s"]["value"] /= 2
    names = [str(tmp_path / each) for each in ("a.json", "b.json", "page.html")]
    for name, each in zip(names[:2], (result, worse), strict=True):
        Path(name).write_text(json.dumps(each))

    assert main(["bench", "compare", *names[:2], "--limit", "60", "--report", names[2]]) == 0
    printed = capsys.readouterr().out
    (line,) = [each for each in printed.splitlines() if "output_tokens_per_s" in each]
    assert line.split()[-3:] == ["0.500", "+-0.0%", "worse"]
    assert "A: as it was, words at " in Path(names[2]).read_text()

    assert main(["bench", "compare", *names[:2], "--limit", "40"]) == 1
    error = capsys.readouterr().err
    assert error == ("tokenwire: worse by more than 40 %: stream, 2 at once: output_tokens_per_s\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("wire --concurrency 0", "--concurrency: '0' is not a whole number from 1 to 100000"),
        ("wire --call stream,x", "--call: 'x' is none of stream, session, generate"),
        ("wire --input soon", "--input: 'soon' is not N, uniform:LOW-HIGH, "),
        ("wire --duration 0", "--duration: '0' is not a time above 0"),
        ("wire --objective ttft", "--objective: 'ttft' is not NAME=TIME, where NAME is one of "),
        ("wire --process 12", "--process: '12' is not NAME=PID, such as frontend=4711"),
        ("wire --replay nothing.jsonl", "--replay: nothing.jsonl: No such file or directory"),
        ("wire --long-input 5", "unknown option --long-input; did you mean --input?"),
        ("wire --output 5000", "--output: 5000 tokens do not fit: the model takes 4,080 "),
        ("overload --rate 5", "--rate: overload chooses when requests start"),
        ("long --concurrency 1,2", "--concurrency: long takes one value"),
        ("wire --call generate --max-delay 5ms", "--max-delay: Generate has no deltas to hold"),
        ("wire --tools", "--tools: goes with --prompt chat"),
        ("wire --prefixes 2", "--prefixes: --prefix-tokens says how long they are"),
        ("compare a.json b.json", "a.json: No such file or directory"),
        ("nothing", "SCENARIO: invalid choice: 'nothing'"),
    ],
)
def test_a_bad_option_is_named(server, capsys, words, said):
    try:
        code = main(["--target", server.address, "bench", *words.split()])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"tokenwire: {said}")


def test_without_a_server_it_says_so(capsys):
    assert main(["bench", "wire", "--target", "127.0.0.1:1"]) == 69
    assert capsys.readouterr().err.startswith("tokenwire: no connection to 127.0.0.1:1")
