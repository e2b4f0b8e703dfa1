"""Kept results within bounds: the least recently used makes room, and nothing outlives its time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from flask_dbopt.cache.answer import Kept


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept result, and what it takes to trust it."""

    kept: Kept
    token: Hashable
    """The state of the database that it is true for."""
    shelf: str
    tables: frozenset[str]
    bytes: int
    seconds: float
    """What its query cost, and so what each hit saves."""
    since: float


class Store:
    """LRU with TTL, bounded in entries and bytes. Not locked: its owner does that."""

    def __init__(self, max_entries: int, max_bytes: int, ttl: float) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.bytes = 0
        self.evictions = 0
        self.expirations = 0
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> Entry | None:
        """The entry, now the most recently used one. A clock that ran backward makes nothing old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now - entry.since >= self.ttl:
            self.drop(key)
            self.expirations += 1
            return None
        self._entries.move_to_end(key)
        return entry

    def has_room(self, size: int = 0) -> bool:
        """Whether one more, of so many bytes, would drive nothing out."""
        return len(self._entries) < self.max_entries and self.bytes + size <= self.max_bytes

    def put(self, key: Hashable, entry: Entry) -> bool:
        """Keep it, whatever else has to go; one that is larger than the whole store stays out."""
        self.drop(key)
        if entry.bytes > self.max_bytes or self.max_entries < 1:
            return False
        self._entries[key] = entry
        self.bytes += entry.bytes
        while len(self._entries) > self.max_entries or self.bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.bytes
            self.evictions += 1
        return True

    def put_on_trial(self, key: Hashable, entry: Entry) -> bool:
        """Keep it only where there is room, and until it is used, as the first to go."""
        if key in self._entries or not self.has_room(entry.bytes):
            return False
        self.put(key, entry)
        self._entries.move_to_end(key, last=False)
        return True

    def drop(self, key: Hashable) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.bytes -= entry.bytes
        return True

    def drop_where(self, condition: Callable[[Entry], bool]) -> int:
        """Drop every entry of which this holds; how many those were."""
        doomed = [key for key, entry in self._entries.items() if condition(entry)]
        for key in doomed:
            self.drop(key)
        return len(doomed)

    def expire(self, now: float) -> None:
        self.expirations += self.drop_where(lambda entry: now - entry.since >= self.ttl)
