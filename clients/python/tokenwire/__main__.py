"""`python -m tokenwire` is the `tokenwire` command, with gRPC's own log on standard error."""

import sys

from tokenwire.cli.main import main

sys.exit(main())
