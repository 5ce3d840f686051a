"""The public names are what `__all__` says: no more, no less."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import tokenwire
from tokenwire import AsyncClient, Client, telemetry


def test_all_is_what_type_checkers_see():
    stub = ast.parse(Path(tokenwire.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    homes = {
        alias.name: f"{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    [listed] = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(listed) == tokenwire.__all__ == sorted(tokenwire.__all__)
    assert homes.keys() == set(tokenwire.__all__) - {"__version__"}
    for name, module in homes.items():
        assert getattr(tokenwire, name) is getattr(import_module(module), name)


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'Clinet'"):
        _ = tokenwire.Clinet


def test_everything_public_is_documented():
    for name in tokenwire.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(tokenwire, name)), name


def test_the_module_for_channels_says_what_it_has():
    assert telemetry.__all__ == ["aio_interceptors", "interceptors"]
    for name in telemetry.__all__:
        assert inspect.getdoc(getattr(telemetry, name)), name


def test_the_twins_have_the_same_methods_and_arguments():
    def methods(kind):
        return {
            name: [
                (parameter.name, parameter.kind, parameter.default)
                for parameter in inspect.signature(value).parameters.values()
            ]
            for name, value in vars(kind).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }

    blocking, asynchronous = methods(Client), methods(AsyncClient)
    asynchronous.pop("session")
    assert blocking == asynchronous
    assert list(inspect.signature(Client).parameters) == list(
        inspect.signature(AsyncClient).parameters
    )


def test_the_client_needs_nothing_but_its_dependencies():
    code = """
import sys
import tokenwire
import tokenwire.cli.main
tokenwire.Client("127.0.0.1:1").close()
loaded = {name.partition('.')[0] for name in sys.modules}
services = {'tokenwire_service', 'tokenwire_frontend', 'tokenwire_worker', 'pydantic', 'structlog'}
unasked = {'tokenwire.telemetry', 'tokenwire._spans', 'opentelemetry.propagate', 'rich'}
sys.exit(bool(loaded & services or unasked & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
