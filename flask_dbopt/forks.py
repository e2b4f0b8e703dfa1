"""Before a fork the parent closes what it can; after it the child builds its own and never touches what is left.

SQLite handles, lock descriptors and threads do not survive a fork (sqlite.org/howtocorrupt.html, "Carrying an open
database connection across a fork"). Closing an inherited handle can drop the parent's locks or cut its WAL. And while
a child has one, SQLite believes in the child that the file's locks are held already, and takes none for the child's
own connections either (seen in /proc/locks): so idle handles are closed in the parent first.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

log = logging.getLogger("flask_dbopt")


class Inherited(Protocol):
    def let_go(self) -> None:
        """Before a fork, in the parent: close whatever nobody is using; it is opened again when it is needed."""

    def abandon(self) -> None:
        """After it, in the child: forget what was inherited, without closing it."""


_watched: WeakValueDictionary[int, Any] = WeakValueDictionary()
_hooked: list[int] = []


def watch(thing: Inherited) -> None:
    """Prepare ``thing`` for every fork of this process, for as long as it lives."""
    if not _hooked:
        # A hook can't be taken back: there is one for all, and it holds nobody alive.
        os.register_at_fork(before=_let_go_all, after_in_child=_abandon_all)
        _hooked.append(os.getpid())
    _watched[id(thing)] = thing


def _let_go_all() -> None:
    for thing in _all():
        _attempt(thing.let_go)


def _abandon_all() -> None:
    for thing in _all():
        _attempt(thing.abandon)


def _all() -> list[Any]:
    """Listed in one step of the interpreter, since other threads may be adding theirs."""
    return [thing for each in _watched.valuerefs() if (thing := each()) is not None]


def _attempt(step: Callable[[], None]) -> None:
    """One that fails must neither stop the fork nor keep the others from their turn."""
    try:
        step()
    except Exception:
        log.exception("a fork was not prepared for")


def keep_forever(handle: object) -> None:
    """Never let the interpreter close this handle, not even when the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
