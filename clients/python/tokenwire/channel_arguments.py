"""Names and values of the gRPC channel arguments that Tokenwire sets, for both ends of both hops.

gRPC ignores an unknown name in silence, so a test checks each name here against grpcio's own list.
Both ends live in one module because keepalive works only where they agree: a server that allows
fewer pings than its clients send closes the connection with too_many_pings.
"""

from __future__ import annotations

from collections.abc import Sequence

KEEPALIVE_TIME_MS = "grpc.keepalive_time_ms"
KEEPALIVE_TIMEOUT_MS = "grpc.keepalive_timeout_ms"
KEEPALIVE_PERMIT_WITHOUT_CALLS = "grpc.keepalive_permit_without_calls"
MAX_PINGS_WITHOUT_DATA = "grpc.http2.max_pings_without_data"
MIN_PING_INTERVAL_WITHOUT_DATA_MS = "grpc.http2.min_ping_interval_without_data_ms"
MAX_RECEIVE_MESSAGE_LENGTH = "grpc.max_receive_message_length"
MAX_SEND_MESSAGE_LENGTH = "grpc.max_send_message_length"
MAX_CONCURRENT_STREAMS = "grpc.max_concurrent_streams"
MAX_METADATA_SIZE = "grpc.max_metadata_size"
SO_REUSEPORT = "grpc.so_reuseport"
ENABLE_RETRIES = "grpc.enable_retries"
USE_LOCAL_SUBCHANNEL_POOL = "grpc.use_local_subchannel_pool"
MIN_RECONNECT_BACKOFF_MS = "grpc.min_reconnect_backoff_ms"
MAX_RECONNECT_BACKOFF_MS = "grpc.max_reconnect_backoff_ms"
INITIAL_RECONNECT_BACKOFF_MS = "grpc.initial_reconnect_backoff_ms"

PING_INTERVAL_MS = 20_000
"""Between keepalive pings: below the 60 s after which common load balancers drop an idle
connection."""

PING_TIMEOUT_MS = 10_000
"""A peer that answers no ping for this long is gone; its generations are cancelled."""

MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message: a prompt of a million ids is about 3.8 MB packed, a text of as many tokens
less."""

CONCURRENT_STREAMS = 4096
"""Calls at once on one connection; admission refuses long before, with a reason a caller can act
on."""

ChannelArguments = Sequence[tuple[str, int | str]]

CLIENT: ChannelArguments = (
    (KEEPALIVE_TIME_MS, PING_INTERVAL_MS),
    (KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS),
    (KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
    (MAX_PINGS_WITHOUT_DATA, 0),
    (MAX_RECEIVE_MESSAGE_LENGTH, MESSAGE_BYTES),
    (MAX_SEND_MESSAGE_LENGTH, MESSAGE_BYTES),
    # Retries are decided by the caller, who knows whether a request may run twice.
    (ENABLE_RETRIES, 0),
    # A restarted peer is found again within seconds, not within gRPC's default of up to 2 minutes.
    (INITIAL_RECONNECT_BACKOFF_MS, 250),
    (MIN_RECONNECT_BACKOFF_MS, 2_000),  # also the time that one attempt to connect may take
    (MAX_RECONNECT_BACKOFF_MS, 2_000),
)

SERVER: ChannelArguments = (
    (KEEPALIVE_TIME_MS, PING_INTERVAL_MS),
    (KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS),
    (KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
    # Half of what the clients send, so that a client's clock skew never counts as abuse.
    (MIN_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MS // 2),
    (MAX_CONCURRENT_STREAMS, CONCURRENT_STREAMS),
    (MAX_RECEIVE_MESSAGE_LENGTH, MESSAGE_BYTES),
    (MAX_SEND_MESSAGE_LENGTH, MESSAGE_BYTES),
    # Two servers must not share a port by accident: each port is one process.
    (SO_REUSEPORT, 0),
)
