"""The services' commands where only the client is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.services.processes import ROOT, WAIT_S

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"structlog", "pydantic_settings", "grpc_health", "aiohttp"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name=sys.argv.pop(1))
script.load()()
"""


@pytest.mark.parametrize(
    ("command", "extra"), [("tokenwire-frontend", "frontend"), ("tokenwire-worker", "openvino")]
)
def test_a_client_only_installation_is_told_what_is_missing(command, extra):
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == 64, ended
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{command}: ")
    assert f"'.[{extra}]'" in line


def test_a_folder_named_as_the_package_does_not_hide_it(tmp_path):
    (tmp_path / "tokenwire" / "docs").mkdir(parents=True)
    ended = subprocess.run(
        [sys.executable, "-c", "from tokenwire import Client"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
