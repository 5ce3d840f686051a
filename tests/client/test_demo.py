"""`make demo` and `make serve`, with both services as they are."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from tokenwire.cli.main import main

from demo.__main__ import main as demo

WAIT_S = 240
"""Of a whole run, which takes a busy machine minutes."""


@pytest.fixture
def ports():
    """Ports that are free now: the worker's, the frontend's, and of OpenAI's interface."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def command(ports, tmp_path):
    worker, frontend, openai = map(str, ports)
    options = [
        "--worker-port",
        worker,
        "--frontend-port",
        frontend,
        "--openai-port",
        openai,
        "--logs",
        str(tmp_path / "logs"),
    ]
    return [sys.executable, "-m", "demo", *options]


def run(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_demo_shows_its_turns_and_stops_both_services(command, ports):
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "> What is my name?\nYour name is Ada.\n" in out
    assert "Once upon a time" in out
    stages = re.findall(r"^(?:frontend|worker) +(\w+) .*█$", out, re.MULTILINE)
    assert {"tokenize", "queue", "prefill", "decode"} <= set(stages)
    assert re.search(r"Time to first token: \d+ ms for \d{3} tokens, then \d+ ms", out)
    assert 'call   get_weather {"city": "Paris"}\n' in out
    assert "It is 21 degrees and sunny in Paris.\n" in out
    assert "reasoning 345 + 600 = 945, 945 + 70 = 1015, 1015 + 8 = 1023.\n" in out
    assert "345 + 678 = 1023.\n" in out
    assert out.endswith("Both services have stopped.\n")
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_serve_runs_until_ctrl_c(command, ports, capsys):
    target = f"127.0.0.1:{ports[1]}"
    with subprocess.Popen(
        [*command, "--serve"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stdout:
            if "Ctrl-C stops both" in line:
                break
        question = "What is the capital of Norway?"
        assert main(["chat", question, "--target", target, "--temperature", "0"]) == 0
        assert capsys.readouterr().out == "The capital of Norway is Oslo.\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes in it
        assert "Both services have stopped." in process.stdout.read()
        assert process.wait(WAIT_S) == 0


def test_a_port_in_use_is_told(command, ports):
    with socket.create_server(("127.0.0.1", ports[1])):
        code, _, err = run(*command)
    assert code == 1
    assert err == (
        f"demo: port {ports[1]} is taken (Address already in use); "
        "stop what listens there, or choose another with --frontend-port\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--worker-port", "99999", "--worker-port: '99999' is not a port, from 1 to 65535"),
        ("--frontend-port", "http", "--frontend-port: 'http' is not a port, from 1 to 65535"),
        ("--frontend-port", "50061", "--frontend-port: 50061 is the worker's port too"),
    ],
)
def test_a_port_that_cannot_be_listened_on_is_named(monkeypatch, capsys, option, value, said):
    monkeypatch.setattr("sys.argv", ["demo", option, value])
    with pytest.raises(SystemExit) as ended:
        demo()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_a_service_that_fails_shows_the_end_of_its_log(command, tmp_path):
    code, _, err = run(*command, "--model", str(tmp_path))
    assert code == 1
    assert "demo: the worker ended with exit code 64" in err
    assert f"--- last lines of {tmp_path / 'logs' / 'worker.log'}" in err
    assert str(tmp_path) in err.partition("worker.log")[2]


def test_a_model_that_is_not_there_is_told(command, tmp_path):
    assert run(*command, "--model", str(tmp_path / "none")) == (
        1,
        "",
        f"demo: there is no model folder {tmp_path / 'none'}\n",
    )
