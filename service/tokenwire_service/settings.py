"""Settings of a service: command line, environment, a file, and defaults, in this order.

Every setting is a field of one pydantic model; an unknown name or a bad value ends the process with
exit code 64 (EX_USAGE), one line for each setting at fault, and one that points to --help.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NoReturn, Self, TypeVar, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from tokenwire.channel_arguments import REQUEST_BYTES

from tokenwire_service import environment, settings_file
from tokenwire_service.settings_file import SettingsFile, SettingsFileError
from tokenwire_service.version import VERSION
from tokenwire_service.wording import cut

EX_USAGE = 64
"""Exit code of a process that was started wrongly (sysexits.h)."""

HELP = "--help tells more"

SHOWN_BYTES = 160
"""Of a value that is refused: more would fill the terminal."""

USAGE_LIMIT = 160
"""Characters of a usage line that is shown with a fault; that of a service has 80 settings."""

MOVE_AGES = 1.2
"""Ages of a connection after which a stream's peer is asked for another: gRPC lets each connection
have 0.9 to 1.1 of the age."""

HIGHEST_PORT = 65535
"""gRPC takes a higher number modulo 65536, in silence."""


_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):[0-9]{1,5}")


def check_address(text: str) -> str:
    """Returns the text; raises ValueError where it is not HOST:PORT."""
    if not _ADDRESS.fullmatch(text):
        hint = "; IPv6 hosts stand in brackets" if text.count(":") > 1 else ""
        raise ValueError(f"{text!r} is not HOST:PORT{hint}")
    host, _, port = text.rpartition(":")
    try:
        if host.startswith("["):
            IPv6Address(host.strip("[]"))
        else:
            host.encode("idna")  # as a lookup does
    except ValueError as error:
        raise ValueError(f"{text!r} is not HOST:PORT: no host has this name") from error
    if int(port) > HIGHEST_PORT:
        raise ValueError(f"{text}: ports end at {HIGHEST_PORT}")
    return text


def check_remote(text: str) -> str:
    """Returns the text; raises ValueError where it is not HOST:PORT that can be connected to."""
    if int(check_address(text).rpartition(":")[2]) == 0:
        raise ValueError(f"{text}: ports begin at 1")
    return text


Address = Annotated[str, AfterValidator(check_address)]
"""HOST:PORT to listen on; IPv6 hosts in brackets."""

RemoteAddress = Annotated[str, AfterValidator(check_remote)]
"""HOST:PORT of a service; likewise."""


class TlsSettings(BaseModel):
    """TLS of one side of a hop; all paths are PEM files."""

    model_config = ConfigDict(extra="forbid")

    certificate: Path | None = Field(default=None, description="own certificate chain (PEM file)")
    key: Path | None = Field(default=None, description="private key of the certificate (PEM file)")
    ca: Path | None = Field(
        default=None,
        description="authorities that the other side's certificate must come from (PEM file)",
    )


class ServerTlsSettings(TlsSettings):
    """TLS of the listening port."""

    client_names: list[str] = Field(
        default=[],
        description="DNS names and URIs of which a caller's certificate must have one; "
        "repeat for several; without it every certificate of the authorities is accepted",
    )


def is_loopback(address: str) -> bool:
    """Returns whether HOST:PORT is reached from this host alone."""
    host = address.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class ServiceSettings(BaseSettings):
    """What both services are told."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_nested_delimiter=environment.NESTED,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        nested_model_default_partial_update=True,
    )

    ways_to_authenticate: ClassVar[str] = "--tls.ca"
    """Settings of which one makes callers show who they are."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls it so
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns where settings come from after the command line; the file's are arguments."""
        return environment.Environment(settings_cls), init_settings

    config: Path | None = Field(
        default=None,
        description="file with settings in YAML; the command line and the environment go first",
    )

    listen: Address
    tls: ServerTlsSettings = Field(
        default=ServerTlsSettings(),
        description="TLS of the listening port; with `ca`, callers must show a certificate",
    )
    insecure: bool = Field(
        default=False,
        description="listen on addresses that other hosts reach though callers are not "
        "authenticated: whoever reaches the port may do everything",
    )
    admin_listen: Address | None = Field(
        default=None,
        description="address of /healthz, /readyz and /metrics over HTTP; port 0 takes any; "
        "without it nothing is measured unless OTLP is set up",
    )
    max_request_bytes: int = Field(
        default=REQUEST_BYTES,
        ge=64 * 1024,
        le=64 * 1024 * 1024,
        description="largest request message; a worker takes 64 KiB more, which a frontend may add",
    )
    max_connection_age_s: float | None = Field(
        default=None,
        ge=1,
        le=30 * 24 * 3600,
        description="age in seconds, give or take a tenth, at which a connection takes no further "
        "calls, so that its peer connects anew; calls that it carries are never cut off; default: "
        "none",
    )
    drain_grace_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="time in seconds that work in flight has to finish after a signal to stop",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe log lines to write"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="form of log lines; auto: text on a terminal, else JSON"
    )

    @property
    def move_after_s(self) -> float | None:
        """Age at which a long stream's peer is asked to open another; None: it never is.

        By then its connection takes no further calls, so the next stream has another one.
        """
        age_s = self.max_connection_age_s
        return None if age_s is None else MOVE_AGES * age_s

    @property
    def authenticates(self) -> bool:
        """Whether callers must show who they are."""
        return self.tls.ca is not None

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yields each address of the services, after its setting's name."""
        yield "--listen", self.listen

    @model_validator(mode="after")
    def _not_exposed(self) -> Self:
        if self.authenticates or self.insecure:
            return self
        for setting, address in self.addresses():
            if not is_loopback(address):
                raise ValueError(
                    f"{setting} {address}: other hosts reach it, and callers are not "
                    f"authenticated; set {self.ways_to_authenticate}, or --insecure"
                )
        return self

    @model_validator(mode="after")
    def _names_of_certificates(self) -> Self:
        if self.tls.client_names and self.tls.ca is None:
            raise ValueError("--tls.client-names requires --tls.ca")
        return self


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def parser(
    settings: type[SettingsT], program: str
) -> tuple[LineParser, CliSettingsSource[SettingsT]]:
    """Returns the parser of a service's command line, and the settings that it fills."""
    made = LineParser(prog=program, description=settings.__doc__, allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"{program} {VERSION}")
    source: CliSettingsSource[SettingsT] = CliSettingsSource(settings, root_parser=made)
    made.say_what_is_not_set()
    return made, source


def parse(settings: type[SettingsT], program: str, arguments: Sequence[str]) -> SettingsT:
    """Returns the settings, or ends the process with 64, or with 0 after --help or --version."""
    _, source = parser(settings, program)
    strangers = list(environment.unknown(settings))
    if strangers:
        refuse(program, *strangers)
    file = SettingsFile()
    try:
        source(args=[_unsplit(argument) for argument in _as_texts(settings, arguments)])
        file = _file(settings, source)
        return settings(_cli_settings_source=source, **file.values)  # type: ignore[call-arg]
    except SettingsFileError as error:
        refuse(program, *(f"--config: {fault}" for fault in error.faults), HELP)
    except ValidationError as error:
        refuse(program, *_faults(settings, arguments, file, error), HELP)
    except SettingsError as error:
        message = _NO_PAIR.sub(r"--\1: is not KEY=VALUE", str(error))
        prefix = settings.model_config.get("env_prefix", "")
        refuse(
            program,
            _NO_JSON.sub(lambda found: f"{prefix}{found[1].upper()}: is not JSON", message),
            HELP,
        )


_NO_PAIR = re.compile(r"^Parsing error encountered for ([\w.]+): .*")
_NO_JSON = re.compile(r'^error parsing value for field "(\w+)" from source .*')
"""pydantic-settings' words for a pair without its equals sign, and for a variable."""


_STRANGER = re.compile(r"unrecognized arguments: (--[^\s=]+)")


class LineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with code 64; argparse would list all options."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with 64."""
        usage = " ".join(self.format_usage().split())
        short = usage if len(usage) <= USAGE_LIMIT else HELP
        stranger = _STRANGER.match(message)
        if stranger:
            near = difflib.get_close_matches(stranger[1], self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        refuse(self.prog, message.removeprefix("argument "), short)

    def say_what_is_not_set(self) -> None:
        """Words the defaults of settings that have none."""
        for action in self._actions:
            words = action.help or ""
            said = "default: " in _NO_DEFAULT.sub("", words)
            action.help = _NO_DEFAULT.sub("" if said else " (default: not set)", words)


_NO_DEFAULT = re.compile(r" \(default(: (None)?| factory: \w+)\)$")


def _file(settings: type[SettingsT], source: CliSettingsSource[SettingsT]) -> SettingsFile:
    """Reads the file that the command line or the environment names, if one does."""
    name = settings_file.FIELD
    path = source().get(name) or environment.Environment(settings)().get(name)
    return settings_file.read(Path(path), settings) if path else SettingsFile()


def _faults(
    settings: type[ServiceSettings],
    arguments: Sequence[str],
    file: SettingsFile,
    error: ValidationError,
) -> Iterator[str]:
    for fault in error.errors():
        flag = _flag(fault["loc"])
        given = any(argument.partition("=")[0] == flag for argument in arguments)
        variable = None if given else environment.variable(settings, fault["loc"])
        in_file = "" if given or variable else file.place(fault["loc"])
        place = f"{variable} ({flag})" if variable else in_file or flag
        # What is wrong with several settings together names them itself.
        yield f"{place}: {worded(fault)}" if place else worded(fault)


def worded(fault: ErrorDetails) -> str:
    """Returns pydantic's message in the words of somebody who starts a service."""
    if fault["type"] == "missing":
        return "is required"
    if fault["type"] == "extra_forbidden":
        return "unknown setting"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.partition(" for <class ")[0]
    shown = isinstance(fault["input"], str | int | float) and fault["type"] != "value_error"
    return f"{message}, not {cut(repr(fault['input']), SHOWN_BYTES)}" if shown else message


_JSON_PAIR = re.compile(r"(--[\w.-]+=)?([A-Za-z_][\w.-]*)=([\[{].*)", re.DOTALL)


def _as_texts(settings: type[BaseSettings], arguments: Sequence[str]) -> Iterator[str]:
    """Yields the arguments, those of lists that have IPv6 addresses as texts in JSON.

    pydantic-settings takes the bracket that an address begins with for that of a list in JSON.
    """
    lists = {
        f"--{name.replace('_', '-')}"
        for name, field in settings.model_fields.items()
        if get_origin(environment.plain(field.annotation)) is list
    }
    option = ""
    for argument in arguments:
        given, equals, value = argument.partition("=")
        if argument.startswith("--"):
            option, begins = given, given + equals
        else:
            begins, value = "", argument
        if option in lists and "[" in value and not value.endswith("]"):
            value = ",".join(json.dumps(part) for part in value.split(","))
        yield begins + value


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
    return f"--{'.'.join(names)}" if names else ""
