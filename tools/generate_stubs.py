"""Generates the Python stubs from protos/, and the contract's descriptor image.

    python tools/generate_stubs.py [--out FOLDER]

The contract's stubs land in clients/python, whose layout mirrors the proto packages, so that the
imports which protoc writes are right as they are. Those of the Open Inference Protocol belong to
the frontend alone: in a process that has the stubs of Triton's own client they would clash. Run it
through `make proto`.
"""

import argparse
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PYTHON = "clients/python"
FRONTEND = "frontend"

INFERENCE = "tokenwire_frontend/edge/kserve/stubs"
"""Package of the frontend that has the stubs of protos/inference."""

GOOGLE_FILES = ("error_details.proto", "status.proto")
"""Google's files that the contract needs, of googleapis-common-protos. They are committed, so that
protos/ is whole for any protoc; the Python stubs use the package."""


def contract(*, services_only: bool = False) -> list[str]:
    """Returns the contract's proto files, or those that define a service."""
    paths = sorted((PROTOS / "tokenwire").rglob("*.proto"))
    if services_only:
        paths = [path for path in paths if "\nservice " in path.read_text()]
    return [str(path.relative_to(PROTOS)) for path in paths]


def inference() -> list[str]:
    """Returns the files of the Open Inference Protocol."""
    return [f"{INFERENCE}/{path.name}" for path in (PROTOS / "inference").glob("*.proto")]


def protoc(sources: list[str], *arguments: str) -> None:
    """Runs protoc on proto files."""
    well_known = str(files("grpc_tools").joinpath("_proto"))
    includes = [f"-I{PROTOS}", f"-I{INFERENCE}={PROTOS}/inference", f"-I{well_known}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments, *sources]
    subprocess.run(command, check=True)


def stubs(out: Path, messages: list[str], services: list[str]) -> None:
    """Writes the stubs of files' messages, and of services, below a folder."""
    out.mkdir(parents=True, exist_ok=True)
    protoc(messages, f"--python_out={out}", f"--mypy_out={out}", _plugin("mypy"))
    typed = [f"--mypy_grpc_out={out}", _plugin("mypy_grpc")]
    protoc(services, f"--grpc_python_out={out}", *typed)


def _plugin(name: str) -> str:
    """Names a protoc plugin of this environment, whatever PATH says."""
    path = Path(sys.executable).with_name(f"protoc-gen-{name}")
    return f"--plugin=protoc-gen-{name}={path}"


def main() -> None:
    """Writes the stubs below --out and the descriptor image into build/contract.binpb."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT)
    out = parser.parse_args().out
    if out == ROOT:
        for name in GOOGLE_FILES:
            source = files("google.rpc").joinpath(name)
            (PROTOS / "google/rpc" / name).write_bytes(source.read_bytes())
    stubs(out / PYTHON, contract(), contract(services_only=True))
    stubs(out / FRONTEND, inference(), inference())
    image = ROOT / "build/contract.binpb"
    image.parent.mkdir(exist_ok=True)
    protoc(
        contract(), "--include_imports", "--include_source_info", f"--descriptor_set_out={image}"
    )


if __name__ == "__main__":
    main()
