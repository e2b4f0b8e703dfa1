"""Writes down who did what. A deed never fails because it cannot be written down; that is said instead, loudly."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from flask_dbopt import forks
from flask_dbopt.audit import chain
from flask_dbopt.audit.actor import current
from flask_dbopt.audit.chain import Entry, Head, Verdict
from flask_dbopt.audit.refusals import Refusals
from flask_dbopt.audit.trail import Note, Trail
from flask_dbopt.deeds import ALLOWED, DONE, REFUSED

log = logging.getLogger("flask_dbopt.monitoring")

_KEPT = 200
"""Entries in memory where there is no file."""
_LONGEST = 500
"""Characters of one text in an entry."""


class Audit:
    """The audit log of one app. ``path`` None: there is no place for a file, and the last entries stay in memory."""

    def __init__(
        self,
        path: Path | None,
        *,
        app: str = "",
        retention: float = 365 * 86_400.0,
        otherwise: Callable[[], Mapping[str, Any]] = lambda: {"by": "app"},
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``retention``: seconds that entries are kept at least. ``otherwise``: who acts where no door has said so."""
        self.path = path
        self.problem = ""
        """Why entries are not written; empty while all is well."""
        self._app = app
        self._otherwise = otherwise
        self._clock = clock
        self._trail = None if path is None else Trail(path, retention=retention)
        self._memory: deque[Entry] = deque(maxlen=_KEPT)
        self._verdict: tuple[object, Verdict] | None = None
        self.abandon()
        forks.watch(self)

    def let_go(self) -> None:
        """Before a fork, in the parent: nothing has to happen."""

    def abandon(self) -> None:
        """After a fork, in the child: what waits, or was lost, is the parent's to write down."""
        self._lock = threading.Lock()
        self._refusals = Refusals()
        self._lost = 0

    # --- writing ---

    def note(self, deed: str, outcome: str = DONE, **what: Any) -> None:
        """Write one deed down before this returns; what was refused, or looked as if it should be, shortly after."""
        actor = current()
        if actor is not None:
            actor.noted += 1
        who = {**(self._otherwise() if actor is None else actor.about), "pid": os.getpid()}
        if self._app:
            who["app"] = self._app
        note = Note(self._clock(), deed, outcome, _short(who), _short(what))
        if outcome in (REFUSED, ALLOWED):  # anybody may cause many
            self._refusals.add(note)
        else:
            self._write([*self._refusals.due(note.at), note])

    def note_settings(self, in_force: Mapping[str, Any]) -> None:
        """Write down what the app is set to, if that is not what was written down last; what is secret is hidden."""
        told: Any = _plain(in_force)
        try:
            entries = self.entries(deed="settings.change")
            last = next((each.what for each in entries if each.who.get("app", "") == self._app), None)
        except OSError:
            last = None  # it cannot be read: the note below says what is wrong
        before = {} if last is None else last.get("in_force", {})
        if last is None or before != told:
            names = sorted(name for name in {*before, *told} if before.get(name) != told.get(name))
            self.note("settings.change", changed=names, in_force=told)

    def hear(self, sender: object = None, *, deed: str, outcome: str, details: Mapping[str, Any], **_: Any) -> None:
        """The receiver of the signal ``deed_done``."""
        self.note(deed, outcome, **details)

    def emit(self, name: str, **details: Any) -> None:
        """As an ``Emit``, for a room that no app stands behind."""
        if name == "deed_done":
            self.hear(**details)

    def sweep(self, now: float) -> None:
        """Write down what was refused since."""
        if due := self._refusals.due(self._clock()):
            self._write(due)

    def close(self) -> None:
        """Write down what is left, and let go of the file."""
        if due := self._refusals.due(self._clock(), to_the_end=True):
            self._write(due)
        if self._trail is not None:
            self._trail.close()

    def _write(self, notes: Sequence[Note]) -> None:
        with self._lock:
            if self._trail is None:
                for note in notes:
                    seq = self._memory[-1].seq + 1 if self._memory else 0
                    self._memory.append(Entry(seq, note.at, note.deed, note.outcome, note.who, note.what, ""))
                return
            gap = []
            if self._lost:
                what = {"lost": self._lost, "reason": self.problem}
                gap = [Note(notes[0].at, "audit.gap", DONE, {"by": "audit", "pid": os.getpid()}, what)]
            try:
                self._trail.append([*gap, *notes])
            except OSError as error:
                self._lost += len(notes)
                self.problem = f"{error.strerror or error} ({self.path})"
                for note in notes:
                    log.error("the audit log cannot be written: %s; lost: %s", self.problem, _told(note))  # noqa: TRY400
            else:
                self._lost, self.problem = 0, ""

    # --- reading ---

    def entries(self, limit: int | None = None, *, since: float | None = None, deed: str = "") -> Iterator[Entry]:
        """The newest first; ``deed``: how the deeds' names begin. OSError when the file may not be read."""
        self.sweep(self._clock())
        if self._trail is None:
            newest_first = reversed(self._memory.copy())
            found: Iterable[Entry] = (each for each in newest_first if since is None or each.at >= since)
        else:
            found = self._trail.entries(since)
        return islice((each for each in found if each.deed.startswith(deed)), limit)

    def verdict(self, anchor: Head | None = None) -> Verdict:
        """Whether the chain is whole, checked line by line. OSError when the file may not be read."""
        self.sweep(self._clock())
        if self._trail is None:
            return Verdict(len(self._memory), None, "", 0, ())
        return self._trail.verdict(anchor)

    def glance(self) -> Verdict:
        """The same, but checked again only when the files have changed since this process looked."""
        self.sweep(self._clock())
        signature = None if self._trail is None else self._trail.signature()
        if self._trail is None or self._verdict is None or self._verdict[0] != signature:
            self._verdict = signature, self.verdict()
        return self._verdict[1]

    def notices(self) -> list[str]:
        """Where it is not at its best, as sentences."""
        if not self._lost:
            return []
        return [f"the audit log is not written (entries lost so far: {self._lost}): {self.problem}"]


def _short(about: Mapping[str, Any]) -> dict[str, Any]:
    """In JSON's types, and nothing endless."""
    return {name: _plain(value) for name, value in about.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value[:100]]
    told = str(value)
    return told if len(told) <= _LONGEST else told[: _LONGEST - 1] + "…"


def _told(note: Note) -> str:
    line = chain.written(Entry(0, note.at, note.deed, note.outcome, note.who, note.what, "")).decode("ascii")
    return line.partition(',"prev"')[0].replace('"seq":0,', "") + "}"
