"""The credential of a client's calls, and channels that carry it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

METADATA_KEY = "authorization"

_LOOPBACK = re.compile(r"(dns:/*)?(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?")
_LOCAL_SOCKET = ("unix:", "unix-abstract:", "vsock:")
_ONE_LINE = re.compile("[!-~]+")


@dataclass(frozen=True)
class ApiKey:
    """An API key, or a JWT, that each call of a client carries.

    A function is asked for it before each call; so a JWT can be renewed before it expires.
    """

    value: str | Callable[[], str] = field(repr=False)
    over_plain_text: bool = False
    """Sends it without TLS to other hosts too, where whoever is on the way can read it."""

    def metadata(self) -> tuple[str, str]:
        """Returns what goes with a call.

        Raises:
            ValueError: it is empty, or has characters that metadata can't have.
        """
        value = self.value if isinstance(self.value, str) else self.value()
        if not _ONE_LINE.fullmatch(value):
            raise ValueError("api_key: must be printable ASCII without spaces")
        return METADATA_KEY, f"Bearer {value}"

    def check(self, targets: Iterable[str], *, encrypted: bool) -> None:
        """Checks that it would not cross a network in plain text.

        Raises:
            ValueError: it would.
        """
        if isinstance(self.value, str):
            self.metadata()
        if encrypted or self.over_plain_text:
            return
        for target in targets:
            if not (_LOOPBACK.fullmatch(target) or target.startswith(_LOCAL_SOCKET)):
                raise ValueError(
                    f"api_key: would be sent to {target} in plain text; use TLS, or allow it "
                    "with over_plain_text"
                )


def as_api_key(value: str | Callable[[], str] | ApiKey | None) -> ApiKey | None:
    """Returns what a client was given as its credential."""
    return value if value is None or isinstance(value, ApiKey) else ApiKey(value)


_Channel = TypeVar("_Channel")


def carrying(channel: _Channel, api_key: ApiKey | None) -> _Channel:
    """Returns a channel, of either of gRPC's two kinds, whose calls have the key."""
    return channel if api_key is None else cast("_Channel", _Channels(channel, api_key))


class _Channels:
    """A channel with a key.

    It wraps instead of intercepting: an interceptor of a grpc.aio stream puts a queue and a task
    before every message.
    """

    def __init__(self, channel: Any, api_key: ApiKey) -> None:
        self._channel = channel
        self._api_key = api_key

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        if name not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return found
        return lambda *args, **options: _Method(found(*args, **options), self._api_key)

    def __enter__(self) -> Any:
        self._channel.__enter__()
        return self

    def __exit__(self, *exception: object) -> Any:
        return self._channel.__exit__(*exception)


class _Method:
    """A method whose calls have the key."""

    def __init__(self, method: Any, api_key: ApiKey) -> None:
        self._method = method
        self._api_key = api_key

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._method(*args, **self._with_key(options))

    def future(self, *args: Any, **options: Any) -> Any:
        """As gRPC's, of a blocking channel."""
        return self._method.future(*args, **self._with_key(options))

    def _with_key(self, options: dict[str, Any]) -> dict[str, Any]:
        metadata = (*(options.get("metadata") or ()), self._api_key.metadata())
        return {**options, "metadata": metadata}
