"""Refusals, which anybody may cause by the thousand: told soon, the same ones together, and never without bound."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flask_dbopt.audit.trail import Note

WINDOW = 60.0
"""Seconds in which the same refusal is told once. How often it came again is told behind them, …"""
LONGEST = 3_600.0
"""… and if it goes on, after twice as long each time, up to this."""
KINDS = 20
"""Different ones that are told at once; what goes beyond is counted together …"""
ONE_MORE_EVERY = 120.0
"""… until so many seconds have passed, for each one more."""


@dataclass(slots=True)
class _Seen:
    """One refusal that was seen lately."""

    note: Note
    until: float
    window: float = WINDOW
    more: int = 0
    """How often it came again."""
    is_told: bool = False

    def again(self) -> Note:
        return replace(self.note, what={**self.note.what, "again": self.more})


class Refusals:
    """What waits to be written down. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], _Seen] = {}
        self._left: float = KINDS
        """Different ones that may still be told, …"""
        self._counted_at = 0.0
        """… as of then."""

    def add(self, note: Note) -> None:
        """Remember one; cheap, since it happens in the midst of a request."""
        what = {name: value for name, value in note.what.items() if name != "at"}
        who = {name: value for name, value in note.who.items() if name != "pid"}
        key: tuple[object, ...] = (note.deed, repr(sorted(who.items())), repr(sorted(what.items())))
        with self._lock:
            if key not in self._seen and not self._may_tell_another(note.at):
                key = (note.deed,)
                note = replace(note, who={"by": "various"}, what={"reason": "more than are told one by one"})
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(note, note.at + WINDOW)
            else:
                seen.more += 1
                seen.note = replace(seen.note, at=note.at)

    def due(self, now: float, *, to_the_end: bool = False) -> Sequence[Note]:
        """What is to be written down now."""
        if not self._seen:
            return ()
        with self._lock:
            notes = []
            for key, seen in list(self._seen.items()):
                if not seen.is_told:
                    notes.append(seen.note)
                    seen.is_told = True
                if now < seen.until <= now + seen.window and not to_the_end:
                    continue
                if seen.more:
                    notes.append(seen.again())
                if seen.more and not to_the_end:
                    seen.more, seen.window = 0, min(2 * seen.window, LONGEST)
                    seen.until = now + seen.window
                else:
                    del self._seen[key]
            return notes

    def _may_tell_another(self, at: float) -> bool:
        """Whether there is room for one more, which then is taken."""
        gained = max(0.0, at - self._counted_at) / ONE_MORE_EVERY
        self._left, self._counted_at = min(float(KINDS), self._left + gained), at
        if self._left < 1:
            return False
        self._left -= 1
        return True
