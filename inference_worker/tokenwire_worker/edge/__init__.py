"""The worker's gRPC services. Protobuf types stop here: `from_proto` and `to_proto`."""
