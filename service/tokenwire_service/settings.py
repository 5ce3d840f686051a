"""Settings of a service: from the command line, the environment, and defaults, in this order.

Every setting is a field of one pydantic model; an unknown name or a bad value ends the process with
exit code 64 (EX_USAGE) and one line for each setting at fault.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

EX_USAGE = 64
"""Exit code of a process that was started wrongly (sysexits.h)."""

HIGHEST_PORT = 65535
"""gRPC takes a higher number modulo 65536, in silence."""


def _port_exists(address: str) -> str:
    if int(address.rpartition(":")[2]) > HIGHEST_PORT:
        raise ValueError(f"{address}: ports end at {HIGHEST_PORT}")
    return address


Address = Annotated[
    str,
    StringConstraints(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\[\]\s]+):[0-9]{1,5}$"),
    AfterValidator(_port_exists),
]
"""HOST:PORT; IPv6 hosts in brackets."""


class TlsSettings(BaseModel):
    """TLS of one side of a hop; all paths are PEM files."""

    model_config = ConfigDict(extra="forbid")

    certificate: Path | None = Field(default=None, description="own certificate chain (PEM file)")
    key: Path | None = Field(default=None, description="private key of the certificate (PEM file)")
    ca: Path | None = Field(
        default=None,
        description="authorities that the other side's certificate must come from (PEM file)",
    )


class ServiceSettings(BaseSettings):
    """What both services are told."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_nested_delimiter="__",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        nested_model_default_partial_update=True,
    )

    tls: TlsSettings = Field(
        default=TlsSettings(),
        description="TLS of the listening port; with `ca`, callers must show a certificate",
    )
    admin_listen: Address | None = Field(
        default=None,
        description="address of /healthz, /readyz and /metrics over HTTP; port 0 takes any; "
        "default: none, and nothing is measured unless OTLP is set up",
    )
    drain_grace_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="time in seconds that work in flight has to finish after SIGTERM or SIGINT",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe log lines to write"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="form of log lines; auto: text on a terminal, else JSON"
    )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def parse(settings: type[SettingsT], program: str, arguments: Sequence[str]) -> SettingsT:
    """Returns the settings, or ends the process with 64, or with 0 after --help."""
    try:
        source: CliSettingsSource[SettingsT] = CliSettingsSource(
            settings,
            cli_prog_name=program,
            cli_parse_args=[_unsplit(argument) for argument in arguments],
        )
        return settings(_cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [f"{_flag(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        refuse(program, *lines)
    except SettingsError as error:
        refuse(program, str(error))
    except SystemExit as exit_:
        # argparse has already said what is wrong, with its own code 2.
        sys.exit(EX_USAGE if exit_.code else 0)


_JSON_PAIR = re.compile(r"(--[\w.-]+=)?([A-Za-z_][\w.-]*)=([\[{].*)", re.DOTALL)


def _unsplit(argument: str) -> str:
    """Returns an argument such that a KEY=VALUE with a JSON array or object stays in one piece.

    pydantic-settings takes several pairs in one argument and would split the value at its commas.
    """
    found = _JSON_PAIR.fullmatch(argument)
    if found is None:
        return argument
    option, key, value = found.groups()
    return (option or "") + json.dumps({key: value})


def refuse(program: str, *lines: str) -> NoReturn:
    """Says what is wrong with the settings and ends the process with 64."""
    for line in lines:
        print(f"{program}: {line}", file=sys.stderr)
    sys.exit(EX_USAGE)


def _flag(location: tuple[int | str, ...]) -> str:
    names = [str(part).replace("_", "-") for part in location if not isinstance(part, int)]
    return f"--{'.'.join(names)}" if names else "settings"
