"""Both services on this machine, with the embedded model: `make demo` and `make serve`."""
