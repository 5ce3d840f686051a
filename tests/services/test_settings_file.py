"""Settings from a YAML file: what goes first, and what is wrong with a file."""

from __future__ import annotations

import os
import re

import pytest
import yaml
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_service.settings import ServiceSettings, parse
from tokenwire_worker.settings import WorkerSettings

from tests.services.processes import EX_USAGE, MODEL, ROOT

A, B = "127.0.0.1:50061", "127.0.0.1:50062"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in os.environ:
        if name.startswith("TOKENWIRE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path):
    """Writes a file of settings, and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return str(path)

    return write


def refused(capsys, path: str, settings: type[ServiceSettings] = FrontendSettings) -> list[str]:
    """Returns what is said of a file, but for the line that points to --help."""
    with pytest.raises(SystemExit) as exit_:
        parse(settings, "service", ["--config", path])
    assert exit_.value.code == EX_USAGE
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == "service: --help tells more"
    return [line.removeprefix("service: ").replace(path, "FILE") for line in lines]


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(write, monkeypatch):
    path = write(
        f"worker: [{A}, {B}]\n"
        "tls: {certificate: file.pem, key: file.key, ca: file.ca}\n"
        "generations_limit: 1\nrecords_limit: 2\nmove_wait_s: 3\nfast_encoding: false\n"
    )
    monkeypatch.setenv("TOKENWIRE_FRONTEND_CONFIG", path)
    monkeypatch.setenv("TOKENWIRE_FRONTEND_TLS__KEY", "variable.key")
    monkeypatch.setenv("TOKENWIRE_FRONTEND_RECORDS_LIMIT", "20")
    arguments = ["--tls.ca", "flag.ca", "--move-wait-s", "30", "--listen", A]
    chosen = parse(FrontendSettings, "service", arguments)
    assert chosen.worker == [A, B]
    assert [str(each) for each in (chosen.tls.certificate, chosen.tls.key, chosen.tls.ca)] == [
        *("file.pem", "variable.key", "flag.ca"),
    ]
    assert (chosen.generations_limit, chosen.records_limit, chosen.move_wait_s) == (1, 20, 30)
    assert not chosen.fast_encoding
    assert chosen.listen == A


def test_a_worker_has_its_engines_settings_in_groups(write):
    path = write(
        f"model: {MODEL}\nengine: vllm\n"
        "vllm:\n  max_num_seqs: 8\n  lora:\n    law: /adapters/law\n    poems: /adapters/poems\n"
        "  arg: {seed: 3, swap_space: 1.5}\n"
        "openvino: {property: {CACHE_DIR: /tmp}}\n"
    )
    chosen = parse(WorkerSettings, "service", ["--config", path, "--vllm.lora", "law=/new/law"])
    assert chosen.vllm.max_num_seqs == 8
    named = {name: str(path) for name, path in chosen.vllm.lora.items()}
    assert named == {"law": "/new/law", "poems": "/adapters/poems"}
    assert chosen.vllm.arg == {"seed": 3, "swap_space": 1.5}
    assert chosen.openvino.property == {"CACHE_DIR": "/tmp"}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
def test_an_empty_file_says_nothing(write, text):
    chosen = parse(FrontendSettings, "service", ["--config", write(text), "--worker", A])
    assert chosen.worker == [A]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "workers: [a:1]\nworker-tls: {}\ntls: {certificat: x}\n",
            [
                f"--config: FILE: {wrong}: unknown setting; did you mean {right}?"
                for wrong, right in (
                    ("workers", "worker"),
                    ("worker-tls", "worker_tls"),
                    ("tls.certificat", "tls.certificate"),
                )
            ],
        ),
        (
            f"worker: [{A}, nowhere]\nlisten: 5\nprocesses: 0\ntls: {{key: [x]}}\n",
            [
                "FILE: worker[1]: 'nowhere' is not HOST:PORT",
                "FILE: listen: should be a valid string, not 5",
                "FILE: processes: should be greater than or equal to 1, not 0",
                "FILE: tls.key: is not a valid path",
            ],
        ),
        ("tls: 5\n", ["--config: FILE: tls: is not a mapping of settings"]),
        ("config: other.yaml\n", ["--config: FILE: config: a file of settings can't name another"]),
        (f"worker: [{A}]\nworker: [{B}]\n", ["--config: FILE:2:1: worker stands here twice"]),
        ("tls: {ca: a, ca: b}\n", ["--config: FILE:1:14: ca stands here twice"]),
        ("1: 2\n", ["--config: FILE:1:1: the key 1 is not a text"]),
        ("- worker\n", ["--config: FILE is not a mapping of settings"]),
        ("worker: [a\n", ["--config: FILE:2:1: did not find expected ',' or ']'"]),
        ("worker: !!python/object:os.system {}\n", None),
        ("worker: \x00\n", None),
        ("[" * 100_000, None),
        ("a: " + "b" * 2**20, ["--config: FILE: has more than 1048576 bytes"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_its_place(write, capsys, text, lines):
    said = refused(capsys, write(text))
    if lines is None:
        assert len(said) == 1
        assert said[0].startswith("--config: FILE")
    else:
        assert sorted(said) == sorted(lines)


def test_a_file_that_can_not_be_read_is_named(capsys, tmp_path):
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file or directory")):
        assert refused(capsys, str(path)) == [f"--config: FILE: {why}"]


def examples() -> list[tuple[type[ServiceSettings], str]]:
    """Returns the files of settings that docs/operations.md shows, by service."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.findall(r"```yaml\n# (frontend|worker)\.yaml\n(.*?)```", text, re.DOTALL)
    kinds = {"frontend": FrontendSettings, "worker": WorkerSettings}
    return [(kinds[name], content) for name, content in found]


def test_the_documented_files_are_good(write, monkeypatch, tmp_path):
    assert len(examples()) == 2
    monkeypatch.chdir(tmp_path)
    for folder in ("adapters",):
        (tmp_path / folder).mkdir()
    for settings, content in examples():
        chosen = parse(settings, "service", ["--config", write(content)])
        assert chosen.model_fields_set >= set(yaml.safe_load(content))
