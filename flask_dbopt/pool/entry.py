"""One connection's life: opened, lent, taken back, and one day closed for a reason."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from weakref import ref

from flask_dbopt.engines.protocol import Identity

#: Whether a reference count tells who else holds a connection: not where the interpreter borrows references (3.14)
#: or counts them lazily (free threading). There a connection is never lent twice.
COUNTS_ARE_TRUE = sys.version_info < (3, 14) and bool(getattr(sys, "_is_gil_enabled", lambda: True)())


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a connection now, for the timeout's message and the page."""

    name: str
    """The request's endpoint, or the thread's name."""
    seconds: float


class Entry:
    """One open connection in the pool's books."""

    __slots__ = (
        "_alone",
        "borrower",
        "connection",
        "context",
        "expires",
        "identity",
        "idle_since",
        "is_reported",
        "key",
        "lent_at",
    )

    def __init__(self, connection: Any, key: Hashable, identity: Identity | None, born: float, expires: float) -> None:
        self.connection = connection
        self.key = key
        self.identity = identity
        self.expires = expires
        self.idle_since = born
        self.lent_at = born
        self.borrower = ""
        self.context: ref[Any] | None = None
        """The app context it was lent to: once that is gone, nobody will give the connection back any more."""
        self.is_reported = False
        """Whether this loan was reported as a leak already."""
        self._alone = 0

    def calibrate(self) -> None:
        """Count who refers to the connection while only the pool does: this entry, and the driver's own cycle."""
        self._alone = sys.getrefcount(self.connection)

    def is_held(self) -> bool:
        """Whether anybody beside the pool still refers to the connection or to a cursor of it."""
        return sys.getrefcount(self.connection) > self._alone

    def is_dropped(self) -> bool:
        """Whether a lent connection can never come back by itself."""
        if self.context is not None and self.context() is None:
            return True
        return COUNTS_ARE_TRUE and not self.is_held()
