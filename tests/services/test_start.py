"""Starting a service: variables as settings, and wrong settings, which end it with 64."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_service.settings import parse

from tests.services.calls import (
    Frontend,
    endless,
    generation,
    read_to_first_token,
    refused,
)
from tests.services.processes import (
    EX_USAGE,
    MODEL,
    SERVING,
    check_refused,
    free_address,
    listening,
    wait_for_health,
)


def test_the_environment_sets_what_the_command_line_does_not(processes, plain_worker):
    address = free_address()
    started = processes.run(
        "tokenwire_frontend",
        ["--log-format", "json"],
        {
            "TOKENWIRE_FRONTEND_WORKERS": f'["{plain_worker.address}"]',
            "TOKENWIRE_FRONTEND_LISTEN": address,
            "TOKENWIRE_FRONTEND_GENERATIONS_LIMIT": "1",
            "TOKENWIRE_FRONTEND_LOG_FORMAT": "text",
        },
    )
    assert started.address == address
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        running = client.start(endless())
        read_to_first_token(running)
        assert refused(lambda: client.stream(generation())).reason == "TOO_MANY_GENERATIONS"
        running.cancel()


def test_there_is_no_port_but_that_of_grpc_unless_it_is_asked_for(
    services, shared_frontend, shared_worker
):
    asked_for = shared_frontend.wait_for("openai_listening")["address"]
    for process, addresses in ((shared_frontend, [asked_for]), (shared_worker, [])):
        ports = {int(each.rpartition(":")[2]) for each in (process.address, *addresses)}
        assert listening(process) == ports


ONE = ["--worker", "127.0.0.1:50061"]


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ([], "--worker"),
        ([*ONE, "--no-such-setting", "1"], "--no-such-setting"),
        (["--worker", "no-port"], "--worker"),
        (["--worker", ""], "--worker"),
        ([*ONE, "--listen", "no.such.host.invalid:0"], "--listen"),
        ([*ONE, "--generations-limit", "0"], "--generations-limit"),
        ([*ONE, "--listen", "0.0.0.0:0"], "--listen 0.0.0.0:0: other hosts reach it"),
        ([*ONE, "--listen", "[::]:0"], "--insecure"),
        (
            [*ONE, "--processes", "2", "--process-listen", "0.0.0.0:0"],
            "--process-listen 0.0.0.0:0: other hosts reach it",
        ),
        ([*ONE, "--api-keys-file", "/no/such/file"], "--api-keys-file: /no/such/file"),
        ([*ONE, "--jwt.jwks", "/no/such/file"], "--jwt.jwks: /no/such/file"),
        ([*ONE, "--jwt.issuer", "i"], "--jwt.jwks"),
        ([*ONE, "--tls.client-names", "a"], "--tls.client-names requires --tls.ca"),
        ([*ONE, "--tls.ca", "/no/such/file"], "--tls"),
        ([*ONE, "--tls.certificate", "/no/file", "--tls.key", "/no/file"], "--tls.key"),
        ([*ONE, "--tls.key", "/no/such/file"], "--tls.certificate"),
        ([*ONE, "--worker-tls.ca", "/no/such/file"], "--worker-tls.ca"),
        ([*ONE, "--worker-tls.key", "/no/such/file"], "--worker-tls"),
    ],
)
def test_a_frontend_started_wrongly_ends_with_64_and_the_setting(main_here, arguments, setting):
    arguments = ["--listen", "127.0.0.1:0", *arguments]
    main_here("tokenwire_frontend", *arguments).check_refused(setting)


def test_addresses_of_lists_may_be_ipv6(monkeypatch):
    expected = ["[::1]:7", "a:8", "[fd00::2]:9"]
    for arguments in (
        ["--worker", "[::1]:7", "--worker", "a:8", "--worker=[fd00::2]:9"],
        ["--worker", "[::1]:7,a:8,[fd00::2]:9"],
        ["--worker", '["[::1]:7", "a:8", "[fd00::2]:9"]'],
    ):
        chosen = parse(FrontendSettings, "tokenwire-frontend", [*arguments, "--listen", "[::1]:0"])
        assert (chosen.worker, chosen.listen) == (expected, "[::1]:0")
    for value in ("[::1]:7, a:8, [fd00::2]:9", '["[::1]:7", "a:8", "[fd00::2]:9"]'):
        monkeypatch.setenv("TOKENWIRE_FRONTEND_WORKERS", value)
        assert parse(FrontendSettings, "tokenwire-frontend", []).worker == expected


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["surplus"], "surplus"),
        (["--worker", "host:port"], "--worker"),
        (["--worker", "127.0.0.1:99999"], "--worker"),
        (["--worker", "10.0.0.1:0"], "ports begin at 1"),
        (["--worker", "[1:2]:7"], "no host has this name"),
        (["--worker", "dns:///workers..example:7"], "no host has this name"),
        (["--worker", f"dns:///{'x' * 64}.example:7"], "no host has this name"),
        (["--advertise-address", "10.0.0.1:0"], "--advertise-address"),
        (["--listen", "127.0.0.1"], "--listen"),
        (["--listen", "127.0.0.1:70000"], "--listen"),
        (["--generations-limit", "many"], "--generations-limit"),
        (["--tokenizer-processes", "1"], "--tokenizer-processes"),
        (["--tokenizer-waiting-limit", "0"], "--tokenizer-waiting-limit"),
        (["--drain-grace-s", "-1"], "--drain-grace-s"),
        (["--drain-grace-s", "nan"], "--drain-grace-s"),
        (["--log-level", "loud"], "--log-level"),
        (["--log-format", "xml"], "--log-format"),
    ],
)
def test_a_bad_value_of_each_setting_is_refused_by_its_name(arguments, setting, capsys):
    """The parser that the processes above run, without the processes."""
    with pytest.raises(SystemExit) as exit_:
        parse(FrontendSettings, "tokenwire-frontend", [*ONE, *arguments])
    assert exit_.value.code == EX_USAGE
    assert setting in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("TOKENWIRE_FRONTEND_LISTEN", "nowhere", "listen"),
        ("TOKENWIRE_FRONTEND_GENERATIONS_LIMIT", "-3", "generations"),
        ("TOKENWIRE_FRONTEND_WORKERS", "not json", "TOKENWIRE_FRONTEND_WORKERS"),
    ],
)
def test_a_bad_variable_ends_with_64_and_its_name(main_here, name, value, setting):
    arguments = [] if name.endswith("WORKERS") else ONE
    main_here("tokenwire_frontend", *arguments, **{name: value}).check_refused(setting)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ([], "--model"),
        (["--model", "/no/such/folder"], "--model"),
        (["--model", str(Path(__file__).parent)], "--model"),
        (["--model", str(MODEL), "--listen", "nowhere"], "--listen"),
        (["--model", str(MODEL), "--listen", "0.0.0.0:0"], "set --tls.ca, or --insecure"),
        (["--model", str(MODEL), "--engine", "steam"], "--engine"),
        (["--model", str(MODEL), "--no-such-setting", "1"], "--no-such-setting"),
        (["--model", str(MODEL), "--max-waiting-requests", "-1"], "--max-waiting-requests"),
        (
            ["--model", str(MODEL), "--openvino.max-sequences", "0"],
            "--openvino.max-sequences",
        ),
        (["--model", str(MODEL), "--tls.key", "/no/such/file"], "--tls"),
    ],
)
def test_a_worker_started_wrongly_ends_with_64_and_the_setting(main_here, arguments, setting):
    main_here("tokenwire_worker", *arguments).check_refused(setting)


def test_a_worker_learns_before_it_loads_that_its_port_is_taken(main_here):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        ended = main_here("tokenwire_worker", "--model", str(MODEL), "--listen", taken)
    ended.check_refused(f"--listen {taken} can't be listened on: Address already in use")
    assert "loading" not in ended.said


def test_a_port_that_is_taken_ends_with_64(processes):
    """A process of its own, as of somebody who starts it so; for a worker see its settings."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        check_refused(
            processes.run("tokenwire_frontend", [*ONE, "--listen", taken]), f"--listen {taken}"
        )


@pytest.mark.parametrize("module", ["tokenwire_frontend", "tokenwire_worker"])
def test_help_is_no_error(main_here, module):
    ended = main_here(module, "--help")
    assert ended.code == 0
    assert "--listen" in ended.printed
