"""`tokenwire-frontend new-key`: makes an API key, and its entry for `--api-keys-file`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tokenwire_service.settings import LineParser

from tokenwire_frontend.core.caller import TENANT_RULE, Role, is_tenant
from tokenwire_frontend.identity import api_keys

COMMAND = "new-key"

DAYS_MOST = 3650


def main(program: str, arguments: Sequence[str]) -> int:
    """Writes the key to standard output, and its entry to standard error or into a file."""
    asked = _parser(program).parse_args(arguments)
    now = datetime.now(UTC).replace(microsecond=0)
    expires = None if asked.days is None else now + timedelta(days=asked.days)
    key, entry = api_keys.new(asked.tenant, asked.roles, expires)
    print(entry, file=sys.stderr)
    print(key)
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = LineParser(
        prog=f"{program} {COMMAND}",
        description="Makes an API key. The key goes to standard output, for its holder alone; the "
        "entry for the list `keys` of --api-keys-file, which has a hash of it, to standard error.",
        allow_abbrev=False,
    )
    parser.add_argument("--tenant", required=True, type=_tenant, help="whose key it is")
    parser.add_argument(
        "--roles",
        type=_roles,
        default=[Role.CALL],
        metavar="ROLE[,...]",
        help=f"what its holder may do, of {', '.join(Role)}; default: call",
    )
    parser.add_argument(
        "--days", type=_days, help="days after which it expires; default: it does not"
    )
    return parser


def _tenant(text: str) -> str:
    if not is_tenant(text):
        raise argparse.ArgumentTypeError(f"{text!r}: must have {TENANT_RULE}")
    return text


def _roles(text: str) -> list[Role]:
    try:
        return [Role(name) for name in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a name that is not one of {', '.join(Role)}"
        ) from None


def _days(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= DAYS_MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {DAYS_MOST}")
    return int(text)
