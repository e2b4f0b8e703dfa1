"""What a connection's statements may do and how long they may take: its authorizer and its progress handler.

SQLite has one of each a connection. Ours are there only where something is limited, and call the app's own after
themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flask_dbopt.engines.sqlite.policy import Policy, deed
from flask_dbopt.errors import StatementRefused, StatementTimeout

if TYPE_CHECKING:
    from flask_dbopt.engines.sqlite.connection import Connection

#: Steps of SQLite's machine between two looks at the clock: some 50 µs, and 1 % of a statement's time.
STEPS = 1_000
#: Of the time between two looks, while it is not known whether the app or the statement spent it.
_DOUBTFUL = 0.002

Refused = Callable[[str, str], None]


#: What SQLite says of what an authorizer refused.
_REFUSALS = ("not authorized", "authorization denied", "prohibited")


class Limits:
    """One connection's."""

    def __init__(
        self, policy: Policy | None, seconds: float | None, refused: Refused = lambda rule, what: None
    ) -> None:
        """``seconds`` for one statement; None: no limit. ``refused(rule, what)`` hears of each refusal."""
        self.policy = policy
        self.seconds = seconds
        self._refused = refused
        self._is_ours = False
        self._refusal: tuple[str, str] | None = None
        self._own_authorizer: Callable[..., int] | None = None
        self._own_handler: Callable[[], int | None] | None = None
        self._own_turn = self._own_steps = 1
        self._spent = self._since = 0.0
        self._runs = self._is_over = False

    def put_on(self, connection: sqlite3.Connection) -> None:
        """Take hold of a connection, with whatever the app has set on it by now."""
        if self.policy is not None:
            sqlite3.Connection.set_authorizer(connection, self._authorize)
        if self.seconds is not None:
            sqlite3.Connection.set_progress_handler(connection, self._look, STEPS)

    # --- the app's own ---

    def keep_authorizer(self, connection: sqlite3.Connection, authorizer: Callable[..., int] | None) -> None:
        """The app sets its own, or takes it away."""
        self._own_authorizer = authorizer
        if self.policy is None:
            sqlite3.Connection.set_authorizer(connection, authorizer)
        else:
            sqlite3.Connection.set_authorizer(connection, self._authorize)  # so that SQLite prepares anew

    def keep_handler(
        self, connection: sqlite3.Connection, handler: Callable[[], int | None] | None, steps: int
    ) -> None:
        """The same for its progress handler, called each ``steps`` steps."""
        if self.seconds is None:
            sqlite3.Connection.set_progress_handler(connection, handler, steps)
            return
        self._own_handler = handler if steps > 0 else None
        own = min(STEPS, steps) if self._own_handler is not None else STEPS
        self._own_turn = self._own_steps = max(1, steps // own)
        sqlite3.Connection.set_progress_handler(connection, self._look, own)

    @contextmanager
    def as_ourselves(self) -> Iterator[None]:
        """For what we do on the app's connection: the policy is the app's, not ours."""
        before, self._is_ours = self._is_ours, True
        try:
            yield
        finally:
            self._is_ours = before

    # --- SQLite asks ---

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, inner: str | None
    ) -> int:
        if not self._is_ours:
            assert self.policy is not None  # noqa: S101  # else it is not set
            rule = self.policy.refusal(action, first, second, inner)
            if rule is not None:
                self._refusal = rule, deed(action, first, second)
                return sqlite3.SQLITE_DENY
        return (
            sqlite3.SQLITE_OK
            if self._own_authorizer is None
            else self._own_authorizer(action, first, second, schema, inner)
        )

    def _look(self) -> int | None:
        now = perf_counter()
        if self._runs:
            spent = self._spent + now - self._since
        else:  # a row is fetched, by what we did not see
            self._spent = spent = self._spent + min(now - self._since, _DOUBTFUL)
            self._since = now
        assert self.seconds is not None  # noqa: S101  # else it is not set
        if spent >= self.seconds and not self._is_ours:
            self._spent, self._since, self._is_over = spent, now, True
            return 1
        if self._own_handler is not None:
            self._own_turn -= 1
            if self._own_turn <= 0:
                self._own_turn = self._own_steps
                return self._own_handler()
        return 0

    # --- a statement's way ---

    def begin(self) -> None:
        """A statement is to run."""
        self._refusal, self._is_over = None, False
        self._spent, self._since, self._runs = 0.0, perf_counter(), True

    def resume(self) -> None:
        """Its next rows are fetched."""
        self._since, self._runs = perf_counter(), True

    def pause(self) -> None:
        """It waits for somebody to fetch more."""
        if self._runs:
            now = perf_counter()
            self._spent, self._since, self._runs = self._spent + now - self._since, now, False

    def explain(self, error: Exception) -> Exception:
        """The error as the app is told it: ours where we are the cause, else as it is."""
        self.pause()
        if self._is_over and isinstance(error, sqlite3.OperationalError):
            self._is_over = False
            return StatementTimeout(
                f"interrupted: the statement ran {self._spent:.1f} s, and {self.seconds:g} s are allowed",
                hint="DBOPT_MONITOR_STATEMENT_TIMEOUT is the limit; connect(statement_timeout=…) sets another",
            )
        if self._refusal is not None and any(word in str(error) for word in _REFUSALS):
            (rule, what), self._refusal = self._refusal, None
            self._refused(rule, what)
            assert self.policy is not None  # noqa: S101  # it refused
            return StatementRefused(f"not authorized: {what}; {rule}", hint=self.policy.hint)
        return error


def refuse_extensions(connection: Connection) -> None:
    """Before Python loads machine code. Raises StatementRefused where the policy has it so."""
    limits = connection._limits
    if limits is not None and limits.policy is not None and limits.policy.refuses_extensions:
        limits._refused("LOAD_EXTENSION is denied", "LOAD_EXTENSION")
        raise StatementRefused("not authorized: LOAD_EXTENSION is denied", hint="DBOPT_SQLITE_POLICY says so")


def ours(connection: Any) -> Any:
    """A context in which a connection's statements are ours: no policy holds."""
    limits: Limits | None = getattr(connection, "_limits", None)
    return _Nothing() if limits is None else limits.as_ourselves()


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
