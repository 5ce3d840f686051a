"""Names and values of the gRPC channel arguments that Tokenwire sets, for both ends of both hops.

gRPC ignores an unknown name in silence, so a test checks each name here against grpcio's own list.
Both ends live in one module because keepalive works only where they agree: a server that allows
fewer pings than its clients send closes the connection with too_many_pings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

KEEPALIVE_TIME_MS = "grpc.keepalive_time_ms"
KEEPALIVE_TIMEOUT_MS = "grpc.keepalive_timeout_ms"
PING_TIMEOUT_MS = "grpc.http2.ping_timeout_ms"
KEEPALIVE_PERMIT_WITHOUT_CALLS = "grpc.keepalive_permit_without_calls"
MAX_PINGS_WITHOUT_DATA = "grpc.http2.max_pings_without_data"
MIN_PING_INTERVAL_WITHOUT_DATA_MS = "grpc.http2.min_ping_interval_without_data_ms"
MAX_RECEIVE_MESSAGE_LENGTH = "grpc.max_receive_message_length"
MAX_SEND_MESSAGE_LENGTH = "grpc.max_send_message_length"
MAX_CONCURRENT_STREAMS = "grpc.max_concurrent_streams"
MAX_METADATA_SIZE = "grpc.max_metadata_size"
ABSOLUTE_MAX_METADATA_SIZE = "grpc.absolute_max_metadata_size"
ENABLE_HTTP_PROXY = "grpc.enable_http_proxy"
MAX_UNREQUESTED_TIME_S = "grpc.server_max_unrequested_time_in_server"
SO_REUSEPORT = "grpc.so_reuseport"
ENABLE_RETRIES = "grpc.enable_retries"
USE_LOCAL_SUBCHANNEL_POOL = "grpc.use_local_subchannel_pool"
MIN_RECONNECT_BACKOFF_MS = "grpc.min_reconnect_backoff_ms"
MAX_RECONNECT_BACKOFF_MS = "grpc.max_reconnect_backoff_ms"
INITIAL_RECONNECT_BACKOFF_MS = "grpc.initial_reconnect_backoff_ms"
SERVICE_CONFIG = "grpc.service_config"
BDP_PROBE = "grpc.http2.bdp_probe"
LOOKAHEAD_BYTES = "grpc.http2.lookahead_bytes"
TLS_NAME = "grpc.ssl_target_name_override"
MAX_CONNECTION_AGE_MS = "grpc.max_connection_age_ms"

CLIENT_PING_INTERVAL_MS = 20_000
"""Between a client's keepalive pings: below the 60 s after which common load balancers drop an idle
connection."""

SERVER_PING_INTERVAL_MS = 15_000
"""Between a server's: with the time for the answer, a client that froze is noticed, and what it had
in flight is cancelled, within 25 s."""

PING_ANSWER_MS = 10_000
"""A peer that answers no ping for this long is gone. gRPC's core goes by the ping timeout; by the
keepalive timeout it bounds how long the kernel may fail to deliver what was sent."""

REQUEST_BYTES = 4 * 1024 * 1024
"""Largest request that a service takes by default, which is gRPC's own default too; parsing one
holds an event loop for about 20 ms."""

RESPONSE_BYTES = 4 * 1024 * 1024
"""Largest unary answer; a stream's messages stay below 1 MiB."""

HOP_EXTRA_BYTES = 64 * 1024
"""What a frontend may add to a request that it passes on to a worker, such as the sampling defaults
and the trace context: as much more may a worker's caller send."""

HOP_FRAME_BYTES = 1024 * 1024
"""A frame of Exchange has fewer: the contract's bound of a streamed response. Workers of this
project send at most about 128 KiB; parsing 1 MiB holds an event loop for about 10 ms. Other answers
of a worker have RESPONSE_BYTES: its text files come in parts of at most 1 MiB."""

METADATA_BYTES = 128 * 1024
"""Metadata of one call, each way, by gRPC's count, which has 32 bytes for each entry beside its
text: room for 64 KiB of it. Soft and hard limit are one, since between them gRPC refuses at
random."""

CONCURRENT_STREAMS = 4096
"""Calls at once on one connection; admission refuses long before, with a reason a caller can act
on."""

UNREQUESTED_S = 3600
"""Time that gRPC's core holds a call which the event loop is too busy to take: as long as any
caller waits. By default it ends such calls after 30 s, with a bare CANCELLED."""

ChannelArguments = Sequence[tuple[str, int | str]]


def merged(first: ChannelArguments, *more: tuple[str, int | str]) -> ChannelArguments:
    """Returns both, where the later of two values for a name counts; for gRPC it is the earlier."""
    return tuple({**dict(first), **dict(more)}.items())


_BOTH: ChannelArguments = (
    (KEEPALIVE_TIMEOUT_MS, PING_ANSWER_MS),
    (PING_TIMEOUT_MS, PING_ANSWER_MS),
    (KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
    (MAX_METADATA_SIZE, METADATA_BYTES),
    (ABSOLUTE_MAX_METADATA_SIZE, METADATA_BYTES),
)

CLIENT: ChannelArguments = (
    *_BOTH,
    (KEEPALIVE_TIME_MS, CLIENT_PING_INTERVAL_MS),
    (MAX_PINGS_WITHOUT_DATA, 0),
    (MAX_RECEIVE_MESSAGE_LENGTH, RESPONSE_BYTES),
    # Retries are decided by the caller, who knows whether a request may run twice.
    (ENABLE_RETRIES, 0),
    # A restarted peer is found again within seconds, not within gRPC's default of up to 2 minutes.
    (INITIAL_RECONNECT_BACKOFF_MS, 250),
    (MIN_RECONNECT_BACKOFF_MS, 2_000),  # also the time that one attempt to connect may take
    (MAX_RECONNECT_BACKOFF_MS, 2_000),
)

WORKER_HOP = merged(
    CLIENT,
    # Workers are beside their frontends: a proxy of the environment's is for the world outside.
    (ENABLE_HTTP_PROXY, 0),
    # A probe of the bandwidth is a ping for each message that comes: with 256 idle workers, more
    # than all else together. Without probes the window stays as it is set, here to a whole frame.
    (BDP_PROBE, 0),
    (LOOKAHEAD_BYTES, HOP_FRAME_BYTES),
)

SERVER: ChannelArguments = (
    *_BOTH,
    (KEEPALIVE_TIME_MS, SERVER_PING_INTERVAL_MS),
    # Half of what the clients send, so that a client's clock skew never counts as abuse.
    (MIN_PING_INTERVAL_WITHOUT_DATA_MS, CLIENT_PING_INTERVAL_MS // 2),
    (MAX_CONCURRENT_STREAMS, CONCURRENT_STREAMS),
    (MAX_UNREQUESTED_TIME_S, UNREQUESTED_S),
    (MAX_RECEIVE_MESSAGE_LENGTH, REQUEST_BYTES),
    # Two servers must not share a port by accident.
    (SO_REUSEPORT, 0),
)


def client(target: str) -> ChannelArguments:
    """Returns what a client of this target sets.

    A proxy never stands between it and loopback. Calls go round among the addresses of a name of
    DNS, or of a list of them, so that one that is refused at one address is tried at another.
    """
    arguments = merged(CLIENT, (ENABLE_HTTP_PROXY, 0)) if _LOOPBACK.match(target) else CLIENT
    return merged(arguments, _ROUND_ROBIN) if target.startswith(_MANY) else arguments


def server(
    request_bytes: int, *, shared: bool = False, connection_age_s: float | None = None
) -> ChannelArguments:
    """Returns what a server sets.

    Args:
        request_bytes: largest request that it takes.
        shared: whether other processes listen on its port as well.
        connection_age_s: age at which a connection takes no further calls, in seconds. Those that
            it carries go on, for as long as they take: that is gRPC's default. None: no such age.
    """
    aged = () if connection_age_s is None else ((MAX_CONNECTION_AGE_MS, _ms(connection_age_s)),)
    return merged(
        SERVER,
        (MAX_RECEIVE_MESSAGE_LENGTH, request_bytes),
        (SO_REUSEPORT, int(shared)),
        *aged,
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_MANY = ("dns:", "ipv4:", "ipv6:")
"""Targets that may have several addresses."""

_ROUND_ROBIN = (SERVICE_CONFIG, '{"loadBalancingConfig": [{"round_robin": {}}]}')

_LOOPBACK = re.compile(
    r"(?:dns:/*|ipv4:|ipv6:)?(?:localhost\.?|127(?:\.\d+){3}|\[?::1\]?|\[::ffff:127(?:\.\d+){3}\])"
    r"(?::\d+)?$|unix(?:-abstract)?:",
    re.IGNORECASE,
)
