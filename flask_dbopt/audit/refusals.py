"""Refusals, which anybody may cause by the thousand: told soon, the same ones together, and never without bound."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flask_dbopt.audit.trail import Note

WINDOW = 60.0
"""Seconds in which the same refusal is told once, and how often it came again afterwards."""
KINDS = 20
"""Different ones told in that time; what goes beyond is counted together."""


@dataclass(slots=True)
class _Seen:
    """One refusal of this window."""

    note: Note
    until: float
    more: int = 0
    """How often it came again."""
    is_told: bool = False


class Refusals:
    """What waits to be written down. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def add(self, note: Note) -> None:
        """Remember one; cheap, since it happens in the midst of a request."""
        what = {name: value for name, value in note.what.items() if name != "at"}
        who = {name: value for name, value in note.who.items() if name != "pid"}
        key: tuple[object, ...] = (note.deed, repr(sorted(who.items())), repr(sorted(what.items())))
        with self._lock:
            if key not in self._seen and len(self._seen) >= KINDS:
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
                if to_the_end or not now < seen.until <= now + WINDOW:
                    if seen.more:
                        notes.append(replace(seen.note, what={**seen.note.what, "again": seen.more}))
                    del self._seen[key]
            return notes
