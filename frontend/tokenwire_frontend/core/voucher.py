"""A frontend's word for a caller, in a call that it sends on.

The caller's own credential does not travel: a certificate can't, and a token may expire on the way.
The frontend that has checked it signs who the caller is, and the one that gets the call believes
who has the same key: the processes of one frontend, or a fleet's.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenwire_frontend.core.caller import TENANT_CHARACTERS, Caller, roles_of
from tokenwire_frontend.core.signer import Signer

GOOD_S = 60.0
"""Time for which a voucher is good, before and after: clocks of hosts differ by less, and who has
overheard one can use it for no longer."""

_CHARACTERS = 4 * TENANT_CHARACTERS
"""Most of a voucher that is read: signature, time, tenant and three roles have fewer."""


class Vouchers:
    """Writes and reads vouchers.

    Args:
        key: secret of those who believe each other.
        clock: wall-clock time in seconds since 1970.
    """

    def __init__(self, key: bytes, clock: Callable[[], float]) -> None:
        self._signer = Signer(key, "tokenwire voucher 1", _CHARACTERS)
        self._clock = clock

    def write(self, caller: Caller) -> str:
        """Returns a voucher for this caller."""
        roles = " ".join(sorted(caller.roles))
        return self._signer.write([f"{self._clock():.0f}", caller.tenant, roles])

    def read(self, text: str) -> Caller | None:
        """Returns for whom it is; None where it is none, is too old, or of somebody else."""
        parts = self._signer.read(text)
        if parts is None:
            return None
        written_s, tenant, roles = parts
        if abs(self._clock() - float(written_s)) > GOOD_S:
            return None
        return Caller(tenant, roles_of(roles.split()))
