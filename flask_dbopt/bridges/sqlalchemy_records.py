"""SQLAlchemy's records of connections as a pool of ours holds them: each on a berth, lent in fewer steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, ref

from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord, reset_none, reset_rollback

from flask_dbopt.databases import Database
from flask_dbopt.engines.protocol import Condition, Identity
from flask_dbopt.engines.sqlite.connection import Connection, take_cursors

if TYPE_CHECKING:
    from flask_dbopt.bridges.sqlalchemy_pool import FairPool

#: Cursors that were left half read when their connection was given back: until they are gone it is not lent again.
_half_read: WeakKeyDictionary[Any, Berth] = WeakKeyDictionary()


class Berth:
    """One record's place in the pool. Whoever refers to it keeps the pool from lending it."""

    __slots__ = ("identity", "is_adrift", "is_lost", "opened_at", "record")

    def __init__(self, record: Record, identity: Identity | None) -> None:
        self.record = record
        self.identity = identity
        self.opened_at = record.starttime
        """As SQLAlchemy counts: it may open a record's connection anew."""
        self.is_lost = False
        """Its connection broke while it was lent."""
        self.is_adrift = False
        """Its pool was disposed of while it was lent: SQLAlchemy closes it when it comes back."""


class Record(_ConnectionRecord):
    """SQLAlchemy's record of a connection, which knows its berth while it is lent."""

    __slots__ = ("berth", "is_for_one_thread", "pool", "was_dropped")

    def __init__(self, pool: FairPool) -> None:
        self.pool = pool
        self.berth: Berth | None = None
        self.is_for_one_thread = False
        """The app asked for ``check_same_thread``."""
        self.was_dropped = False
        """Given back by the garbage collector, which may have come in the middle of anything."""
        super().__init__(pool)

    def checkin(self, _fairy_was_created: bool = True) -> None:
        borrowed = self.fairy_ref
        if borrowed is not None and borrowed() is None:
            self.was_dropped = True
        _ConnectionRecord.checkin(self, _fairy_was_created)

    def on_drop(self, borrowed: ref[_ConnectionFairy]) -> None:
        """The loan was dropped: another in its stead is closed, with all that this brings."""
        if self.fairy_ref is borrowed and not sys.is_finalizing():
            loan = Loan(self.pool, self.dbapi_connection, self)
            self.fairy_ref, self.was_dropped = ref(loan), True
            loan.close()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        if self.berth is not None and self.dbapi_connection is not None and e is not None and not soft:
            self.berth.is_lost = True
        super().invalidate(e, soft)


class _NoFinalizer:
    def detach(self) -> None: ...


class Loan(_ConnectionFairy):
    """What SQLAlchemy lends its connections in, made in fewer steps: a weak reference sees to it that it comes back."""

    _finalizer = _NoFinalizer()  # type: ignore[assignment]  # SQLAlchemy 2.1 makes one for each loan, in 2 µs

    def __init__(self, pool: FairPool, connection: Any, record: Record) -> None:
        self._pool = pool
        self._counter = 1
        self.dbapi_connection = connection
        self._connection_record = record
        self._echo = False

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        record, pool = self._connection_record, cast("FairPool", self._pool)
        if (
            transaction_was_reset
            and record is not None
            and record.dbapi_connection is not None
            and not (record.finalize_callback or pool.dispatch.reset or pool.dispatch.checkin)
            and pool._reset_on_return is reset_rollback
        ):  # as usual: all that is left of SQLAlchemy's own way is this
            record.fairy_ref = None
            self.dbapi_connection = self._connection_record = None  # type: ignore[assignment]
            pool._do_return_conn(record)
        else:
            super()._checkin(transaction_was_reset)

    def commit(self) -> None:
        self.dbapi_connection.commit()

    def rollback(self) -> None:
        self.dbapi_connection.rollback()  # not by __getattr__, at each return


class Inherited:
    """What a forked child has instead of a connection that is its parent's: to SQLAlchemy a broken one."""

    closed = broken = True

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect

    def rollback(self) -> None: ...

    def close(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        driver = self._dialect.loaded_dbapi
        if self._dialect.name == "sqlite":
            raise driver.ProgrammingError("Cannot operate on a closed database. It is the parent process's.")
        raise driver.OperationalError("connection already closed: it is the parent process's")


class EngineConnector:
    """Opens, pings and closes an engine's connections by SQLAlchemy's means. The key is the FairPool that asks."""

    def __init__(self, database: Database) -> None:
        self._sqlite = database.connector
        self.has_file = self._sqlite is not None
        if self._sqlite is not None:
            self.identity = self._sqlite.identity  # type: ignore[method-assign]  # one call less at each loan

    def identity(self) -> Identity | None:
        return None

    def open(self, key: Hashable) -> tuple[Berth, Identity | None]:
        record = cast("FairPool", key)._create_connection()
        connection = record.dbapi_connection
        identity = connection._identity if isinstance(connection, Connection) else self.identity()
        return Berth(record, identity), identity

    def lend(self, berth: Berth, give_back: Callable[[Any], None]) -> None:
        record = berth.record
        record.berth = berth
        if record.is_for_one_thread and record.dbapi_connection is not None:
            cast(Connection, record.dbapi_connection)._owner = get_ident()

    def take_back(self, berth: Berth) -> Condition:
        record = berth.record
        record.berth = None
        connection = record.dbapi_connection
        if record.starttime != berth.opened_at:
            berth.opened_at = record.starttime
            record.pool.lender.stock.opened += 1
        if isinstance(connection, Connection):
            if connection._identity != berth.identity:
                return Condition.UNFIT  # opened anew on another file
            connection._owner = None
            try:
                return self._ready(berth, connection)
            except Exception:  # noqa: BLE001  # the driver's, or whatever a class of the app's own raises
                return Condition.UNFIT
        return Condition.CLEAN

    def _ready(self, berth: Berth, connection: Connection) -> Condition:
        """See to it that the next borrower finds nothing of this one's."""
        condition = Condition.CLEAN
        if connection.in_transaction and berth.record.pool._reset_on_return is reset_rollback:
            # A COMMIT failed, and SQLAlchemy takes the transaction for over; on SQLite it goes on, and locks.
            connection.rollback()
            condition = Condition.ROLLED_BACK
        if not connection._tuned and self._sqlite is not None:
            self._sqlite.tune_again(connection)
        kept = take_cursors(connection)
        return _park(berth, connection, kept, condition) if kept or kept is None else condition

    def is_alive(self, berth: Berth) -> bool:
        connection, pool = berth.record.dbapi_connection, berth.record.pool
        if connection is None:
            return True  # it was invalidated or detached; SQLAlchemy opens another when it is lent
        if isinstance(connection, Connection) and self._sqlite is not None:
            return self._sqlite.is_alive(connection)
        if pool._reset_on_return is reset_none:
            return True  # it may be in a transaction, which a ping would disturb
        dialect: Any = pool._dialect
        try:
            is_alive = dialect.do_ping(connection)
            dialect.do_rollback(connection)
        except Exception:  # noqa: BLE001  # whatever the driver says
            return False
        return bool(is_alive)

    def close(self, berth: Berth) -> None:
        if not berth.is_adrift:
            with suppress(Exception):  # SQLAlchemy has logged it
                berth.record.close()


def _park(berth: Berth, connection: Connection, cursors: list[Any] | None, condition: Condition) -> Condition:
    """Have the cursors that are half read refer to the berth: each pins an old state of the database.

    They are not closed, as those of raw connections are: under SQLAlchemy a result may be read to its end after its
    connection was given back.
    """
    if not connection.is_idle():
        if cursors is None:  # which they are, this interpreter does not tell
            return Condition.UNFIT
        for cursor in cursors:
            _half_read[cursor] = berth
    return condition
