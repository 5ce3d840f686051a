"""The wheels: what is in them, and that they work alone on each Python of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packages import pythons, wheels
from tests.packages.wheels import PACKAGES, ROOT
from tests.services.processes import WAIT_S, Processes
from tests.table import table

COMMANDS = {
    "tokenwire": ["tokenwire"],
    "tokenwire-service": [],
    "tokenwire-frontend": ["tokenwire-frontend"],
    "tokenwire-worker": ["tokenwire-worker"],
}
PYTHONS = pythons.found()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheels.build(tmp_path_factory.mktemp("wheels"))


def names(requirements):
    return {re.match(r"[\w.-]+", line)[0] for line in requirements}


def test_each_has_every_file_of_its_packages_and_nothing_else(built):
    with table() as row:
        for name, packages in PACKAGES.items():
            with row(name):
                expected = {
                    str(file.relative_to((ROOT / folder).parent))
                    for folder in packages
                    for file in (ROOT / folder).rglob("*")
                    if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so"
                }
                with ZipFile(built[name]) as files:
                    packed = {each for each in files.namelist() if ".dist-info/" not in each}
                assert packed == expected
                assert f"{Path(packages[0]).name}/py.typed" in packed


def test_each_says_what_it_is(built):
    versions = set()
    with table() as row:
        for name, wheel in built.items():
            with row(name):
                told = wheels.metadata(wheel)
                versions.add(told["Version"])
                assert told["License-Expression"] == "Apache-2.0"
                assert told["Requires-Python"] == ">=3.11"
                assert told["Summary"]
                assert told.get_all("Project-URL")
                classifiers = told.get_all("Classifier")
                assert "Typing :: Typed" in classifiers
                assert f"Programming Language :: Python :: {pythons.THIS}" in classifiers
                assert len(told.get_payload()) > 200, "the README"
                with ZipFile(wheel) as files:
                    (licence,) = (each for each in files.namelist() if each.endswith("/LICENSE"))
                    assert files.read(licence) == (ROOT / "LICENSE").read_bytes()
                    entries = [each for each in files.namelist() if "entry_points" in each]
                    scripts = ConfigParser()
                    scripts.read_string("".join(files.read(each).decode() for each in entries))
                commands = scripts["console_scripts"] if entries else {}
                assert list(commands) == COMMANDS[name]
    assert len(versions) == 1


def test_the_client_requires_no_service_and_services_their_own_version(built):
    assert names(wheels.required(built["tokenwire"])) == {
        "grpcio",
        "protobuf",
        "googleapis-common-protos",
    }
    version = wheels.metadata(built["tokenwire"])["Version"]
    client, service = f"tokenwire=={version}", f"tokenwire-service=={version}"
    for name, own in (
        ("tokenwire-service", {client}),
        ("tokenwire-frontend", {client, service}),
        ("tokenwire-worker", {client, service}),
    ):
        lines = wheels.required(built[name])
        assert {each for each in lines if each.startswith("tokenwire")} == own


class Environment:
    """A virtual environment of one of the Pythons, with what the services require but not ours."""

    def __init__(self, version: str, folder: Path) -> None:
        self.python = folder / "bin/python"
        self._folder = folder
        self._run(PYTHONS[version], "-m", "venv", "--without-pip", folder)
        required = pythons.FETCHED / version
        if version == pythons.THIS:
            required = folder / "required"
            self._link_own(required)
        site = folder / f"lib/python{version}/site-packages"
        (site / "required.pth").write_text(str(required))

    def _link_own(self, required: Path) -> None:
        """Links what is installed here, without Tokenwire itself."""
        required.mkdir()
        for each in Path(sysconfig.get_path("purelib")).iterdir():
            if "tokenwire" not in each.name:
                (required / each.name).symlink_to(each)

    def install(self, *built: Path) -> None:
        """Installs wheels; what they require must be here."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "-q")
        options = ("--no-index", "--no-compile", "--disable-pip-version-check")
        self._run(*pip, *options, *built)

    def run(self, command: str, *arguments: str) -> str:
        """Runs one of its commands, outside of the checkout; returns its standard output."""
        return self._run(self.python.parent / command, *arguments)

    def _run(self, *command: str | Path) -> str:
        ended = subprocess.run(
            command,
            cwd=self._folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """Returns the environment of a Python with all wheels, which is made once."""
    made = {}

    def get(version):
        if version not in made:
            folder = tmp_path_factory.mktemp("environments") / version
            folder.mkdir()
            made[version] = Environment(version, folder)
            made[version].install(*built.values())
        return made[version]

    return get


@pytest.fixture(scope="module")
def frontend(environment):
    """A frontend and a worker of the wheels."""
    processes = Processes(environment(pythons.THIS).python)
    started = processes.frontend(workers=[processes.simulated()])
    started.wait_for("starting", compiled=False)
    started.wait_for("worker", state="ready")
    yield started
    processes.end()


@pytest.mark.parametrize("version", PYTHONS)
def test_they_install_and_answer(built, environment, frontend, version):
    if version != pythons.THIS and not (pythons.FETCHED / version).exists():
        pytest.skip(f"`make pythons` fetches what the services require on Python {version}")
    installed = environment(version)
    told = wheels.metadata(built["tokenwire"])["Version"]
    assert installed.run("tokenwire", "--version") == f"tokenwire {told}\n"
    installed.run("python", "-c", "import tokenwire_frontend.main, tokenwire_worker.main")
    answer = installed.run(
        "tokenwire", "generate", "--target", frontend.address, "--max-tokens", "8", "Hi"
    )
    assert re.search(r"\w", answer)


def test_the_compiled_wheel_installs_over_the_other_and_answers(built, tmp_path):
    compiled = wheels.build_compiled(tmp_path / "wheel")
    tag = f"cp3{sys.version_info.minor}-cp3{sys.version_info.minor}-"
    assert tag in compiled.name, "a C compiler and Python's headers are required for this test"
    installed = Environment(pythons.THIS, tmp_path)
    others = [wheel for name, wheel in built.items() if name != "tokenwire-frontend"]
    installed.install(compiled, *others)
    processes = Processes(installed.python)
    frontend = processes.frontend(workers=[processes.simulated()])
    assert frontend.wait_for("starting")["compiled"] is True
    frontend.wait_for("worker", state="ready")
    target = ("--target", frontend.address)
    answer = installed.run("tokenwire", "generate", *target, "--max-tokens", "8", "Hi")
    processes.end()
    assert re.search(r"\w", answer)


def test_the_client_alone_needs_no_service(built, tmp_path):
    alone = Environment(pythons.THIS, tmp_path)
    alone.install(built["tokenwire"])
    code = "import tokenwire.client, tokenwire.async_client, tokenwire_service"
    with pytest.raises(AssertionError, match="No module named 'tokenwire_service'"):
        alone.run("python", "-c", code)
