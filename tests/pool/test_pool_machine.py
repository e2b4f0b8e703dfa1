"""Any sequence of deeds that a pool may meet, in any order, with what must hold after each of them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.engines.sqlite.road import Road
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.errors import ConnectionReturned, DBOptError, PoolTimeout
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.upkeep import Upkeep
from flask_dbopt.settings import SQLITE_PRAGMAS

KEYS = (Arguments(check_same_thread=False), Arguments(check_same_thread=False, detect_types=1))


class Loan:
    """What a borrower knows: the connection while it has one, and the generation of the file it was opened on."""

    def __init__(self, connection: Any, generation: int) -> None:
        self.connection = connection
        self.generation = generation


class AnyPool(RuleBasedStateMachine):
    """One thread's deeds; ``loans`` and ``relics`` are the only references that a borrower keeps."""

    loans = Bundle("loans")
    relics = Bundle("relics")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path = Path(self.folder) / "app.db"
        self.now = 1000.0
        self.generation = 0
        self._make_file(self.path)
        connector = SQLiteConnector(self.path, Tuning(SQLITE_PRAGMAS), Road())
        self.pool = Pool("any", connector, minimum=1, maximum=3, timeout=0.0, max_lifetime=100, clock=lambda: self.now)
        self.upkeep = Upkeep(self.pool, health_interval=30, idle_timeout=20, leak_after=10)
        self.out: list[Loan] = []
        self.limit = 3
        self.asked = self.refused = 0
        self.is_closed = False
        self.before = self.pool.stats().counters()

    def _make_file(self, path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE state (generation, changes);"
            f"INSERT INTO state VALUES ({self.generation}, 0)"
        )
        connection.close()

    @rule(target=loans, key=st.sampled_from(KEYS))
    def borrow(self, key: Arguments) -> Any:
        self.asked += 1
        try:
            connection = self.pool.lend(key, borrower="somebody")
        except PoolTimeout:
            assert len(self.out) >= self.limit
            self.refused += 1
            return multiple()
        except DBOptError:
            assert self.is_closed
            self.asked -= 1
            return multiple()
        assert not self.is_closed
        assert len(self.out) < self.limit
        assert all(connection is not loan.connection for loan in self.out)
        assert not connection.in_transaction
        assert connection.row_factory is None
        # Of the file as it is now, and of nobody's unfinished work.
        assert connection.execute("SELECT generation, changes FROM state").fetchall() == [(self.generation, 0)]
        loan = Loan(connection, self.generation)
        self.out.append(loan)
        return loan

    @rule(loan=loans)
    def begin_and_half_read(self, loan: Loan) -> None:
        if loan in self.out and loan.generation == self.generation and not self.is_someone_writing():
            loan.connection.row_factory = sqlite3.Row
            loan.connection.execute("UPDATE state SET changes = 1")
            loan.connection.execute("SELECT * FROM state").fetchone()

    def is_someone_writing(self) -> bool:
        return any(loan.connection.in_transaction for loan in self.out)

    @rule(loan=consumes(loans))
    def give_back(self, loan: Loan) -> None:
        if loan in self.out:
            self.out.remove(loan)
            loan.connection.close()
            loan.connection = None

    @rule(target=relics, loan=consumes(loans))
    def give_back_and_hold(self, loan: Loan) -> Any:
        if loan not in self.out:
            return multiple()
        self.out.remove(loan)
        loan.connection.close()
        return loan

    @rule(relic=relics)
    def use_after_return(self, relic: Loan) -> None:
        with pytest.raises(ConnectionReturned):
            relic.connection.execute("UPDATE state SET changes = 99")
        relic.connection.close()

    @rule(relic=consumes(relics))
    def let_go_of(self, relic: Loan) -> None:
        relic.connection = None

    @rule(loan=consumes(loans))
    def drop(self, loan: Loan) -> None:
        if loan in self.out:
            self.out.remove(loan)
            loan.connection = None
            assert self.pool.collect_dropped() == 1

    @rule(loan=consumes(loans), gives_back=st.booleans())
    def kill(self, loan: Loan, gives_back: bool) -> None:
        if loan in self.out:
            self.out.remove(loan)
            sqlite3.Connection.close(loan.connection)
            if gives_back:
                loan.connection.close()
            else:  # nobody can do anything with it any more: its place is free, whoever holds what is left of it
                assert self.pool.collect_dropped() == 1

    @rule(loan=consumes(loans))
    def give_back_in_a_thread(self, loan: Loan) -> None:
        if loan in self.out:
            self.out.remove(loan)
            thread = threading.Thread(target=loan.connection.close)
            thread.start()
            thread.join()
            loan.connection = None

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 120.0, -50.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.upkeep.sweep(self.now)

    @rule()
    def check(self) -> None:
        self.pool.check()

    @rule(minimum=st.integers(0, 2), maximum=st.integers(2, 5))
    def resize(self, minimum: int, maximum: int) -> None:
        self.pool.resize(minimum, maximum)
        self.limit = maximum

    @rule()
    def drain(self) -> None:
        self.pool.drain()

    @rule()
    def replace_file(self) -> None:
        if self.is_someone_writing():
            return
        self.generation += 1
        new = self.path.with_suffix(".new")
        self._make_file(new)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        new.replace(self.path)

    @rule()
    def fork(self) -> None:
        self.pool.let_go()
        child = os.fork()
        if not child:
            try:
                self.pool.abandon()
                for loan in self.out:
                    loan.connection.close()
                assert not self.pool.lent
                assert not self.pool.stats().pool_size
                if not self.is_closed and not self.out:
                    connection = self.pool.lend(KEYS[0])
                    assert connection.execute("SELECT generation FROM state").fetchone() == (self.generation,)
                    connection.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @rule(whether=st.integers(0, 9))
    def close(self, whether: int) -> None:
        if not whether:
            self.pool.close()
            self.is_closed = True

    @invariant()
    def nobody_shares_a_connection(self) -> None:
        lent = [entry.connection for entry in self.pool.lent.values()]
        assert len({id(connection) for connection in lent}) == len(lent) == len(self.out)
        assert {id(loan.connection) for loan in self.out} == {id(connection) for connection in lent}

    @invariant()
    def nothing_lent_is_on_a_shelf(self) -> None:
        idle = self.pool.stock.idle()
        assert len(set(idle)) == len(idle)
        assert not set(idle) & set(self.pool.lent.values())
        assert set(idle) | set(self.pool.lent.values()) == self.pool.stock.entries

    @invariant()
    def places_add_up(self) -> None:
        owed = self.pool.line.owed
        assert len(self.pool.line.free) + len(self.out) - owed == self.limit
        assert self.pool.line.is_calm is not bool(owed)

    @invariant()
    def counters_add_up(self) -> None:
        stats = self.pool.stats()
        assert stats.requests_num == self.asked
        assert stats.requests_errors == self.refused
        assert stats.pool_size - stats.pool_available == len(self.out)
        assert stats.requests_immediate <= stats.requests_num - stats.requests_errors
        counters = stats.counters()
        assert all(counters[name] >= self.before[name] for name in counters if not name.endswith("_ms"))
        self.before = counters

    @invariant()
    def a_closed_pool_keeps_nothing(self) -> None:
        if self.is_closed:
            assert not self.pool.stock.idle()

    def teardown(self) -> None:
        self.pool.close()
        while self.out:
            self.out.pop().connection.close()
        shutil.rmtree(self.folder)
        assert not self.pool.stock.entries


class TestAnySequence(AnyPool.TestCase):
    settings = settings(max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestLongSequences(AnyPool.TestCase):
    settings = settings(
        max_examples=600, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
    )
