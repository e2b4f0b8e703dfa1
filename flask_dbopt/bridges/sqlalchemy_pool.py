"""A pool of ours under SQLAlchemy: ``engine.pool`` with a fair line, lifetimes and figures.

What SQLAlchemy does with a connection stays SQLAlchemy's: its records open, reset, invalidate and close, and call every
event. What is lent and taken back here are these records, each on a berth of its own. ``dispose()`` makes a new
``engine.pool`` that goes on with the same lender.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from math import inf
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from sqlalchemy.pool import Pool as SQLAlchemyPool
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord, reset_none, reset_rollback

from flask_dbopt import forks
from flask_dbopt.databases import Database
from flask_dbopt.engines.protocol import Condition, Identity
from flask_dbopt.engines.sqlite.connection import Connection, take_cursors
from flask_dbopt.errors import PoolTimeout
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.pool.entry import COUNTS_ARE_TRUE, Entry
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.upkeep import Upkeep

#: What SQLAlchemy has where an engine says nothing.
_POOL_SIZE, _MAX_OVERFLOW, _TIMEOUT = 5, 10, 30.0
#: Loans at a time where an engine wants no limit.
_NO_LIMIT = 10_000

#: Cursors that were left half read when their connection was given back: until they are gone it is not lent again.
_half_read: WeakKeyDictionary[Any, Berth] = WeakKeyDictionary()


class EngineTimeout(PoolTimeout, SQLAlchemyTimeout, DontWrapMixin):
    """PoolTimeout as SQLAlchemy's users catch it."""

    code = "3o7r"


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

    __slots__ = ("berth", "pool", "was_dropped")

    def __init__(self, pool: FairPool) -> None:
        self.pool = pool
        self.berth: Berth | None = None
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
        if self.berth is not None and e is not None and not soft:
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
        record, pool = self._connection_record, cast(FairPool, self._pool)
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
        record = cast(FairPool, key)._create_connection()
        connection = record.dbapi_connection
        identity = connection._identity if isinstance(connection, Connection) else self.identity()
        return Berth(record, identity), identity

    def lend(self, berth: Berth, give_back: Callable[[Any], None]) -> None:
        berth.record.berth = berth

    def take_back(self, berth: Berth) -> Condition:
        record = berth.record
        record.berth = None
        connection = record.dbapi_connection
        if isinstance(connection, Connection):
            if record.starttime != berth.opened_at and connection._identity != berth.identity:
                return Condition.UNFIT  # opened anew on another file
            assert self._sqlite is not None  # noqa: S101
            if not connection._tuned:
                self._sqlite.tune_again(connection)
            kept = take_cursors(connection)
            if kept or kept is None:
                return _park(berth, connection, kept)
        return Condition.CLEAN

    def is_alive(self, berth: Berth) -> bool:
        connection, pool = berth.record.dbapi_connection, berth.record.pool
        if connection is None:
            return False
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


def _park(berth: Berth, connection: Connection, cursors: list[Any] | None) -> Condition:
    """Have the cursors that are half read refer to the berth: each pins an old state of the database.

    They are not closed, as those of raw connections are: under SQLAlchemy a result may be read to its end after its
    connection was given back.
    """
    if not connection.is_idle():
        if cursors is None:  # which they are, this interpreter does not tell
            return Condition.UNFIT
        for cursor in cursors:
            _half_read[cursor] = berth
    return Condition.CLEAN


def bounds(pool_size: int, max_overflow: int, timeout: float, recycle: float, pre_ping: bool) -> dict[str, Any]:
    """What an engine's own options ask of a pool; what they leave as SQLAlchemy has it is not among it."""
    asked: dict[str, Any] = {}
    if (pool_size, max_overflow) != (_POOL_SIZE, _MAX_OVERFLOW):
        is_limited = pool_size and max_overflow >= 0
        asked["most_idle"] = pool_size or _NO_LIMIT
        asked["maximum"] = pool_size + max_overflow if is_limited else _NO_LIMIT
    if timeout != _TIMEOUT:
        asked["timeout"] = timeout
    if recycle >= 0:
        asked["max_lifetime"] = recycle
    if pre_ping:
        asked["check_after"] = inf  # SQLAlchemy asks each one before it is lent
    return asked


class FairPool(QueuePool):
    """``engine.pool``: a QueuePool to whoever asks, with our line in the place of its queue."""

    def __init__(
        self,
        creator: Any,
        lender: Lender,
        pool_size: int = _POOL_SIZE,
        max_overflow: int = _MAX_OVERFLOW,
        timeout: float = _TIMEOUT,
        use_lifo: bool = False,
        **kw: Any,
    ) -> None:
        """``lender`` makes what lends, or gives it. The rest is QueuePool's.

        What says nothing else than SQLAlchemy's defaults leaves the word to the settings ``DBOPT_POOL_…``.
        """
        SQLAlchemyPool.__init__(self, creator, **kw)
        self.options = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "timeout": timeout,
            "use_lifo": use_lifo,
        }
        self._size = None if (pool_size, max_overflow) == (_POOL_SIZE, _MAX_OVERFLOW) else pool_size
        self._lender = lender
        self.lender, self._upkeep = lender(**bounds(pool_size, max_overflow, timeout, self._recycle, self._pre_ping))
        self._max_overflow, self._timeout = max(0, self.lender.maximum - self.size()), self.lender.timeout
        forks.watch(self)

    def connect(self) -> PoolProxiedConnection:
        if self._pre_ping or self.dispatch.checkout or self._should_log_debug():
            return super().connect()
        record = self._do_get()
        try:
            connection = record.get_connection()
        except BaseException as error:
            record._checkin_failed(error, _fairy_was_created=False)
            raise
        loan = Loan(self, connection, record)
        record.fairy_ref = ref(loan, record.on_drop)
        return loan

    def _do_get(self) -> Record:
        try:
            berth: Berth = self.lender.lend(self, None, CURRENT.get())
        except PoolTimeout as late:
            raise EngineTimeout(late.args[0], hint=late.hint) from None
        return berth.record

    def _create_connection(self) -> Record:
        return Record(self)

    def _do_return_conn(self, record: Any) -> None:
        berth, lender = record.berth, self.lender
        if berth is None:
            record.close()
            return
        if record.was_dropped:
            record.was_dropped = False
            record.berth = None  # so that the pool sees by itself that it was dropped
            if lender.lock.locked() or lender.stock.lock.locked() or lender.line.lock.locked():
                return  # by this very thread, maybe
        entry = lender.lent.pop(id(berth), None)
        if entry is None:  # set adrift this moment
            record.close()
            return
        if record.dbapi_connection is None or self._invalidate_time > record.starttime:
            self._note_end(entry)
        lender.receive(entry)

    def _note_end(self, entry: Entry) -> None:
        """Its connection was invalidated or detached."""
        entry.expires = float("-inf")
        if entry.connection.is_lost:
            with self.lender.stock.lock:
                self.lender.stock.lost += 1

    def _invalidate(self, connection: Any, exception: BaseException | None = None, _checkin: bool = True) -> None:
        before = self._invalidate_time
        super()._invalidate(connection, exception, _checkin)
        if self._invalidate_time != before:
            for entry in self.lender.stock.idle():
                if entry.key is self and self.lender.stock.claim(entry):
                    self.lender.stock.lose(entry)

    def recreate(self) -> FairPool:
        self.logger.info("Pool recreating")
        self._set_adrift()
        for entry in self.lender.stock.idle():
            if entry.key is self:
                entry.expires = float("-inf")  # for the next sweep
        return successor(self, lambda **_: (self.lender, self._upkeep))

    def dispose(self) -> None:
        self._set_adrift()
        self.lender.last_key = None
        self.lender.let_go()
        self.logger.info("Pool disposed. %s", self.status())

    def _set_adrift(self) -> None:
        """Let borrowers go on with what they have: it holds no place any more, and is closed when it comes back."""
        lender = self.lender
        lender.collect_dropped()
        for entry in list(lender.lent.values()):
            berth = entry.connection
            if berth.record.pool is self and lender.lent.pop(id(berth), None) is not None:
                berth.is_adrift = True
                berth.record.berth = None
                lender.stock.discard(entry)
                lender.line.give()

    # --- forks ---

    def let_go(self) -> None:
        """Before a fork: no handle of a file that nobody uses. A server's may stay, the child does not touch them."""
        if cast(EngineConnector, self.lender.connector).has_file:
            self.lender.let_go()

    def abandon(self) -> None:
        """In the child what was lent is as if invalidated, without a word to the server: the parent goes on with it."""
        for entry in list(self.lender.stock.entries):
            record: Record = entry.connection.record
            forks.keep_forever(record.dbapi_connection)
            borrowed = None if record.fairy_ref is None else record.fairy_ref()
            if borrowed is not None:
                borrowed.dbapi_connection = None  # type: ignore[assignment]  # as SQLAlchemy itself does
            record.dbapi_connection = record.fairy_ref = None
        self.lender.abandon()

    # --- figures ---

    def size(self) -> int:
        return self.lender.stock.most_idle if self._size is None else self._size

    def timeout(self) -> float:
        return self.lender.timeout

    def checkedin(self) -> int:
        self.lender.collect_dropped()
        return len(self.lender.idle.get(self, ()))

    def checkedout(self) -> int:
        self.lender.collect_dropped()
        return len(self.lender.lent)

    def overflow(self) -> int:
        return self.checkedin() + self.checkedout() - self.size() if self._size != 0 else 0


#: Makes what lends, within bounds such as ``maximum``, and who looks after it.
Lender = Callable[..., tuple[Pool, Upkeep]]


def suits(pool: SQLAlchemyPool | None, database: Database) -> bool:
    """Whether ours may stand in for it: for memory, and for a class that means more than QueuePool does, never."""
    is_kept = database.kind != "sqlite" or database.path is not None
    return is_kept and COUNTS_ARE_TRUE and (pool is None or type(pool) in (QueuePool, FairPool))


def successor(pool: QueuePool, lender: Lender) -> FairPool:
    """A pool of ours with another's creator, options and listeners."""
    if isinstance(pool, FairPool):
        options: dict[str, Any] = pool.options
    else:
        options = {
            "pool_size": pool._pool.maxsize,
            "max_overflow": pool._max_overflow,
            "timeout": pool._timeout,
            "use_lifo": pool._pool.use_lifo,
        }
    return FairPool(
        pool._creator,
        lender,
        **options,
        recycle=pool._recycle,
        pre_ping=pool._pre_ping,
        echo=pool.echo,
        logging_name=pool._orig_logging_name,
        reset_on_return=pool._reset_on_return,
        _dispatch=pool.dispatch,
        dialect=pool._dialect,
    )
