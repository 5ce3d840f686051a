"""Tokenwire's Python client: text generation over gRPC, and the generated stubs of both contracts."""
