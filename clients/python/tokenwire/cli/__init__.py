"""The `tokenwire` command: one module for each subcommand, and `main`."""
