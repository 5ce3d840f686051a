"""The file that `--tenants-file` names: YAML with each tenant's limits.

default:                      # of tenants that are not named below
requests_per_minute: 600
tenants:
acme:                       # what is not said here is as in `default`
weight: 3
tokens_per_minute: 200000
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenwire_service import yaml_file
from tokenwire_service.settings import worded

from tokenwire_frontend.core.caller import TENANT_RULE, is_tenant
from tokenwire_frontend.core.tenants import TenantLimits, TenantTable
from tokenwire_frontend.core.validation import PRIORITY_LIMIT

FILE_BYTES_LIMIT = 2**20
"""Some 10,000 tenants; a file that has more is another one."""

Amount = Annotated[int, Field(ge=1, le=10**12)]


class _Limits(BaseModel):
    """The fields of core.tenants.TenantLimits."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    concurrent_generations: Amount | None = None
    prompt_tokens: Amount | None = None
    highest_priority: Annotated[int, Field(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)] = PRIORITY_LIMIT


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    default: _Limits = _Limits()
    tenants: dict[str, _Limits] = {}


def read_tenants(path: Path) -> TenantTable:
    """Returns what the file says.

    Raises:
        ValueError: it can't be read, or says something else; names the place in it.
    """
    try:
        told = _File.model_validate(yaml_file.load(path, FILE_BYTES_LIMIT) or {})
    except ValidationError as error:
        raise ValueError(f"{path}: {_first(error)}") from error
    for name in told.tenants:
        if not is_tenant(name):
            raise ValueError(f"{path}: tenants: {name!r} is not {TENANT_RULE}")
    default = told.default.model_dump()
    named = {
        name: TenantLimits(**{**default, **limits.model_dump(exclude_unset=True)})
        for name, limits in told.tenants.items()
    }
    return TenantTable(TenantLimits(**default), named)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    return f"{place}: {worded(first)}"
