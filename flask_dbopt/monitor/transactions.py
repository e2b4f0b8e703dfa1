"""The transactions of one piece of work, put together from its records: what each wrote, and what was read before.

A record names no connection, and need not: while one writes, nobody else can, so that all writes up to a COMMIT are of
one transaction. Whatever might be otherwise (scripts, errors in the midst, a savepoint outside a transaction) makes
what was gathered so far count for nothing: less is found then, but nothing that was not so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from operator import itemgetter
from typing import Final, Protocol

from flask_dbopt.engines.protocol import Footprint
from flask_dbopt.monitor.request import Record

#: Statements whose last read is remembered within one transaction.
MOST_READS: Final = 200
#: Statements whose footprint is remembered, and how long a text may be.
_MOST_KNOWN, _LONGEST_KNOWN = 2048, 10_000

_LEADING = r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*"
_WORD = re.compile(_LEADING + r"([a-z]+)", re.IGNORECASE | re.DOTALL)
_IS_WITH = re.compile(_LEADING + r"with\b", re.IGNORECASE | re.DOTALL)
_TO_SAVEPOINT = re.compile(r"rollback\s+(?:transaction\s+)?to\b", re.IGNORECASE)
_NONE: Final[frozenset[str]] = frozenset()

#: How the end of a transaction is written; work without it is not gone through.
COMMITS: Final = frozenset(
    spelling
    for words in ("COMMIT", "END", "COMMIT TRANSACTION", "END TRANSACTION")
    for text in (words, words + ";")
    for spelling in (text, text.lower(), text.capitalize())
)
text_of = itemgetter(0)


class Deed(Enum):
    """What a statement is to a transaction."""

    READS = auto()
    WRITES = auto()
    BEGINS = auto()
    COMMITS = auto()
    ROLLS_BACK = auto()
    SAVES = auto()
    """``SAVEPOINT``, which outside a transaction begins one that its RELEASE commits."""
    NOTHING = auto()
    UNCLEAR = auto()
    """It may have ended one, or begun one."""


class Sight(Protocol):
    """How statements are seen through; the hall has it of the engine."""

    def footprint(self, database: str, sql: str) -> Footprint | None:
        """What a statement touches; None when that cannot be told."""
        ...

    def autocommits(self, database: str) -> bool:
        """Whether connections to it were seen that are in no transaction unless they say BEGIN."""
        ...


@dataclass(frozen=True, slots=True)
class Stale:
    """A table that was read, and written later by a transaction that had not read it itself."""

    table: str
    read: str
    """The statement that read it, …"""
    read_at: float
    """… which was done by then."""
    write: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """One that was committed. Times as in records."""

    database: str
    tables: frozenset[str]
    """What it wrote."""
    locked_at: float
    """By then it was the one writer, and until its end."""
    committed_at: float
    """When COMMIT was called. It was still the one writer."""
    stale: tuple[Stale, ...]


class Reader:
    """Reads transactions out of records, and remembers what each statement's text says."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._known: dict[str, dict[str, tuple[Deed, frozenset[str]]]] = {}

    def forget(self) -> None:
        """The schema may have changed."""
        self._known.clear()

    def transactions(self, records: Iterable[Record]) -> Iterator[Transaction]:
        """Those that wrote and were committed, in one piece of work."""
        courses: dict[str, _Course] = {}
        database = ""
        for record in records:
            if record[6] != database:
                database = record[6]
                course = courses.setdefault(database, _Course())
                known = self._known.setdefault(database, {})
            deed, tables = known.get(record[0]) or self._meet(database, record[0])
            if deed is Deed.READS and record[3] is None and record[5]:
                course.read(tables, record[0], record[5] + record[1])
                continue
            done = course.step(deed if record[5] else Deed.UNCLEAR, tables, record)
            if done is not None and (course.said_begin or not self._sight.autocommits(database)):
                yield done
            if done is not None or deed is Deed.ROLLS_BACK:
                course = courses[database] = _Course()

    def _meet(self, database: str, sql: str) -> tuple[Deed, frozenset[str]]:
        """What a statement does to a transaction, and the tables it reads or writes."""
        found = self._look(database, sql)
        known = self._known[database]
        if len(known) >= _MOST_KNOWN:
            known.clear()
        if len(sql) <= _LONGEST_KNOWN:
            known[sql] = found
        return found

    def _look(self, database: str, sql: str) -> tuple[Deed, frozenset[str]]:
        found = _WORD.match(sql)
        word = found[1].lower() if found else ""
        if word in _PLAIN:
            if ";" in sql.rstrip("; \t\r\n"):
                return Deed.UNCLEAR, _NONE  # a script
            if found and _TO_SAVEPOINT.match(sql, found.start(1)):
                return Deed.UNCLEAR, _NONE
            return _PLAIN[word], _NONE
        if word not in _TOUCHING:
            return Deed.UNCLEAR, _NONE
        footprint = self._sight.footprint(database, sql)
        if footprint is None:
            reads_only = word == "select" and ";" not in sql.rstrip("; \t\r\n")
            return (Deed.NOTHING if reads_only else Deed.UNCLEAR), _NONE
        if footprint.writes:
            return Deed.WRITES, footprint.writes
        return (Deed.READS, footprint.reads) if word in _READING else (Deed.UNCLEAR, _NONE)


_PLAIN: Final = {
    "begin": Deed.BEGINS,
    "commit": Deed.COMMITS,
    "end": Deed.COMMITS,
    "rollback": Deed.ROLLS_BACK,
    "savepoint": Deed.SAVES,
    "release": Deed.NOTHING,
    "explain": Deed.NOTHING,
}
_READING: Final = frozenset(("select", "values", "with"))
_TOUCHING: Final = _READING | frozenset(("insert", "update", "delete", "replace"))


@dataclass(slots=True)
class _Course:
    """How the work on one database went since its last COMMIT or ROLLBACK."""

    said_begin: bool = False
    reads: dict[str, tuple[frozenset[str], float]] = field(default_factory=dict)
    """The last run of each statement: the tables it read, and when it was done."""
    fresh: set[str] = field(default_factory=set)
    """Tables that were read within the transaction, which nobody else can have changed since."""
    written: dict[str, str] = field(default_factory=dict)
    """By table the first statement that wrote it."""
    stale: list[Stale] = field(default_factory=list)
    locked_at: float = 0.0
    stands_alone: bool = False
    """Within a savepoint, perhaps outside any transaction: what is written now may be committed without a word."""

    def read(self, tables: frozenset[str], sql: str, done: float) -> None:
        """Take in a record of a statement that only read."""
        if self.said_begin or self.written:
            self.fresh |= tables - self.written.keys()
        reads = self.reads
        reads.pop(sql, None)
        if len(reads) >= MOST_READS:
            del reads[next(iter(reads))]
        reads[sql] = (tables, done)

    def step(self, deed: Deed, tables: frozenset[str], record: Record) -> Transaction | None:
        """Take in any other record; the transaction that it committed, if any."""
        sql, seconds, rows, error, _, started, database = record
        if error is not None:
            self._lose()  # it may have rolled back everything
        elif deed is Deed.WRITES and (rows >= 0 or _IS_WITH.match(sql)):
            self._write(tables, sql, rows, started + seconds)
        elif deed is Deed.BEGINS:
            self._lose()
            self.said_begin, self.stands_alone = True, False
        elif deed is Deed.COMMITS:
            if self.written:
                return Transaction(database, frozenset(self.written), self.locked_at, started, tuple(self.stale))
            self._lose()
            self.reads.clear()
            self.stands_alone = False
        elif deed is Deed.SAVES:
            self.stands_alone |= not self._is_within()
        elif deed in (Deed.WRITES, Deed.UNCLEAR):  # what writes and counts no rows is a script
            self._lose()
            self.reads.clear()
        return None

    def _is_within(self) -> bool:
        """Whether it is known to be in a transaction."""
        return bool(self.said_begin or self.written)

    def _write(self, tables: frozenset[str], sql: str, rows: int, done: float) -> None:
        if rows < 0 and not self._is_within():
            self._lose()  # WITH … UPDATE begins none
        elif rows and not self.stands_alone:
            if not self.written:
                self.locked_at = done
            for table in tables - self.written.keys():
                self.written[table] = sql
                self._see_whether_stale(table, sql)

    def _see_whether_stale(self, table: str, sql: str) -> None:
        if table not in self.fresh:
            before = [(done, read) for read, (tables, done) in self.reads.items() if table in tables]
            if before:
                done, read = min(before)
                self.stale.append(Stale(table, read, done, sql))

    def _lose(self) -> None:
        """Whatever was written before counts for nothing."""
        self.said_begin = False
        self.fresh.clear()
        self.written.clear()
        self.stale.clear()
