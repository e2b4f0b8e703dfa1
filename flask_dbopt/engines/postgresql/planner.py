"""PostgreSQL's Planner: explains statements without running them, counts rows, tries indexes where HypoPG is there.

It opens a connection of its own for each question and closes it: the app's own pool and its open transactions are
never touched, and there is nothing to abandon after a fork.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from flask_dbopt.engines.counts import CountedTables, RowCount
from flask_dbopt.engines.postgresql import catalog
from flask_dbopt.engines.postgresql.catalog import Relation, quoted
from flask_dbopt.engines.postgresql.reading import Known, Reader
from flask_dbopt.engines.postgresql.session import Connect, ServerError, Session, attempt, looking, opened
from flask_dbopt.engines.postgresql.statement import Statement, read_statement
from flask_dbopt.engines.protocol import Plan, Table
from flask_dbopt.errors import AdviceError, DatabaseUnavailable

#: Row counts are good for this long, in seconds.
COUNTS_KEPT = 60.0

#: From this version on EXPLAIN takes placeholders as they are; …
GENERIC_PLAN = 160_000
#: … and from this one on a prepared statement can be explained without its values.
FORCED_PLAN = 120_000

NO_HYPOPG = "an index can not be tried without HypoPG (CREATE EXTENSION hypopg)"

_CREATE_INDEX = re.compile(r"\s*CREATE\s+(UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(.*)", re.I | re.S)
_INDEX_NAME = re.compile(r'(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|\w+)\s+ON\b', re.I)
# A type that placeholders alone do not tell: indeterminate_datatype.
_UNTOLD = "42P18"


class PostgreSQLPlanner:
    """Looks at one database of a server. Thread-safe: each call works on a connection of its own."""

    writers_wait = False

    def __init__(
        self,
        connect: Connect,
        *,
        timeout: float = 2.0,
        lock_timeout: float = 0.5,
        build_timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``timeout``: seconds a look may take; ``lock_timeout``, ``build_timeout``: seconds to wait for a lock."""
        self._connect = connect
        self._timeout, self._lock_timeout, self._build_timeout = timeout, lock_timeout, build_timeout
        self._clock = clock
        self._counts: dict[Relation, tuple[float, RowCount | None]] = {}

    def explain(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Plan:
        """How PostgreSQL would run ``sql`` now, for values in general where none are given."""
        return self._explained(sql, parameters, ())

    def trial(self, sql: str, indexes: Sequence[str]) -> Plan:
        """The plan as if these indexes were there: HypoPG pretends it, in this connection alone."""
        return self._explained(sql, (), indexes)

    def hindrance(self) -> str:
        """Why no index can be tried here; empty where HypoPG is installed."""
        try:
            with self._looking() as (session, _):
                if session.ask("SELECT to_regproc('hypopg_create_index')")[0][0]:
                    return ""
        except ServerError as error:
            return str(error)
        return NO_HYPOPG

    def tables(self) -> Mapping[str, Table]:
        """The tables that a name without a schema finds, by lower-case name; DatabaseUnavailable."""
        try:
            with self._looking() as (session, _):
                found = catalog.read_tables(session)
        except ServerError as error:
            raise _unavailable(error) from error
        relations = {name: relation for name, (relation, _) in found.items()}
        tables = {name: table for name, (_, table) in found.items()}
        return CountedTables(tables, lambda names: self._rows({name: relations[name] for name in names}))

    def create(self, index_sql: str) -> None:
        """Build the index while the app reads and writes on, then ANALYZE its table.

        Raises AdviceError when PostgreSQL refuses it (what was begun is dropped), DatabaseUnavailable when there is
        no server.
        """
        written = _CREATE_INDEX.match(index_sql)
        name = _INDEX_NAME.match(written[2]) if written else None
        if written is None or name is None:
            raise AdviceError("only CREATE INDEX with a name is ever run here", hint="pass the sql of a recommendation")
        try:
            with opened(self._connect) as session:
                session.ask("SET statement_timeout = 0")
                session.ask(f"SET lock_timeout = '{self._build_timeout * 1000:.0f}'")
                self._build(session, f"CREATE {written[1] or ''}INDEX CONCURRENTLY {written[2]}", name[1])
        except ServerError as error:
            raise _unavailable(error) from error
        self._counts.clear()

    def _build(self, session: Session, sql: str, name: str) -> None:
        known = _indexes_called(session, name)
        try:
            session.ask(sql)
        except ServerError as error:
            if error.is_lost:
                raise
            for schema, _, is_valid in _indexes_called(session, name) - known:
                if not is_valid:  # as CONCURRENTLY leaves it
                    session.ask(f"DROP INDEX {quoted(schema)}.{name}")
            raise AdviceError(f"the index was not built: {error}", hint="the database is as it was before") from error
        for schema, table, _ in _indexes_called(session, name) - known:
            session.ask(f"ANALYZE {quoted(schema)}.{quoted(table)}")

    def _looking(self) -> AbstractContextManager[tuple[Session, int]]:
        return looking(self._connect, self._timeout, self._lock_timeout)

    def _rows(self, relations: Mapping[str, Relation]) -> dict[str, int]:
        """What can not be counted now has none: it gets no advice."""
        try:
            with self._looking() as (session, _):
                counts = {name: self._count(session, relation) for name, relation in relations.items()}
        except ServerError as error:
            raise _unavailable(error) from error
        return {name: count.rows if count else 0 for name, count in counts.items()}

    def _count(self, session: Session, relation: Relation) -> RowCount | None:
        kept = self._counts.get(relation)
        if kept is None or not 0 <= self._clock() - kept[0] < COUNTS_KEPT:
            kept = self._counts[relation] = (self._clock(), catalog.count_rows(session, relation))
        return kept[1]

    # --- explaining ---------------------------------------------------------------------------------------

    def _explained(self, sql: str, values: Sequence[Any] | Mapping[str, Any], indexes: Sequence[str]) -> Plan:
        try:
            statement = read_statement(sql)
            with self._looking() as (session, version):
                called = dict(_pretended(session, index_sql) for index_sql in indexes)
                plans = _plans(session, version, statement, values)
                reader = Reader(self._known(session, plans), called)
                return Plan(sql, tuple(step for plan in plans for step in reader.read(plan)))
        except ServerError as error:
            return Plan(sql, problem=f"not explainable: {_why(error)}")
        except ValueError as error:
            return Plan(sql, problem=f"not explainable: {error}")

    def _known(self, session: Session, plans: Sequence[Mapping[str, Any]]) -> dict[Relation, Known]:
        relations = {relation for plan in plans for relation in catalog.relations_in(plan)}
        seen = catalog.visible(session, relations)
        return {
            (schema, name): Known(
                name if (schema, name) in seen else f"{schema}.{name}", self._count(session, (schema, name))
            )
            for schema, name in relations
        }


def _plans(
    session: Session, version: int, statement: Statement, values: Sequence[Any] | Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The statement's plans in JSON; ServerError, and ValueError where they do not fit the values."""
    options = "FORMAT JSON, VERBOSE"
    if values or not statement.keys:
        text, bound = statement.bound(values) if values else (statement.numbered({}), [])
        return catalog.plans(session.ask(f"EXPLAIN ({options}) {text}", bound)[0][0])
    if version < FORCED_PLAN:
        raise ValueError("it has placeholders, and this PostgreSQL is older than 12: give a value for each")
    types: dict[int, str] = {}
    while True:
        text = statement.numbered(types)
        try:
            with attempt(session):
                if version >= GENERIC_PLAN:
                    return catalog.plans(session.ask(f"EXPLAIN ({options}, GENERIC_PLAN) {text}")[0][0])
                return _prepared(session, options, text, len(statement.keys))
        except ServerError as error:
            untold = re.search(r"\$(\d+)", str(error)) if error.state == _UNTOLD else None
            if untold is None or int(untold[1]) in types:
                raise
            types[int(untold[1])] = "text"


def _prepared(session: Session, options: str, text: str, count: int) -> list[dict[str, Any]]:
    """As a prepared statement's plan for values in general. Its name is free again, whatever happens."""
    session.ask("SET LOCAL plan_cache_mode = force_generic_plan")
    session.ask(f"PREPARE dbopt_explained AS {text}")
    try:
        with attempt(session):
            nothing = ", ".join(["NULL"] * count)
            return catalog.plans(session.ask(f"EXPLAIN ({options}) EXECUTE dbopt_explained ({nothing})")[0][0])
    finally:
        session.ask("DEALLOCATE dbopt_explained")


def _pretended(session: Session, index_sql: str) -> tuple[str, str]:
    """HypoPG's name for the index, and the name that it is to have."""
    written = _CREATE_INDEX.match(index_sql)
    name = _INDEX_NAME.match(written[2]) if written else None
    if name is None:
        raise ValueError("only CREATE INDEX with a name can be tried")
    try:
        with attempt(session):
            ((made,),) = session.ask("SELECT indexname FROM hypopg_create_index(%s)", [index_sql])
    except ServerError as error:
        if error.state == "42883":
            raise ValueError(NO_HYPOPG) from error
        raise
    return made, name[1].strip('"')


def _indexes_called(session: Session, name: str) -> set[tuple[str, str, bool]]:
    """Schema, table and validity of each index of this name, written as in SQL."""
    return {
        (schema, table, valid)
        for schema, table, valid in session.ask(
            "SELECT n.nspname AS schema, t.relname AS name, i.indisvalid AS valid FROM pg_catalog.pg_index i"
            " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = %s",
            [name.strip('"').replace('""', '"') if name.startswith('"') else name.lower()],
        )
    }


def _why(error: ServerError) -> str:
    if error.state == "57014":
        return "planning it took too long"
    if error.state == "55P03":
        return "another transaction holds one of its tables"
    if error.is_lost:
        return f"the server does not answer: {error}"
    return str(error)


def _unavailable(error: ServerError) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the database can not be used for index advice now: {_why(error)}", hint="is the server up, and may we enter?"
    )
