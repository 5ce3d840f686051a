"""The command used wrongly, or pointed at the wrong server: one line that says what to change."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tokenwire.cli import arguments
from tokenwire.cli.main import main

INSTALLED = [sys.executable, "-c", "import sys, tokenwire_command as c; sys.exit(c.main())"]
"""What the installed `tokenwire` runs."""


@pytest.fixture
def misuse(capsys):
    """Runs a command that is used wrongly, and returns the line that says how."""

    def misuse(*words):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    return misuse


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "generate hi --max-tokens -1",
            "--max-tokens: '-1' is not a whole number from 1 to 429496729",
        ),
        (
            "generate hi --max-tokens 0",
            "--max-tokens: '0' is not a whole number from 1 to 4294967295",
        ),
        (
            "chat hi --template-arguments thinking=true",
            "--template-arguments: 'thinking=true' is not JSON: Expecting value: line 1 column 1",
        ),
        (
            "chat hi --template-arguments [1]",
            "--template-arguments: '[1]' is not a JSON object",
        ),
        (
            "generate hi --max-tokens x",
            "--max-tokens: 'x' is not a whole number from 1 to 4294967295",
        ),
        (
            "generate hi --seed -1",
            "--seed: '-1' is not a whole number from 0 to 18446744073709551615",
        ),
        ("generate hi --seed 18446744073709551616", "--seed: '18446744073709551616' is not a "),
        (
            "generate hi --stop-token-id -1",
            "--stop-token-id: '-1' is not a whole number from 0 to 4",
        ),
        ("generate hi -n 33", "-n/--n: '33' is not a whole number from 1 to 32"),
        ("generate hi --temperature hot", "--temperature: 'hot' is not a number"),
        ("generate hi --time-budget inf", "--time-budget: 'inf' is not a time in seconds"),
        ("models --timeout -1", "--timeout: '-1' is not a time in seconds, 0 or more"),
        ("top --interval 0", "--interval: '0' is not a time from 0.1 to 60 seconds"),
        ("top --records 101", "--records: '101' is not a whole number from 0 to 100"),
        (
            "generate 1,2 --token-ids",
            "PROMPT: '1,2' is not a whole number from 0 to 4294967295, as",
        ),
        ("detokenize abc", "ID: 'abc' is not a whole number from 0 to 4294967295, as a token id"),
        (
            "detokenize 1 -2",
            "ID: '-2' is not a whole number from 0 to 4294967295, as a token id is",
        ),
        ("generate hi --logit-bias 5", "--logit-bias: '5' is not ID=BIAS, such as 42=-1.5"),
        ("generate \udcff", "the argument is not UTF-8 text"),
    ],
)
def test_a_value_that_is_not_allowed_names_its_option_and_what_is(misuse, words, said):
    assert misuse(*words.split()).startswith(f"tokenwire: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate --max-token 3 hi", "unknown option --max-token; did you mean --max-tokens?"),
        ("generate hi --quux=3 --huh", "unknown option --quux"),
        ("generate Good day", "unexpected argument 'day'; put quotes around a text with spaces"),
        ("workers all", "unexpected argument 'all'"),
    ],
)
def test_what_a_command_does_not_read_is_named(misuse, words, said):
    command = words.split()[0]
    assert misuse(*words.split()) == f"tokenwire: {said}; see tokenwire {command} --help\n"


def test_an_option_that_stands_before_its_command(misuse):
    said = "tokenwire: --json goes after the command: tokenwire models --json"
    assert misuse("--json", "models").startswith(said)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("words", ["generate -", "tokenize -", "detokenize -", "chat -", "chat"])
def test_standard_input_has_to_be_text(misuse, monkeypatch, words, errors):
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", stdin)
    assert misuse(*words.split()) == "tokenwire: standard input is not UTF-8 text\n"


def test_a_file_of_an_option_has_to_be_text(misuse, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_bytes(b"\xff")
    said = misuse("generate", "hi", "--json-schema", f"@{schema}")
    assert said.startswith(f"tokenwire: --json-schema: {schema} is not UTF-8 text")


@pytest.mark.parametrize(
    "given",
    ["localhost", "localhost:", ":50051", "127.0.0.1:x", "127.0.0.1:65536", "::1", "http://a:1"],
)
def test_a_target_is_host_and_port(misuse, monkeypatch, given):
    said = f"tokenwire: --target: {given!r} is not HOST:PORT, such as 127.0.0.1:50051; see "
    assert misuse("models", "--target", given).startswith(said)
    monkeypatch.setenv("TOKENWIRE_TARGET", given)
    assert misuse("models").startswith(said)


@pytest.mark.parametrize(
    "given", ["localhost:1", "[::1]:50051", "dns:///a:1", "unix:/run/tokenwire", "ipv6:[::1]:1"]
)
def test_a_target_may_be_any_name_that_gRPC_knows(given):
    assert arguments.target(given) == given


def test_tls_files_are_checked_and_their_options_named(misuse, tmp_path):
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    assert misuse("models", "--tls-ca", "nope.pem") == (
        "tokenwire: --tls-ca: nope.pem: No such file or directory\n"
    )
    assert misuse("models", "--tls-ca", str(text)) == (
        f"tokenwire: --tls-ca: {text} is not a certificate (PEM)\n"
    )
    assert misuse("models", "--tls-certificate", str(text), "--tls-key", str(text)) == (
        f"tokenwire: --tls-certificate: {text} is not a certificate (PEM)\n"
    )
    assert misuse("models", "--tls-key", str(text)) == (
        "tokenwire: --tls-certificate and --tls-key go together\n"
    )


def test_a_server_that_is_no_frontend_is_told(capsys):
    with ThreadPoolExecutor(1) as threads:
        other = grpc.server(threads)
        address = f"127.0.0.1:{other.add_insecure_port('127.0.0.1:0')}"
        other.start()
        for words in (["models"], ["generate", "hi"], ["top", "--once"]):
            assert main([*words, "--target", address]) == 1
            said = capsys.readouterr().err
            assert said.startswith(f"tokenwire: no Tokenwire frontend at {address}: it may be a ")
            assert said.count("\n") == 1
        other.stop(None).wait()


def test_gRPC_s_own_log_does_not_reach_the_terminal_unless_asked_for(server):
    words = [*INSTALLED, "models", "--tls", "--target", server.address]
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    line = f"tokenwire: no connection to {server.address}: it does not speak TLS\n"
    assert (done.returncode, done.stdout, done.stderr) == (69, "", line)
    environment["GRPC_VERBOSITY"] = "INFO"
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.endswith(line)
    assert "Handshake failed" in done.stderr
