"""Generated from protos/inference by `make proto`."""
