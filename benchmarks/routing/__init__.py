"""Routing policies on traces: simulated at many sizes, and on simulated engines."""
