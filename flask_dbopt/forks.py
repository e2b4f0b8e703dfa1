"""What a child process does with what it inherited: builds its own, and leaves the parent's handles untouched.

SQLite handles, lock descriptors and threads do not survive a fork (sqlite.org/howtocorrupt.html, "Carrying an open
database connection across a fork"): even closing an inherited handle can drop the parent's locks or cut its WAL.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Protocol
from weakref import WeakSet


class Inherited(Protocol):
    def abandon(self) -> None: ...


_watched: WeakSet[Any] = WeakSet()
_hooked: list[int] = []


def watch(thing: Inherited) -> None:
    """Call ``thing.abandon()`` in every child this process forks, for as long as ``thing`` lives."""
    if not _hooked:
        # A hook can't be taken back: there is one for all, and it holds nobody alive.
        os.register_at_fork(after_in_child=_abandon_all)
        _hooked.append(os.getpid())
    _watched.add(thing)


def _abandon_all() -> None:
    for thing in list(_watched):
        thing.abandon()


def keep_forever(handle: object) -> None:
    """Never let the interpreter close this handle, not even when the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
