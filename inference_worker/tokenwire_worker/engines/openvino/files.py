"""A model's files: their names, and folders of them that OpenVINO can read."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MODEL_FILE = "openvino_model.xml"
"""The model itself, in a folder of OpenVINO IR."""

WEIGHTS_FILE = "openvino_model.bin"
"""Its weights."""

TOKENIZER_FILE = "openvino_tokenizer.xml"
"""The tokenizer as OpenVINO has it, which guides need."""

TOKENIZER_CONFIG = "tokenizer_config.json"


class ReadableFolders:
    """Folders as OpenVINO can read them, until they are closed.

    OpenVINO refuses a folder whose tokenizer_config.json has a special token as an AddedToken
    object, as many models do. In its place it gets a folder of links, with the token as text.
    """

    def __init__(self) -> None:
        self._links: dict[Path, TemporaryDirectory[str]] = {}

    def readable(self, path: Path) -> Path:
        """Returns the folder, or one in its place; a file is returned as it is."""
        if path not in self._links:
            config = _with_plain_tokens(path / TOKENIZER_CONFIG)
            if config is None:
                return path
            self._links[path] = links = TemporaryDirectory(prefix="tokenwire-model-")
            for file in path.iterdir():
                if file.name != TOKENIZER_CONFIG:
                    Path(links.name, file.name).symlink_to(file.resolve())
            Path(links.name, TOKENIZER_CONFIG).write_text(json.dumps(config))
        return Path(self._links[path].name)

    def close(self) -> None:
        """Removes the links."""
        for links in self._links.values():
            links.cleanup()


def _with_plain_tokens(path: Path) -> dict[str, Any] | None:
    """Returns a tokenizer_config.json whose tokens are texts; None: it may stay as it is."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # OpenVINO and the frontends say what is wrong
    if not isinstance(config, dict):
        return None
    tokens = {
        name: value["content"]
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, dict) and "content" in value
    }
    return {**config, **tokens} if tokens else None
