"""The public contract's services: protobuf in and out, and nothing decided here."""
