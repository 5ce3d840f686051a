"""Where the workers are: the addresses of settings, of names in DNS, and of a file, as they change.

Whatever goes wrong with a source, the last list that it gave stays, and the log says so once.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from tokenwire_service.tasks import Supervisor
from tokenwire_service.watching import Watched, Watcher

from tokenwire_frontend.workers import workers_file

DNS = "dns:///"
"""Begins a setting that is a name; NAME:PORT follows."""

WORKERS_LIMIT = 1024
"""Workers that a frontend connects to; each costs about 0.2 MB, and some reports."""

RESOLVE_S = 10.0
"""Time that one lookup may take; resolvers give up after 5 to 30 s."""

EMPTY_ANSWERS = 3
"""Answers without an address, in a row, until a name is believed to have none: a name server that
was just started, or is out of date, gives one too."""

Workers = dict[str, str]
"""By address, HOST:PORT: the name that the worker's certificate has; empty: the address's host."""

_NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

log = structlog.get_logger()


class Discovery:
    """Keeps the list of workers.

    Args:
        targets: HOST:PORT, or NAME:PORT after DNS.
        file: lists more of them; None: no file.
        interval_s: between two lookups of a name, in seconds, less up to a quarter.
        on_change: told of all workers, at once and whenever the list has changed.
        files: watches the file, and says when everything is to be looked up again.
        supervisor: owns the tasks.

    Raises:
        ValueError: the file can't be used.
    """

    def __init__(
        self,
        targets: Sequence[str],
        file: Path | None,
        interval_s: float,
        on_change: Callable[[Workers], None],
        files: Watcher,
        supervisor: Supervisor,
    ) -> None:
        self._on_change = on_change
        self._listed: dict[str, Workers] = {
            each: {} if each.startswith(DNS) else {each: ""} for each in targets
        }
        """By source: a target, or the file's path."""
        names = [Name(each) for each in targets if each.startswith(DNS)]
        self._tasks = [
            supervisor.keep("worker_name", partial(self._follow_name, name, interval_s))
            for name in names
        ]
        for name in names:
            files.also(name.again.set)
        if file is not None:
            self._follow_file(file, files)
        self._tell()

    async def close(self) -> None:
        """Follows nothing any more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _follow_name(self, name: Name, interval_s: float) -> None:
        while True:
            found = await name.look_up()
            if found is not None:
                self._take(name.target, found)
            # Jitter, so that many frontends do not ask together.
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s * random.uniform(0.75, 1.0)):  # noqa: S311
                    await name.again.wait()
            name.again.clear()

    def _follow_file(self, path: Path, files: Watcher) -> None:
        def listed() -> Workers:
            return dict.fromkeys(workers_file.read(path), "")

        watched = Watched("--workers-file", [path], listed, partial(self._take, str(path)))
        self._listed[str(path)] = watched.value
        files.add(watched)

    def _take(self, source: str, workers: Workers) -> None:
        before = self._listed[source]
        if workers == before:
            return
        self._listed[source] = workers
        joined, left = workers.keys() - before.keys(), before.keys() - workers.keys()
        log.info("workers_listed", source=source, joined=sorted(joined), left=sorted(left))
        self._tell()

    def _tell(self) -> None:
        everyone: Workers = {}
        for workers in self._listed.values():
            for address, name in workers.items():
                everyone.setdefault(address, name)
        beyond = len(everyone) - WORKERS_LIMIT
        if beyond > 0:
            log.error("too_many_workers", limit=WORKERS_LIMIT, left_out=beyond)
            everyone = dict(list(everyone.items())[:WORKERS_LIMIT])
        self._on_change(everyone)


class Name:
    """A name in DNS that stands for workers.

    Args:
        target: the setting, with DNS before it.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._host, _, port = target.removeprefix(DNS).rpartition(":")
        self._host = self._host.strip("[]")
        self._port = int(port)
        self._empty = 0
        self._fault = ""
        self.again = asyncio.Event()
        """Set where it is to be looked up at once."""

    async def look_up(self) -> Workers | None:
        """Returns the workers that it stands for now; None where that can't be told."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                hosts = await resolve(self._host, self._port)
        except TimeoutError:
            return self._unknown(f"no answer within {RESOLVE_S:g} s")
        except socket.gaierror as error:
            if error.errno not in _NO_ADDRESS:
                return self._unknown(error.strerror or str(error))
            hosts = []
        except OSError as error:
            return self._unknown(str(error))
        self._empty = 0 if hosts else self._empty + 1
        if not hosts and self._empty < EMPTY_ANSWERS:
            return self._unknown("it has no address")
        if self._fault:
            log.info("name_resolved", name=self.target)
            self._fault = ""
        return {_address(host, self._port): self._host for host in sorted(_one_family(hosts))}

    def _unknown(self, fault: str) -> Workers | None:
        if fault != self._fault:
            self._fault = fault
            log.warning("name_not_resolved", name=self.target, reason=fault)
        return None


async def resolve(host: str, port: int) -> list[str]:
    """Returns the IP addresses of a name, IPv4 and IPv6; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _one_family(hosts: Sequence[str]) -> set[str]:
    """Returns the addresses of the family that has more, of IPv4 where both have as many.

    A worker with an address of each would be connected twice, and count as two.
    """
    six = {host for host in hosts if ":" in host}
    four = set(hosts) - six
    return six if len(six) > len(four) else four


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
