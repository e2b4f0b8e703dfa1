"""One connection's life: opened, lent, taken back, and one day closed for a reason."""

from __future__ import annotations

import sys
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from traceback import StackSummary
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
    stack: str = ""
    """Where it was borrowed, as a traceback; only known while leaks are looked for."""


class Entry:
    """One open connection in the pool's books."""

    __slots__ = (
        "alone",
        "borrower",
        "connection",
        "context",
        "expires",
        "identity",
        "idle_since",
        "is_reported",
        "key",
        "lent_at",
        "loans",
        "shelf",
        "stack",
        "used",
    )

    def __init__(
        self,
        connection: Any,
        key: Hashable,
        shelf: list[Entry],
        identity: Identity | None,
        born: float,
        expires: float,
    ) -> None:
        self.connection = connection
        self.key = key
        self.shelf = shelf
        """Where it stands while it is idle."""
        self.identity = identity
        self.expires = expires
        self.idle_since = born
        self.lent_at = born
        self.borrower: object = None
        """Named when somebody asks: whatever ``str`` makes a name of, or a thread's number."""
        self.context: ref[Any] | None = None
        """The app context it was lent to: once that is gone, nobody will give the connection back any more."""
        self.is_reported = False
        """Whether this loan was reported as a leak already."""
        self.stack: StackSummary | None = None
        self.loans = 0
        self.used = 0.0
        """Seconds lent, all together. These two have no lock: only who has the connection counts on it."""
        self.alone = 0
        """References to the connection while only the pool has it: this one, and the driver's own cycle."""

    def calibrate(self) -> None:
        """Count ``alone``, while it is so."""
        self.alone = sys.getrefcount(self.connection)

    def is_held(self) -> bool:
        """Whether anybody beside the pool still refers to the connection or to a cursor of it."""
        return sys.getrefcount(self.connection) > self.alone

    def is_dropped(self) -> bool:
        """Whether a lent connection can never come back by itself."""
        context = self.context
        if context is not None and context() is None:
            return True
        return COUNTS_ARE_TRUE and not self.is_held()

    def borrower_name(self) -> str:
        """Whose loan it is, or was last."""
        borrower = self.borrower
        if not isinstance(borrower, int):
            return str(borrower)
        alive = {thread.ident: thread.name for thread in threading.enumerate()}
        return alive.get(borrower, "a thread that has ended")

    def holder(self, now: float) -> Holder:
        """The loan as others see it."""
        stack = self.stack
        return Holder(self.borrower_name(), now - self.lent_at, "" if stack is None else "".join(stack.format()))
