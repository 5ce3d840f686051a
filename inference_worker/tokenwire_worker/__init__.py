"""The worker: one inference engine behind a gRPC service that speaks token ids."""

from tokenwire_service.version import VERSION

__version__ = VERSION
