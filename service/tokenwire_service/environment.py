"""Settings from environment variables: their names, lists as plain text, names that mean nothing.

A variable with a service's prefix that is no setting of it is an error, so that a misspelt one does
not pass in silence. Kubernetes gives each pod variables of its services, and one named
`tokenwire-worker` brings TOKENWIRE_WORKER_SERVICE_HOST and more: those are nobody's settings.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

NESTED = "__"
"""Stands in a variable's name for the dot of a group."""

_KUBERNETES = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT = re.compile(r"(.+_)?PORT"), re.compile(r"(tcp|udp|sctp)://")
"""Its name and its value: PORT alone may be somebody's guess at a setting."""


class Environment(EnvSettingsSource):
    """Variables as settings; a list may be plain text, with commas, as well as JSON."""

    other_names: ClassVar[dict[str, str]] = {"worker": "workers"}
    """Further names, by setting: of the frontend, in which a variable names all its workers."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Returns the value, the name of the field, and whether it is to be decoded."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if value is None and field_name in self.other_names:
            value = self.env_vars.get(f"{self.env_prefix}{self.other_names[field_name]}".lower())
        return value, key, is_complex

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Returns a list of what stands between commas, or what the JSON says."""
        # An IPv6 address begins with a bracket too, and does not end with one.
        is_json = value.lstrip().startswith("[") and value.rstrip().endswith("]")
        if get_origin(plain(field.annotation)) is list and not is_json:
            return [part.strip() for part in value.split(",")]
        return super().decode_complex_value(field_name, field, value)


def variable(settings: type[BaseSettings], location: tuple[int | str, ...]) -> str | None:
    """Returns the variable that gave the setting at this place of the model, if one did."""
    names = [str(part) for part in location if not isinstance(part, int)]
    if not names:
        return None
    full = NESTED.join(names)
    others = [Environment.other_names[full]] if full in Environment.other_names else []
    for name in (full, names[0], *others):
        found = f"{settings.model_config.get('env_prefix', '')}{name}".upper()
        if any(found == each.upper() for each in os.environ):
            return found
    return None


def unknown(settings: type[BaseSettings]) -> Iterator[str]:
    """Yields a line for each variable that has the settings' prefix and is none of them."""
    prefix = settings.model_config.get("env_prefix", "").upper()
    exact: set[str] = set()
    within: set[str] = set()
    for name, mapping in _names(settings, prefix):
        exact.add(name)
        if mapping:
            within.add(f"{name}{NESTED}")
    exact |= {f"{prefix}{name.upper()}" for name in _others(settings)}
    for given, value in sorted(os.environ.items()):
        name = given.upper()
        known = name in exact or name.startswith(tuple(within))
        if name.startswith(prefix) and not known and not _of_kubernetes(name, value):
            close = difflib.get_close_matches(name, exact, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{given}: unknown setting{hint}"


def _others(settings: type[BaseSettings]) -> list[str]:
    names = Environment.other_names
    return [other for name, other in names.items() if name in settings.model_fields]


def _names(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    """Yields each variable's name, and whether it is a mapping, whose keys are free."""
    for name, field in model.model_fields.items():
        full = f"{prefix}{name.upper()}"
        kind = plain(field.annotation)
        yield full, get_origin(kind) is dict
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _names(kind, f"{full}{NESTED}")


def plain(annotation: Any) -> Any:
    """Returns what an optional annotation is when it is not None."""
    if get_origin(annotation) in (Union, UnionType):
        return next(each for each in get_args(annotation) if each is not type(None))
    return annotation


def _of_kubernetes(name: str, value: str) -> bool:
    port, address = _KUBERNETES_PORT
    return bool(_KUBERNETES.fullmatch(name) or (port.fullmatch(name) and address.match(value)))
