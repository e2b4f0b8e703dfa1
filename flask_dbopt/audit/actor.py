"""On whose behalf something is done: set at the doors, read where it is written down."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Actor:
    """Somebody, or something, that acts. ``noted`` counts what was written down about it meanwhile."""

    __slots__ = ("about", "noted")

    def __init__(self, by: str, **about: Any) -> None:
        """``by``: the door it came through, as "cli", "page", "scheduler" or "app"."""
        self.about: Mapping[str, Any] = {"by": by, **{name: value for name, value in about.items() if value}}
        self.noted = 0


#: Who acts in this context; None: the app itself.
_ACTING: ContextVar[Actor | None] = ContextVar("flask_dbopt_actor", default=None)


def current() -> Actor | None:
    """Who acts now; None: the app itself."""
    return _ACTING.get()


@contextmanager
def acting(actor: Actor) -> Iterator[Actor]:
    """What is done inside, in this context, is done by ``actor``."""
    before = _ACTING.set(actor)
    try:
        yield actor
    finally:
        _ACTING.reset(before)


def system_user() -> str:
    """The operating system's name for who runs this process; the number where it has no name."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
