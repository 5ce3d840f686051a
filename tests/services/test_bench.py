"""`tokenwire bench` against the real pair: the frontend's own tokenizer, the real engine."""

import json

from tokenwire.cli.main import main


def test_a_scenario_checks_every_token_and_sees_both_processes(frontend, tmp_path, capsys):
    out = str(tmp_path / "bench")
    short = ["--duration", "1", "--warmup", "0", "--concurrency", "2", "--output", "8"]
    words = ["prefix", *short, "--input", "20", "--prefix-tokens", "40", "--turns", "2"]

    assert main(["bench", *words, "--target", frontend.address, "--out", out]) == 0

    result = json.loads((tmp_path / "bench.json").read_text())
    (phase,) = result["phases"]
    flow = phase["flows"]["all"]
    assert flow["requests"]["completed"] > 0
    assert flow["requests"]["failed"] == 0
    assert flow["tokens"]["completion"] == 8 * flow["requests"]["completed"]
    assert flow["lost"] == {"lost": 0, "repeated": 0, "text_gaps": 0}
    # First turns have 40 + 20 tokens: made of the model's own words, they have just as many.
    assert {each[3] for each in flow["sample"]} >= {60}
    assert {"frontend", "worker", "load"} <= {each["name"] for each in phase["processes"]}
