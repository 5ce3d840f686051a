"""One of several processes that serve: `python -m tokenwire_frontend.processes.member SEAT ...`.

SEAT is what the supervising process says of it, the rest are the frontend's own arguments. It ends
with that process, however that ends.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from functools import partial

from tokenwire_service import settings, signals

from tokenwire_frontend.main import PROGRAM, execute, run
from tokenwire_frontend.processes.membership import Seat
from tokenwire_frontend.settings import FrontendSettings

SEAT_ARGUMENTS = 7

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until SIGTERM; other signals, such as a terminal's, are the supervising process's."""
    # If that process has ended before this, the link says so.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signals.end_at_once()
    signals.leave_to_parent(*signals.FROM_TERMINAL, signal.SIGUSR1)
    told, arguments = sys.argv[1 : 1 + SEAT_ARGUMENTS], sys.argv[1 + SEAT_ARGUMENTS :]
    seat = Seat.parsed(told)
    chosen = settings.parse(FrontendSettings, PROGRAM, arguments)
    execute(chosen, partial(run, chosen, seat=seat), seat.index)


if __name__ == "__main__":
    main()
