"""What the rooms may ask of a database: four windows and the records that come through them.

Each room looks through one window only: the pool through the Connector, the cache through the Watcher, the advisor
through the Planner, the backup through the Snapshotter. An engine is a folder that opens all four.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

# --- pool <-> Connector ---------------------------------------------------------------------------------------------


#: A file's device and inode: which file a connection was opened on, whatever its path comes to name later.
Identity = tuple[int, int]


class Condition(Enum):
    """How a connection came back."""

    CLEAN = auto()
    ROLLED_BACK = auto()
    """In a transaction that nobody had ended."""
    UNFIT = auto()
    """With a state of its own that cannot be undone: not to be lent again."""


class Connector(Protocol):
    """Opens, readies and closes connections. ``key`` is whatever the caller's connect arguments come to."""

    def open(self, key: Hashable) -> tuple[Any, Identity | None]:
        """A new, tuned connection and the file it is on; raises the driver's own error, or DatabaseUnavailable."""
        ...

    def identity(self) -> Identity | None:
        """The database file as it is now; None where there is none to compare (a server, or it is missing)."""
        ...

    def lend(self, connection: Any, give_back: Callable[[Any], None]) -> None:
        """Make it usable for one borrower, whose ``close()`` calls ``give_back``."""
        ...

    def take_back(self, connection: Any) -> Condition:
        """Make it like new again, and useless for whoever still holds it."""
        ...

    def is_alive(self, connection: Any) -> bool:
        """Whether a trivial statement still works; never raises."""
        ...

    def close(self, connection: Any) -> None:
        """Really close it; never raises."""
        ...


# --- cache <-> Watcher ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one statement touches, seen through views and triggers."""

    reads: frozenset[str]
    writes: frozenset[str]
    functions: frozenset[str]
    deterministic: bool
    """The same rows for the same database state: no clock, chance, connection state, temp or attached table."""


class Watcher(Protocol):
    """Tells whether the database has changed, whoever changed it."""

    @property
    def row_types(self) -> Collection[type]:
        """Row classes of the driver, beside tuple, that are immutable and so may be shared."""
        ...

    def token(self, identity: Identity | None = None) -> Hashable | None:
        """Equal tokens mean no commit in between, by any connection of any process. None: it cannot tell now.

        ``identity`` is the file that a connection was opened on; also None when that is not the one it watches.
        """
        ...

    def footprint(self, sql: str) -> Footprint | None:
        """None when the statement cannot be prepared without the app's own connection."""
        ...

    def close(self) -> None:
        """Let go of the handle; a token asked for later opens a new one and equals no earlier token."""
        ...

    def abandon(self) -> None:
        """After a fork, in the child: forget the inherited handle without touching it."""
        ...


# --- advisor <-> Planner --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a plan, as the engine says it and as a person reads it."""

    detail: str
    """In the engine's words: ``SCAN keyword``."""
    depth: int
    table: str | None = None
    index: str | None = None
    reads_whole_table: bool = False
    sorts: bool = False
    rows: int | None = None
    """Rows in the table that is read, where known."""
    may_stop: bool = False
    """LIMIT may end it before all its rows are read."""
    covering: bool = False
    """The index alone answers; the table is not touched."""
    finds: int | None = None
    """About how many of them one look-up in the index finds, where statistics tell."""
    reading: str = ""
    """In a person's words: "reads all 320,000 rows of keyword"."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engine would run one statement. ``problem`` is set, and ``steps`` empty, when it would not say."""

    sql: str
    steps: tuple[Step, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    table: str
    columns: tuple[str | None, ...]
    """None where an expression stands instead of a column."""
    unique: bool = False
    partial: bool = False
    sql: str | None = None
    """None for an index that a PRIMARY KEY or UNIQUE made."""


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: tuple[str, ...]
    rows: int
    """Exact for small tables, else an estimate that is right to an order of magnitude."""
    indexes: tuple[Index, ...] = ()


class Planner(Protocol):
    """Explains statements and tries indexes, without running anything and without touching the database."""

    @property
    def writers_wait(self) -> bool:
        """Whether nobody can write while an index is built."""
        ...

    def explain(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Plan: ...

    def tables(self) -> Mapping[str, Table]:
        """Every table of the main schema by lower-case name, with its indexes."""
        ...

    def hindrance(self) -> str:
        """Why no index can be tried here; empty where it can."""
        ...

    def trial(self, sql: str, indexes: Sequence[str]) -> Plan:
        """The plan if these CREATE INDEX statements were carried out; they are not, not in the database."""
        ...

    def create(self, index_sql: str) -> None:
        """Build the index in the live database, then ANALYZE it. Only ever called because a person said so."""
        ...


# --- backup <-> Snapshotter -----------------------------------------------------------------------------------------


class Snapshot(Protocol):
    """One committed state of a database, pinned while it is read."""

    page_size: int
    page_count: int

    def page(self, number: int) -> bytes:
        """Page ``number``, counted from 1."""
        ...


class Snapshotter(Protocol):
    """Reads a consistent copy out and loads one in."""

    def recipe(self) -> dict[str, Any]:
        """What a child process needs to build this Snapshotter again: JSON values only."""
        ...

    def pin(self) -> AbstractContextManager[Snapshot]:
        """Pin the newest committed state. Only ever in a child process: it reads raw files."""
        ...

    def size(self) -> int:
        """Bytes a full copy needs, for the free-disk check beforehand."""
        ...

    def check(self, path: Path, *, thorough: bool = False) -> tuple[str, ...]:
        """What the engine finds wrong with a restored file; empty when it is whole."""
        ...

    def load(self, source: Path, *, deadline: float) -> None:
        """Replace the live database's content by that of ``source`` in one transaction, through the engine."""
        ...
