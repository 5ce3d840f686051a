"""Formats of strings as patterns; one that is not here is an annotation, as in the standard."""

from __future__ import annotations

_DAYS = (
    r"([1-9][0-9]{3}-(((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01]))"
    r"|((0[469]|11)-(0[1-9]|[12][0-9]|30))|(02-(0[1-9]|1[0-9]|2[0-8])))"
    r"|([1-9][0-9](0[48]|[2468][048]|[13579][26])|(1[26]|[2468][048]|[3579][26])00)-02-29)"
)
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
# Without bounds on lengths: those take long to compile for large vocabularies.
_LABEL = r"[a-z0-9]+(-[a-z0-9]+)*"
_HOST = rf"{_LABEL}(\.{_LABEL})*"
_MAILBOX = r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*"

PATTERNS = {
    "date": rf"^{_DAYS}$",
    "time": rf"^{_TIME}$",
    "date-time": rf"^{_DAYS}T{_TIME}$",
    "duration": (
        r"^P([0-9]{1,4}W|[0-9]{1,4}Y([0-9]{1,4}M([0-9]{1,4}D)?)?(T[0-9]{1,4}H)?"
        r"|[0-9]{1,4}D(T[0-9]{1,4}H)?"
        r"|T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S))$"
    ),
    "email": rf"^{_MAILBOX}@({_LABEL}\.)+[a-z][a-z]+$",
    "hostname": rf"^{_HOST}$",
    "ipv4": rf"^{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}$",
    "ipv6": r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "uri": rf"^[a-z][a-z0-9+.-]*://{_HOST}(:[1-9][0-9]{{0,3}})?(/[A-Za-z0-9._~-]*)*$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
}
