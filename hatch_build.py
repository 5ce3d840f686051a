"""What the distributions of the services take from the client's, in `pyproject.toml` beside this.

hatchling runs it when it builds `service`, `frontend` or `inference_worker`. So there is one
version, and each distribution requires just that version of the others, whose internals it calls.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

SHARED = ("version", "requires-python", "license", "authors", "classifiers", "urls")


class ServiceMetadata(MetadataHookInterface):
    """Completes the metadata of one distribution."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets what its `project.dynamic` lists."""
        text = (Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8")
        client = tomllib.loads(text)["project"]
        metadata.update({field: client[field] for field in SHARED})
        own = [f"{name}=={client['version']}" for name in self.config["same-version"]]
        metadata["dependencies"] = [*own, *self.config["dependencies"]]
