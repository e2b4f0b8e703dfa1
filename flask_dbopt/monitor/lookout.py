"""What workers tell each other for the lost-update watch, by the books, and what came of it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.intake import Intake
from flask_dbopt.monitor.lost_updates import KEPT, Commit, Overlap
from flask_dbopt.monitor.register import Register
from flask_dbopt.monitor.sums import identify
from flask_dbopt.sql.fingerprint import fingerprint

log = logging.getLogger("flask_dbopt.monitoring")

#: Kinds of notes in the register: each worker's latest commits; the latest example of each endpoint and table.
COMMITS, FOUND = "commits", "lost_update"
#: Examples that are kept.
MOST_FOUND = 100


@dataclass(frozen=True, slots=True)
class LostUpdate:
    """The latest time that requests of an endpoint wrote a table which had changed since they read it."""

    database: str
    table: str
    endpoint: str
    read: str
    """The statement that read it, by its id …"""
    write: str
    """… and the one that wrote it."""
    other: str
    """The endpoint that had changed it; "" for work outside requests."""
    at: float
    """Unix seconds."""


class Lookout:
    """The watch of one worker, with the books that it shares with the others. Hold the intake's lock."""

    def __init__(self, intake: Intake, books: Books, timer: Callable[[], float] = time.perf_counter) -> None:
        self._intake = intake
        self._watch = intake.watch
        self._books = books
        self._register = Register(books)
        self._timer = timer
        self._tidied: float | None = None
        self._is_ailing = False

    def sweep(self, worker: str, now: float) -> None:
        """Tell the other workers what was committed here, hear them, and count what was found since the last time."""
        try:
            self._watch.look()
            news = self._watch.news()
            if news and self._has_company(worker, now):
                told = [[one.database, one.table, one.at, one.endpoint] for one in news]
                self._register.note(COMMITS, worker, {"clock": _clock(), "at": now, "commits": told}, now)
            if self._watch.is_waiting:
                self._hear(worker, now)
            found = [self._named(each, now) for each in self._watch.judge()]
            if found:
                self._keep(found, now)
            if self._tidied is None:  # an app that is only made and closed shall not touch the ledger
                self._tidied = now
            elif not 0 <= now - self._tidied < KEPT:
                self._tidied = now
                self._tidy(now)
        except Exception:
            if not self._is_ailing:  # only the first of a row: it comes every two seconds
                log.exception("lost updates were not watched for")
            self._is_ailing = True
            return
        self._is_ailing = False
        for one in found:
            self._intake.tally.count("monitor.lost_updates", 1, now)
            self._intake.tally.count(f"lost_updates.{one.database}.{one.table}", 1, now)
            self._intake.later("lost_update_detected", database=one.database, table=one.table, endpoint=one.endpoint)

    def found(self, since: float = 0.0) -> list[LostUpdate]:
        """The latest example of each endpoint and table, the newest first."""
        kept = (LostUpdate(**value) for value in self._register.notes(FOUND).values())
        return sorted((one for one in kept if one.at >= since), key=lambda one: -one.at)

    def forget(self, now: float) -> None:
        """As if nothing had been found."""
        for name in self._register.notes(FOUND):
            self._register.forget(FOUND, name, now)

    def _has_company(self, worker: str, now: float) -> bool:
        """Whether there are others whose requests may have met with what was committed here."""
        return any(one.id != worker and abs(now - one.heartbeat) < KEPT for one in self._books.workers())

    def _hear(self, worker: str, now: float) -> None:
        for name, told in self._register.notes(COMMITS).items():
            if name != worker and _is_fresh(told, now) and told["clock"] == _clock():
                self._watch.hear(Commit(*each) for each in told["commits"])

    def _tidy(self, now: float) -> None:
        """Forget what workers told that have ended since: each has a name of its own."""
        for name, told in self._register.notes(COMMITS).items():
            if not _is_fresh(told, now):
                self._register.forget(COMMITS, name, now)

    def _named(self, overlap: Overlap, now: float) -> LostUpdate:
        return LostUpdate(
            database=overlap.database,
            table=overlap.table,
            endpoint=overlap.endpoint,
            read=identify(fingerprint(overlap.read), overlap.database),
            write=identify(fingerprint(overlap.write), overlap.database),
            other=overlap.other,
            at=now - max(0.0, self._timer() - overlap.at),
        )

    def _keep(self, found: list[LostUpdate], now: float) -> None:
        kept: dict[str, Any] = self._register.notes(FOUND)
        latest = {json.dumps([one.database, one.table, one.endpoint]): one for one in found}
        for name, one in latest.items():
            self._register.note(FOUND, name, asdict(one), now)
        others = sorted(kept.keys() - latest.keys(), key=lambda name: float(kept[name]["at"]))
        for name in others[: max(0, len(others) + len(latest) - MOST_FOUND)]:
            self._register.forget(FOUND, name, now)


def _is_fresh(told: Mapping[str, Any], now: float) -> bool:
    return bool(-KEPT < now - told["at"] < 2 * KEPT)


@cache
def _clock() -> str:
    """By whose clock this process tells the time: that of the machine since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
