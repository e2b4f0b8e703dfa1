"""Every error of the package. Each is also the builtin or driver error a caller would already catch."""

from __future__ import annotations

import sqlite3


class DBOptError(Exception):
    """Something Flask-DBOpt could not do. ``hint`` says what to do about it, in one sentence."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigurationError(DBOptError, ValueError):
    """Settings that cannot work; the message lists every fault at once."""


class PoolTimeout(DBOptError, TimeoutError, sqlite3.OperationalError):
    """No connection came free in time; the message says who holds the others."""


class WriterTimeout(DBOptError, TimeoutError, sqlite3.OperationalError):
    """No turn to write came in time. The message begins as SQLite's ("database is locked"), and says who has it."""

    sqlite_errorcode = 5
    sqlite_errorname = "SQLITE_BUSY"


class ConnectionReturned(DBOptError, sqlite3.ProgrammingError):
    """A connection was used after it was given back. The message contains "closed", as the driver's does."""


class DatabaseUnavailable(DBOptError, sqlite3.OperationalError):
    """The database could not be opened at all: a folder, no database file, no permission."""


class AdviceError(DBOptError, RuntimeError):
    """An advised index was not built; the database is as it was before."""


class BackupError(DBOptError, RuntimeError):
    """A backup was not taken, or does not prove."""


class RestoreError(DBOptError, RuntimeError):
    """A restore was refused or stopped; the live database is as it was before."""


class StatementRefused(DBOptError, sqlite3.DatabaseError):
    """A policy refused this statement before it ran."""


class StatementTimeout(DBOptError, sqlite3.OperationalError):
    """A statement ran longer than it was allowed to."""
