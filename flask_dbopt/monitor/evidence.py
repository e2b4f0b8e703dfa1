"""What alert rules judge by: the monitor's figures, and facts that the other rooms and the hall offer to watch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flask_dbopt.monitor.register import Register, Series

log = logging.getLogger("flask_dbopt.monitoring")

T = TypeVar("T")

#: Flat facts, by what they are about: ``{"default": {"bytes": 4096.0}}``.
Facts = Mapping[str, Mapping[str, float]]

#: Seconds of a process's life before it takes its first measurement: starting is busy enough.
SETTLED = 60.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything at one moment. What is not there was not seen."""

    now: float
    life: float = 0.0
    """Seconds that the oldest living worker has lived."""
    slowest: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    """The slowest run in seconds, and the text, of statements that ran lately, by their id."""
    endpoints: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Requests, and their p95 in seconds, by endpoint."""
    lately: Mapping[str, float] = field(default_factory=dict)
    """The counters of the window in which ratios are judged."""
    hour: Mapping[str, float] = field(default_factory=dict)
    """The counters of the last hour."""
    watched: Mapping[str, Facts] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Series]] = field(default_factory=dict)
    blind: frozenset[str] = frozenset()
    """The watches that failed this time."""

    def facts(self, watch: str) -> Iterable[tuple[str, Mapping[str, float]]]:
        """What a watch tells, by subject."""
        return self.watched.get(watch, {}).items()

    def series(self, kind: str) -> Mapping[str, Series]:
        """What was measured of a kind, by name."""
        return self.measured.get(kind, {})


@dataclass(slots=True)
class _Watch:
    """A probe that is asked at most every so many seconds; its last answer serves in between."""

    probe: Callable[[], Facts]
    every: float
    asked: float = float("-inf")
    answer: Facts | None = None
    """None: it failed."""


@dataclass(slots=True)
class _Gauge:
    """A probe whose figures are kept in the ledger, to be compared with earlier ones."""

    probe: Callable[[], Mapping[str, Mapping[str, float]]]
    every: float
    keep: float
    due: float | None = None


class Kept(Generic[T]):
    """What was read a moment ago: it need not be read again for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: tuple[float, T] | None = None

    def get(self, now: float, read: Callable[[], T]) -> T:
        """As it is kept, or read now."""
        kept = self._kept
        if kept is None or not 0 <= now - kept[0] < self._seconds:
            kept = self._kept = now, read()
        return kept[1]

    def drop(self) -> None:
        """Read it next time."""
        self._kept = None


class Watches:
    """The probes of one process. None of them is asked on a request's way."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self._watches: dict[str, _Watch] = {}
        self._gauges: dict[str, _Gauge] = {}
        self._ailing: set[str] = set()

    def watch(self, name: str, probe: Callable[[], Facts], every: float) -> None:
        """Ask ``probe`` when rules are applied, though not again within ``every`` seconds."""
        self._watches[name] = _Watch(probe, every)

    def measure(
        self, name: str, probe: Callable[[], Mapping[str, Mapping[str, float]]], *, every: float, keep: float
    ) -> None:
        """Note what ``probe`` tells, by kind and name, every so many seconds; keep it for so long."""
        self._gauges[name] = _Gauge(probe, every, keep)

    def look(self, now: float) -> tuple[dict[str, Facts], frozenset[str]]:
        """What each watch tells, and the names of those that failed."""
        told: dict[str, Facts] = {}
        for name, watch in list(self._watches.items()):
            if not 0 <= now - watch.asked < watch.every:
                answer = self._ask(name, watch.probe)
                watch.asked, watch.answer = now, None if answer is None else _with_text(answer)
            if watch.answer is not None:
                told[name] = watch.answer
        return told, frozenset(self._watches.keys() - told.keys())

    def take(self, now: float) -> bool:
        """Take the measurements that are due, and whether there were any.

        One worker does it for all, and its successor goes on from there.
        """
        has_taken = False
        for name, gauge in list(self._gauges.items()):
            if gauge.due is None or gauge.due - now > gauge.every:
                gauge.due = now + min(gauge.every, SETTLED)
            if now < gauge.due:
                continue
            last = self._register.notes("measured").get(name, 0.0)
            if 0 <= now - last < gauge.every:
                gauge.due = last + gauge.every
                continue
            gauge.due = now + gauge.every
            self._register.note("measured", name, now, now)
            for kind, figures in (self._ask(name, gauge.probe) or {}).items():
                self._register.measure(kind, _with_text(figures), now, keep=gauge.keep)
            has_taken = True
        return has_taken

    def _ask(self, name: str, probe: Callable[[], Facts]) -> Facts | None:
        try:
            answer = probe()
        except Exception:
            if name not in self._ailing:  # only the first of a row: it is asked every few seconds
                log.exception("the facts of %s could not be read", name)
            self._ailing.add(name)
            return None
        self._ailing.discard(name)
        return answer


def _with_text(named: Mapping[str, T]) -> dict[str, T]:
    """Names of folders need be no text; the ledger takes nothing else."""
    return {name.encode(errors="backslashreplace").decode(): value for name, value in named.items()}
