"""A pool of ours under SQLAlchemy: ``engine.pool`` with a fair line, lifetimes and figures.

What SQLAlchemy does with a connection stays SQLAlchemy's: its records open, reset, invalidate and close, and call every
event. What is lent and taken back here are these records, each on a berth of its own. ``dispose()`` makes a new
``engine.pool`` that goes on with the same lender.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, cast
from weakref import ref

from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from sqlalchemy.pool import Pool as SQLAlchemyPool
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from flask_dbopt import forks
from flask_dbopt.bridges.sqlalchemy_records import Berth, EngineConnector, Inherited, Loan, Record
from flask_dbopt.databases import Database
from flask_dbopt.errors import PoolTimeout
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.pool.entry import COUNTS_ARE_TRUE
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.upkeep import Upkeep

#: What SQLAlchemy has where an engine says nothing.
_POOL_SIZE, _MAX_OVERFLOW, _TIMEOUT = 5, 10, 30.0
#: Loans at a time where an engine wants no limit.
_NO_LIMIT = 10_000


class EngineTimeout(PoolTimeout, SQLAlchemyTimeout, DontWrapMixin):
    """PoolTimeout as SQLAlchemy's users catch it."""

    code = "3o7r"


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

    _sqla_logger_namespace = "sqlalchemy.pool.FairPool"  # under the logger that SQLAlchemy's users know

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
        if berth.is_lost:
            entry.expires = float("-inf")
            with lender.stock.lock:
                lender.stock.lost += 1
        lender.receive(entry)

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
        self.lender.stock.close_idle()
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
        """In the child what was lent is as if its server had gone, which the server never hears of."""
        for entry in list(self.lender.stock.entries):
            record: Record = entry.connection.record
            forks.keep_forever(record.dbapi_connection)
            borrowed = None if record.fairy_ref is None else record.fairy_ref()
            if borrowed is not None:
                borrowed.dbapi_connection = Inherited(self._dialect)
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
