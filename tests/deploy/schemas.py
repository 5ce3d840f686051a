"""What the API server would say of an object: schemas of Kubernetes and of custom resources."""

from __future__ import annotations

import functools
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.kubernetes import FETCHED, KUBERNETES

DEFINITIONS = FETCHED / "crds"

needs_schemas = pytest.mark.skipif(
    not DEFINITIONS.is_dir(),
    reason="the schemas of custom resources are not here: `make helm` fetches them",
)


def faults(described: Any) -> list[str]:
    """Returns what is wrong with an object; unknown fields are."""
    custom = _custom().get((described["apiVersion"], described["kind"]))
    if custom is None:
        try:
            kubernetes_validate.validate(described, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [str(error)]
        return []
    validator = jsonschema.Draft202012Validator(custom)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(described)]


@functools.cache
def _custom() -> dict[tuple[str, str], Any]:
    """Returns the schemas of custom resources, by apiVersion and kind."""
    found = {}
    for path in DEFINITIONS.glob("*.yaml"):
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[name] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """Returns a schema that takes no fields but those it names, as the API server prunes others."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("anyOf", None)
        return {"type": ["integer", "string"]}
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
