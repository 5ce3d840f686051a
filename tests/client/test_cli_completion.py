"""Completion of the commands, by a real bash that runs the printed script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenwire.cli.main import main

from tests.services.processes import WAIT_S

BASH = r"""
source "$1"
while read -r -a COMP_WORDS; do
  COMP_LINE="${COMP_WORDS[*]}" COMP_TYPE=9
  COMP_POINT=${#COMP_LINE} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _python_argcomplete "${COMP_WORDS[0]}"
  echo "${COMPREPLY[*]}"
done
"""

LINES = {
    "tokenwire lor": ["lora"],
    "tokenwire lora l": ["list", "load"],
    "tokenwire generate --deta": ["--detach", "--detach-ttl"],
    "tokenwire-frontend --worker-tls.c": ["--worker-tls.ca", "--worker-tls.certificate"],
    "tokenwire-worker --log-level w": ["warning"],
}


def test_bash_completes_every_command(capsys, tmp_path):
    """Each line as it stands when Tab is pressed, and what bash then has."""
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(script)],
        input="".join(f"{line}\n" for line in LINES),
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    found = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert dict(zip(LINES, found, strict=True)) == LINES


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_a_script_for_every_command(capsys, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in ("tokenwire", "tokenwire-frontend", "tokenwire-worker"):
        assert f"{command} " in script or f"{command}\n" in script or f"{command}'" in script
