"""A real Prometheus on loopback, with the committed configuration, and its query API."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.deploy.files import FOLDER, PROMETHEUS, load
from tests.services.processes import ROOT, WAIT_S, free_address

_Result = TypeVar("_Result")


def eventually(what: str, ask: Callable[[], _Result | None]) -> _Result:
    """Asks until the answer is not None, within WAIT_S."""
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        answer = ask()
        if answer is not None:
            return answer
        time.sleep(0.05)  # between two questions
    raise AssertionError(f"never came: {what}")


def _adapted(targets: Mapping[str, Sequence[str]]) -> Any:
    """Returns the committed configuration with other targets, scraped more often."""
    config = load("prometheus.yaml")
    config["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]  # the names of containers
        job["static_configs"] = [{"targets": list(targets.get(job["job_name"], ()))}]
    return config


def _flags() -> list[str]:
    """Returns the flags of the container, less those that name its paths."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    command = compose["services"]["prometheus"]["command"]
    return [flag for flag in command if not flag.startswith(("--config.", "--storage.tsdb.path"))]


class Prometheus:
    """Prometheus, scraping these targets: addresses for each job."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[str]]) -> None:
        assert PROMETHEUS is not None
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(_adapted(targets)))
        address = free_address()
        self._url = f"http://{address}"
        self._moment: dict[str, str] = {}
        self._log = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            [
                *(PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
                *(f"--web.listen-address={address}", *_flags()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually("Prometheus's readiness", self._ready)
        except BaseException:
            self.end()
            raise

    def _ready(self) -> bool | None:
        if self._process.poll() is not None:
            self._log.seek(0)
            raise AssertionError(f"Prometheus has ended:\n{self._log.read()}")
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=WAIT_S):
                return True
        except OSError:
            return None

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the data of an API call, which must succeed."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(
                f"{self._url}/api/v1/{path}?{query}", timeout=WAIT_S
            ) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Returns (labels, value) of each series of an expression's result, now or as settled."""
        data = self.get("query", query=expression, **self._moment)
        assert data["resultType"] == "vector", data
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def number(self, expression: str) -> float:
        """Returns the value of an expression that has one; NaN if it has none."""
        result = self.query(expression)
        assert len(result) <= 1, result
        return result[0][1] if result else math.nan

    def wait_for(self, expression: str, value: float) -> None:
        """Waits until an expression has this value."""
        eventually(
            f"{expression} == {value}",
            lambda: True if self.number(expression) == value else None,
        )

    def settle(self, values: Mapping[str, float]) -> None:
        """Waits for a moment when these expressions have these values; queries are as of then.

        So one scrape that a loaded machine misses later changes nothing.
        """

        def settled() -> bool | None:
            self._moment = {"time": str(time.time())}
            return True if all(self.number(each) == values[each] for each in values) else None

        eventually(f"a moment with {values}", settled)

    def end(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._log.close()
