"""Services that are killed, stopped, cut off and drained under load; see docs/operations.md."""
