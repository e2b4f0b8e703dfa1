"""The open connections of one pool: opened, on their shelves while idle, and closed for a reason."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable

from flask_dbopt.engines.protocol import Connector, Identity
from flask_dbopt.forks import keep_forever
from flask_dbopt.pool.entry import Entry
from flask_dbopt.signals import Emit, silence


class Stock:
    """All of them, idle or lent. An idle one is taken by ``claim``, which only one thread can do."""

    def __init__(
        self,
        name: str,
        connector: Connector,
        *,
        most_idle: int,
        max_lifetime: float,
        check_after: float,
        emit: Emit = silence,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Durations in seconds. ``name`` is the pool's."""
        self.name = name
        self.connector = connector
        self.most_idle = most_idle
        self.max_lifetime = max_lifetime
        self.check_after = check_after
        self.emit = emit
        self.clock = clock
        self._chance = chance
        self._start_empty()

    def _start_empty(self) -> None:
        self.lock = threading.Lock()
        """For the books: which connections there are, and what the closed ones have counted."""
        self.shelves: dict[Hashable, list[Entry]] = {}
        """The idle ones by connect arguments; the most recently used last. Some are parked: still held by somebody."""
        self.entries: set[Entry] = set()
        self.is_closed = False
        """Whatever comes back is closed."""
        self.is_full = False
        """Who puts one on a shelf has to call ``trim``: there may be too many."""
        self.last_identity: Identity | None = None
        """The file that was opened last."""
        self.loans_of_closed = 0
        self.used_of_closed = 0.0
        self.opened = self.errors = self.lost = 0
        self.opening = 0.0

    def open(self, key: Hashable) -> Entry:
        """A new connection, on no shelf yet; the driver's own error when there is none to be had."""
        started = self.clock()
        try:
            connection, identity = self.connector.open(key)
        except Exception:
            with self.lock:
                self.errors += 1
            raise
        now = self.clock()
        # Not all at the same age, or they would all be replaced in the same moment.
        lifetime = self.max_lifetime * (0.9 + 0.1 * self._chance())
        with self.lock:
            shelf = self.shelves.setdefault(key, [])
            entry = Entry(connection, key, shelf, identity, now, now + lifetime)
            del connection
            entry.calibrate()
            self.entries.add(entry)
            self._measure()
            self.opened += 1
            self.last_identity = identity
            self.opening += now - started
        return entry

    def idle(self) -> list[Entry]:
        """Every idle connection, as it is now; ``claim`` one before anything is done to it."""
        return [entry for shelf in list(self.shelves.values()) for entry in shelf[:]]

    def claim(self, entry: Entry) -> bool:
        """Take an idle connection off its shelf; False when somebody else has."""
        try:
            entry.shelf.remove(entry)
        except ValueError:
            return False
        return True

    def pick(self, key: Hashable, identity: Identity | None, now: float) -> Entry | None:
        """Claim the connection used last that is fit and that nobody holds; close those that are not fit any more."""
        for entry in reversed(self.shelves.get(key, ())[:]):
            why = "its file was replaced" if entry.identity != identity else ""
            if entry.expires <= now:
                why = why or "it grew old"
            if not (why or not entry.is_held()) or not self.claim(entry):
                continue
            is_unsure = not now - entry.idle_since <= self.check_after
            if not why and is_unsure and not self.connector.is_alive(entry.connection):
                self.lose(entry)
            elif why:
                self.discard(entry, why)
            elif entry.is_held():  # lent and given back by another thread since we looked
                entry.shelf.append(entry)
            else:
                return entry
        return None

    def keep_for_later(self, entry: Entry) -> None:
        """Put one on its shelf as if it had not been used for longest."""
        entry.shelf.insert(0, entry)
        if self.is_closed:
            self.close_idle()

    def trim(self, back: Entry) -> None:
        """Close the idle connection that was not used for longest, when there are more than there may be.

        Parked ones do not count. ``back`` is not one, though whoever gives it back this moment still holds it.
        """
        if self.is_closed:
            self.close_idle()
            return
        if sum(map(len, list(self.shelves.values()))) <= self.most_idle:
            return
        usable = [entry for entry in self.idle() if entry is back or not entry.is_held()]
        if len(usable) > self.most_idle:
            oldest = min(usable, key=lambda entry: entry.idle_since)
            if self.claim(oldest):
                self.discard(oldest)

    def resize(self, most_idle: int) -> None:
        """Keep more idle ones, or fewer from the next return on."""
        with self.lock:
            self.most_idle = most_idle
            self._measure()

    def _measure(self) -> None:
        self.is_full = self.is_closed or len(self.entries) > self.most_idle

    def check(self) -> int:
        """Ask every idle connection whether it still answers and close those that do not; how many that was."""
        lost = 0
        for entry in self.idle():
            if entry.is_held() or not self.claim(entry):
                continue
            if self.connector.is_alive(entry.connection):
                self.keep_for_later(entry)
            else:
                self.lose(entry)
                lost += 1
        return lost

    def lose(self, entry: Entry) -> None:
        """Close a claimed connection that was found dead."""
        with self.lock:
            self.lost += 1
        self.discard(entry, "it no longer answered")

    def discard(self, entry: Entry, reason: str = "") -> None:
        """Really close a connection that stands on no shelf any more."""
        self.connector.close(entry.connection)
        with self.lock:
            self.entries.discard(entry)
            self._measure()
            self.loans_of_closed += entry.loans
            self.used_of_closed += entry.used
        if reason:
            self.emit("connection_recycled", database=self.name, reason=reason)

    def close_idle(self) -> int:
        """Close every idle connection; how many that was."""
        closed = 0
        for entry in self.idle():
            if self.claim(entry):
                self.discard(entry)
                closed += 1
        return closed

    def abandon(self) -> None:
        """After a fork, in the child: forget the parent's connections without touching them, and start empty."""
        for entry in self.entries:
            keep_forever(entry.connection)
        self._start_empty()

    def loans(self) -> int:
        """Loans that any of them ever had; under the lock."""
        return self.loans_of_closed + sum(entry.loans for entry in self.entries)

    def used(self) -> float:
        """Seconds that they were lent, all together; under the lock."""
        return self.used_of_closed + sum(entry.used for entry in self.entries)
