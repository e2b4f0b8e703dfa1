"""A PostgreSQL server that is killed and started again while an app works on it."""

from __future__ import annotations

import collections
import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from tests.postgres import PostgresServer, postgres_server
from tests.postgresql.conftest import MakeEngine, ask


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def kill(server: PostgresServer) -> None:
    process = server.handle.get_postmaster_info().process
    process.send_signal(signal.SIGQUIT)  # at once, as if its machine had lost power
    process.wait(20)


def start(server: PostgresServer) -> None:
    server.handle.ensure_postgres_running()


def work_until(stop: threading.Event, engine: sa.Engine, seen: collections.Counter[str], at: list[float]) -> None:
    while not stop.is_set():
        try:
            assert ask(engine) == 2
            seen["answers"] += 1
            at.append(time.monotonic())
        except OperationalError:
            seen["refused"] += 1
            time.sleep(0.005)
        except BaseException as error:
            seen[repr(error)] += 1


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_under_load_everything_goes_on_when_the_server_is_back(make_engine: MakeEngine, server: PostgresServer) -> None:
    dbopt, engine = make_engine(server, server.new_database(), {"DBOPT_POOL_MAX": 6})
    stop = threading.Event()
    seen: collections.Counter[str] = collections.Counter()
    at: list[float] = []
    threads = [threading.Thread(target=work_until, args=(stop, engine, seen, at)) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            wait_for(lambda before=seen["answers"]: seen["answers"] > before + 50)
            kill(server)
            wait_for(lambda before=seen["refused"]: seen["refused"] > before + 20)
            start(server)
        wait_for(lambda before=seen["answers"]: seen["answers"] > before + 200)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(seen) == {"answers", "refused"}, seen
    stats = dbopt.pool.stats()
    assert stats.connections_lost >= 2
    assert stats.connections_errors > 0
    assert (stats.pool_size, stats.pool_size - stats.pool_available) == (engine.pool.checkedin(), 0)
    assert len(dbopt.pool.line.free) == 6, "every place is free again"
    refused = seen["refused"]
    for _ in range(20):
        assert ask(engine) == 2
    assert seen["refused"] == refused


def test_while_it_is_gone_connecting_is_tried_again_and_told(
    make_engine: MakeEngine, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"DBOPT_POOL_MIN": 2, "DBOPT_POOL_RECONNECT_TIMEOUT": 100, "DBOPT_POOL_HEALTH_INTERVAL": 10}
    dbopt, engine = make_engine(server, server.new_database(), config)
    ask(engine)
    pool = dbopt.pool
    given_up: list[Any] = []
    pool.reconnect_failed = given_up.append
    now = [pool.clock()]
    pool.clock = pool.stock.clock = lambda: now[0]

    def sweep(seconds: float) -> None:
        now[0] += seconds
        dbopt.optimizer._look_after_pools(0.0)

    sweep(0)
    assert engine.pool.checkedin() == 2
    with caplog.at_level(logging.WARNING, "flask_dbopt.connection_pool"):
        kill(server)
        sweep(20)
        assert (engine.pool.checkedin(), pool.stats().connections_lost) == (0, 2)
        failed = pool.stats().connections_errors
        sweep(0.1)
        assert pool.stats().connections_errors == failed, "not at once again"
        for _ in range(12):
            sweep(15)
            assert len(given_up) <= 1
        assert given_up == [pool]
        assert failed < pool.stats().connections_errors < failed + 12, "less and less often"
        with pytest.raises(OperationalError):
            ask(engine)
        start(server)
        assert ask(engine) == 2
        sweep(120)
    assert engine.pool.checkedin() == 2
    told = "\n".join(caplog.messages)
    assert "no connection could be opened for 100 s" in told
    assert "connections can be opened again" in told
