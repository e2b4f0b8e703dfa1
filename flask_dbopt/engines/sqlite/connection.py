"""The sqlite3 connection an app holds: a real subclass whose ``close()`` may give it back, and nothing else changed.

A connection that was given back changes its class to ``Returned``, in which every use raises: so the open ones need
no check for it, and whoever kept a reference cannot disturb the next borrower.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Set
from contextlib import closing, suppress
from functools import cache
from gc import get_referents
from threading import get_ident
from time import perf_counter
from typing import Any, cast

from flask_dbopt.engines.sqlite import statements
from flask_dbopt.engines.sqlite.cursor import Cursor
from flask_dbopt.engines.sqlite.footprint import DETERMINISTIC
from flask_dbopt.engines.sqlite.limits import Limits, refuse_extensions
from flask_dbopt.engines.sqlite.road import Road, note, note_end, run
from flask_dbopt.engines.sqlite.turns import Request, Turns
from flask_dbopt.errors import ConnectionReturned

#: Of a connection that is still being opened.
PLAIN = Road()

_new_cursor = sqlite3.Connection.cursor
_total_changes = sqlite3.Connection.total_changes.__get__
_execute = sqlite3.Cursor.execute


class Connection(sqlite3.Connection):
    """A real ``sqlite3.Connection``. ``close()`` gives it back when a pool lent it, and closes it otherwise."""

    _road: Road = PLAIN
    _ordinary: Set[str] = frozenset()
    """The road's ordinary statements, where nothing precedes them on this connection either."""
    _home: Callable[[Connection], None] | None = None
    """Where ``close()`` gives it back; None: it closes for real."""
    _owner: int | None = None
    """The borrowing thread, where ``check_same_thread`` was asked for."""
    _altered: bool = False
    """It has a state that other connections have not (own functions, temp tables): not to be lent again."""
    _bypasses: bool = False
    """That state may change what a SELECT gives or who hears of it: no cache."""
    _detect_types: int = 0
    _identity: tuple[int, int] | None = None
    """The file it was opened on."""
    _arguments: Any = None
    """What it was opened with."""
    _changes_before: int = 0
    """``total_changes`` when it was lent."""
    _has_failed: bool = False
    """A statement failed since it was lent."""
    _tuned: bool = True
    _turns: Turns | None = None
    """How it takes turns with the other writers; None: not at all."""
    _precede: Callable[[Connection, str], bool] | None = None
    """Called before each statement, where transactions begin by themselves."""
    _limits: Limits | None = None
    """What its statements may do, and how long they may take; None: whatever they like."""
    _turn: Any = None
    """Its turn to write, while it has one …"""
    _begun_for: Request | None = None
    """… the request that its transaction was begun for by us, …"""
    _changes_at_begin: int = 0
    """… and ``total_changes`` then."""
    _pragmas: dict[str, Any]
    """PRAGMAs that were changed, with the values they had before."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._pragmas = {}
        super().__init__(*arguments, **keywords)

    def cursor(self, factory: Any = Cursor) -> Any:
        return _new_cursor(self, factory if factory is Cursor else joined_cursor(factory))

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        # As in the driver, a cursor() of the app's own class has no part in this.
        return run(_new_cursor(self, Cursor), self, sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        return _our_cursor(self).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        return _our_cursor(self).executescript(sql_script)

    @property
    def total_changes(self) -> int:
        """Since it was lent, as a new connection's would be."""
        return cast(int, _total_changes(self)) - self._changes_before

    def commit(self) -> None:
        self.check_thread()
        if self.in_transaction:
            self._end("COMMIT", super().commit)
        else:
            super().commit()

    def rollback(self) -> None:
        self.check_thread()
        if self.in_transaction:
            self._end("ROLLBACK", super().rollback)
        else:
            super().rollback()
            if self._turn is not None:
                self.settle()

    def __exit__(self, *exception: Any) -> Any:
        self.check_thread()
        if self.in_transaction:
            return self._end("COMMIT" if exception[0] is None else "ROLLBACK", super().__exit__, *exception)
        try:
            return super().__exit__(*exception)
        finally:
            if self._turn is not None:
                self.settle()

    def _end(self, word: str, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return note_end(self._road, word, method, *arguments)
        except Exception:
            self._has_failed = True
            raise
        finally:
            if self._turn is not None:
                self.settle()

    def begin_immediate(self) -> None:
        """``BEGIN IMMEDIATE``, in turn with the database's other writers. Raises WriterTimeout."""
        self.check_thread()
        if self._turns is None:
            self.execute("BEGIN IMMEDIATE")
        else:
            self._turns.begin(self)

    def settle(self) -> None:
        """The transaction may be over: then the next writer may come."""
        if self._turns is not None:
            self._turns.settle(self)

    def close(self) -> None:
        if self._owner is not None and self._owner != get_ident():
            self.check_thread()
        if self._home is None:
            with suppress(sqlite3.ProgrammingError):  # closed already
                if self.in_transaction:
                    note(self._road, "ROLLBACK", perf_counter(), -1)
            super().close()
            if self._turn is not None and self._turns is not None:
                self._turns.leave(self)
        else:
            self._home(self)

    def check_thread(self) -> None:
        """What the driver checks where ``check_same_thread`` holds; ours are opened without, to be lent anywhere."""
        if self._owner is not None and self._owner != get_ident():
            raise sqlite3.ProgrammingError(
                "SQLite objects created in a thread can only be used in that same thread. The object was created "
                f"in thread id {self._owner} and this is thread id {get_ident()}."
            )

    def check_open(self) -> None:
        """Raise the driver's own error when it was really closed."""
        _total_changes(self)  # the driver's cheapest question that a closed connection refuses

    def is_idle(self) -> bool:
        """Whether no statement is half read, so that the next SELECT sees the newest commit.

        ``VACUUM INTO`` looks for exactly this before it looks at its (here impossible) file name; nothing runs. No
        document promises that order, so it is tried once a process; without it no connection counts as idle.
        """
        return _probe_tells() and _is_idle(self)

    def note_altering(self, sql: str) -> None:
        """Remember what this statement changes on the connection itself, to undo it when the connection returns."""
        changed = statements.changed_pragmas(sql)
        if changed is None:
            self._altered = self._bypasses = True
            return
        for name in changed:
            if name in statements.SHAPING:
                self._bypasses = True
            if name not in self._pragmas:
                cursor = _new_cursor(self)
                cursor.row_factory = None
                try:
                    ((self._pragmas[name],),) = _execute(cursor, f"PRAGMA {name}").fetchall()
                except (sqlite3.Error, ValueError):  # its value cannot be read, and so not be put back
                    self._altered = True


_our_cursor = Connection.cursor


def take_cursors(connection: sqlite3.Connection) -> list[Any] | None:
    """Its cursors (and blobs) that are still referenced, told once; None when this interpreter does not tell.

    The driver has to know them, to close them with the connection, and tells the garbage collector of its lists of
    weak references. To keep a list of our own would cost each statement 0.3 µs.
    """
    found: list[Any] = []
    for held in get_referents(connection):
        if type(held) is list and held:
            found += [cursor for kept in held if (cursor := kept()) is not None]
            held.clear()  # else the dead ones would be gone through again at each return
    return found if _tells_cursors() else None


@cache
def _tells_cursors() -> bool:
    with closing(sqlite3.connect(":memory:")) as trial:
        cursors = [trial.cursor(), trial.execute("SELECT 1")]
        told = [kept() for held in get_referents(trial) if type(held) is list for kept in held]
        return told == cursors


def forget_fault(connection: sqlite3.Connection) -> None:
    """The driver takes a connection's last fault for the cause of some errors, such as a wrong parameter."""
    _execute(_new_cursor(connection), "SELECT 1 WHERE 0")


def _is_idle(connection: sqlite3.Connection) -> bool:
    cursor = _new_cursor(connection)
    try:
        _execute(cursor, "VACUUM INTO ?", (0,))
    except sqlite3.Error as error:
        forget_fault(connection)
        return "filename" in str(error)
    return False


@cache
def _probe_tells() -> bool:
    """Whether this SQLite tells a half-read cursor from none."""
    with closing(sqlite3.connect(":memory:")) as trial:
        half_read = trial.execute("VALUES (1), (2)")
        half_read.fetchone()
        busy = _is_idle(trial)
        half_read.close()
        return _is_idle(trial) and not busy


def _keep_authorizer(limits: Limits, connection: Connection, authorizer_callback: Any) -> None:
    limits.keep_authorizer(connection, authorizer_callback)


def _keep_handler(limits: Limits, connection: Connection, progress_handler: Any, n: int) -> None:
    limits.keep_handler(connection, progress_handler, n)


_WITHIN_LIMITS: dict[str, Callable[..., None]] = {
    "set_authorizer": _keep_authorizer,
    "set_progress_handler": _keep_handler,
}
"""The app's own, of which SQLite has one a connection; the names of their arguments are the driver's."""


def _marking(name: str) -> Callable[..., Any]:
    """A driver's method that gives the connection a state of its own, and says so.

    A function with a name of its own leaves the cache in place: no other connection could prepare a statement that
    calls it, so none such is ever kept. One that takes a built-in's name does not.
    """
    method = getattr(sqlite3.Connection, name)
    makes_function = name in ("create_function", "create_aggregate", "create_window_function")

    def call(self: Connection, *arguments: Any, **keywords: Any) -> Any:
        self.check_thread()
        if name.endswith("load_extension"):
            refuse_extensions(self)
        made = arguments[0] if arguments else keywords.get("name")
        self._altered = True
        if not (makes_function and isinstance(made, str) and made.lower() not in DETERMINISTIC):
            self._bypasses = True
        if self._limits is not None and name in _WITHIN_LIMITS:
            return _WITHIN_LIMITS[name](self._limits, self, *arguments, **keywords)
        return method(self, *arguments, **keywords)

    call.__name__, call.__doc__ = name, method.__doc__
    return call


for _name in (
    "blobopen",  # only closing the connection lets go of a blob that was forgotten, and of its locks
    "create_aggregate",
    "create_collation",
    "create_function",
    "create_window_function",
    "deserialize",
    "enable_load_extension",
    "load_extension",
    "set_authorizer",
    "set_progress_handler",
    "set_trace_callback",
    "setconfig",  # since Python 3.12
    "setlimit",
):
    if hasattr(sqlite3.Connection, _name):
        setattr(Connection, _name, _marking(_name))


class Returned(Connection):
    """A connection after ``close()``: whoever still holds it can do nothing with it."""

    def close(self) -> None:
        """A second close is harmless, as the driver's is."""


def _refuse(*_: Any, **__: Any) -> Any:
    raise ConnectionReturned(
        "Cannot operate on a closed database.",
        hint="this connection was given back; ask for another with connect()",
    )


def _refuse_everything() -> None:
    """Every method and property of the driver's, but for the two it lets be set on a closed connection.

    ``__call__`` stays: through it the driver prepares statements, ours among them.
    """
    for name in dir(sqlite3.Connection):
        if name in ("close", "row_factory", "text_factory"):
            continue
        if name.startswith("__") and name not in ("__enter__", "__exit__"):
            continue
        member = getattr(sqlite3.Connection, name)
        if isinstance(member, type):  # the exceptions, which the driver offers on each connection
            continue
        setattr(Returned, name, _refuse if callable(member) else property(_refuse, _refuse))
    # Through this its cursors refuse as well, and so does a cursor that replays kept rows.
    Returned._road = Returned._ordinary = property(_refuse)  # type: ignore[assignment]
    Returned.check_open = _refuse  # type: ignore[method-assign]


_refuse_everything()


_joined: dict[type, type] = {}


def joined_connection(factory: Any) -> Any:
    """The app's own connection class with ours beneath it: its overrides win, its ``super()`` calls are timed.

    Anything else that makes connections is left alone.
    """
    return Connection if factory is None else _join(factory, Connection, sqlite3.Connection)


def joined_cursor(factory: Any) -> Any:
    """The same for what makes cursors."""
    return _join(factory, Cursor, sqlite3.Cursor)


def _join(factory: Any, ours: type, base: type) -> Any:
    if factory is base:
        return ours
    if not (isinstance(factory, type) and issubclass(factory, base)):
        return factory
    if issubclass(factory, ours):
        return factory
    if factory not in _joined:
        try:
            _joined[factory] = type(factory.__name__, (factory, ours), {"__slots__": ()})
        except TypeError:  # two layouts that cannot share one object: the app's wins
            _joined[factory] = factory
    return _joined[factory]
