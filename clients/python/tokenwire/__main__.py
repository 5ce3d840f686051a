"""`python -m tokenwire` is the `tokenwire` command."""

import sys

from tokenwire.cli.main import main

sys.exit(main())
