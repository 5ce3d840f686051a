"""Generates the Python stubs from protos/, and the contract's descriptor image.

    python tools/generate_stubs.py [--out FOLDER]

The stubs land in clients/python, whose layout mirrors the proto packages, so that the imports which
protoc writes are right as they are. Run it through `make proto`.
"""

import argparse
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PYTHON = ROOT / "clients/python"

GOOGLE_FILES = ("error_details.proto", "status.proto")
"""Google's files that the contract needs, of googleapis-common-protos. They are committed, so that
protos/ is whole for any protoc; the Python stubs use the package."""


def protoc(*arguments: str, services_only: bool = False) -> None:
    """Runs protoc on the contract's proto files, or on those that define a service."""
    paths = sorted((PROTOS / "tokenwire").rglob("*.proto"))
    if services_only:
        paths = [path for path in paths if "\nservice " in path.read_text()]
    sources = [str(path.relative_to(PROTOS)) for path in paths]
    well_known = str(files("grpc_tools").joinpath("_proto"))
    includes = [f"-I{PROTOS}", f"-I{well_known}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments, *sources]
    subprocess.run(command, check=True)


def _plugin(name: str) -> str:
    """Names a protoc plugin of this environment, whatever PATH says."""
    path = Path(sys.executable).with_name(f"protoc-gen-{name}")
    return f"--plugin=protoc-gen-{name}={path}"


def main() -> None:
    """Writes the stubs into --out and the descriptor image into build/contract.binpb."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PYTHON)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    if out == PYTHON:
        for name in GOOGLE_FILES:
            source = files("google.rpc").joinpath(name)
            (PROTOS / "google/rpc" / name).write_bytes(source.read_bytes())
    protoc(f"--python_out={out}", f"--mypy_out={out}", _plugin("mypy"))
    typed = [f"--mypy_grpc_out={out}", _plugin("mypy_grpc")]
    protoc(f"--grpc_python_out={out}", *typed, services_only=True)
    image = ROOT / "build/contract.binpb"
    image.parent.mkdir(exist_ok=True)
    protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")


if __name__ == "__main__":
    main()
