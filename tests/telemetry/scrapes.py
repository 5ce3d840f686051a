"""What a scraper reads of the admin port."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import openmetrics
from prometheus_client.openmetrics import parser as _openmetrics_parser  # noqa: F401 - loads it
from prometheus_client.parser import text_string_to_metric_families

from tests.services.processes import WAIT_S, Process

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP."""

    status: int
    content_type: str
    text: str


def get(process: Process, path: str, accept: str = "", method: str = "GET") -> Answer:
    """Asks the admin port of a service."""
    address = process.wait_for("admin_listening")["address"]
    asked = urllib.request.Request(f"http://{address}{path}", method=method)
    if accept:
        asked.add_header("Accept", accept)
    try:
        with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
            return Answer(answer.status, answer.headers["Content-Type"], answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers["Content-Type"], error.read().decode())


class Scrape:
    """All metrics of a service at one moment."""

    def __init__(self, process: Process, accept: str = "") -> None:
        answer = get(process, "/metrics", accept)
        assert answer.status == 200, answer
        self.content_type = answer.content_type
        parse: Callable[[str], Iterator[Any]] = (
            openmetrics.parser.text_string_to_metric_families
            if accept
            else text_string_to_metric_families
        )
        self.families = {family.name: family for family in parse(answer.text)}
        self.samples: dict[tuple[str, Labels], float] = {}
        self.exemplars: list[Any] = []
        for family in self.families.values():
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                assert (sample.name, labels) not in self.samples, "twice the same"
                self.samples[sample.name, labels] = sample.value
                if sample.exemplar:
                    self.exemplars.append(sample.exemplar)

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of this name that have these labels."""
        return sum(
            value
            for (sample, told), value in self.samples.items()
            if sample == name and labels.items() <= dict(told).items()
        )

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Returns the samples of a name by the values of these labels, summed over others."""
        found: dict[tuple[str, ...], float] = {}
        for (sample, told), value in self.samples.items():
            if sample == name:
                key = tuple(dict(told)[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found


def grown(before: Scrape, after: Scrape, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Returns by how much the samples of a name have grown that have."""
    old = before.by(name, *labels)
    return {
        key: value - old.get(key, 0)
        for key, value in after.by(name, *labels).items()
        if value != old.get(key, 0)
    }
