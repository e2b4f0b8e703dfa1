"""Prometheus's text format, version 0.0.4: families of samples written as a scraper reads them. Knows no figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isinf, isnan
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """Samples of one name. ``name`` ends in its unit, a counter's in ``_total``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    lines: list[str] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> Family:
        """One sample; returns the family."""
        self.lines.append(_sample(self.name, labels, value))
        return self

    def add_histogram(self, cumulated: Iterable[tuple[float, int]], total: float, **labels: str) -> Family:
        """How many lay at or below each bound, the last of which is infinity, and the sum of all."""
        count = 0
        inside = "".join(f"{label}," for label in _inside(labels))
        for bound, count in cumulated:
            self.lines.append(f'{self.name}_bucket{{{inside}le="{_number(bound)}"}} {count}')
        self.lines.append(_sample(f"{self.name}_sum", labels, total))
        self.lines.append(_sample(f"{self.name}_count", labels, count))
        return self


def text(families: Iterable[Family]) -> str:
    """The whole answer. A family without a sample is left out."""
    return "".join(f"{line}\n" for family in families if family.lines for line in _written(family))


def _written(family: Family) -> Iterator[str]:
    words = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {words}"
    yield f"# TYPE {family.name} {family.kind}"
    yield from family.lines


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = f"{{{','.join(_inside(labels))}}}" if labels else ""
    return f"{name}{inside} {_number(value)}"


def _inside(labels: Labels) -> list[str]:
    return [f'{label}="{_escaped(told)}"' for label, told in labels.items()]


def _escaped(value: str) -> str:
    readable = value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    return readable.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if type(value) is int:
        return str(value)
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value == inf else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
