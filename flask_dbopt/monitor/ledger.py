"""The book that all workers write: an SQLite file of our own to which each adds what it counted.

Every flush is one transaction that adds to shared rows, so a worker that is killed takes at most its last
interval with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from flask_dbopt.monitor import schema, totals
from flask_dbopt.monitor.figures import Statement, Worker
from flask_dbopt.monitor.histogram import unpack
from flask_dbopt.monitor.ledger_file import LedgerFile
from flask_dbopt.monitor.remarkable import Remarks, SeenPlan, ServedRequest, SlowRun
from flask_dbopt.monitor.sums import EndpointSum, QuerySum, Shape, Statements, Steps
from flask_dbopt.monitor.tally import MOST_STATEMENTS, OTHER, OTHER_ID, Tally

#: Seconds after its last heartbeat that the row of a worker that took its leave is cleared away.
FORGOTTEN = 600


class Ledger(LedgerFile):
    """One book: a file, or memory with ``path`` None. Opened when first used; the caller does the locking."""

    # --- writing ---

    def write(self, tally: Tally, worker: Worker | None) -> None:
        """Add a tally, and the worker's heartbeat and gauges, in one transaction."""
        with self._transaction() as connection:
            _add(connection, *tally.rows())
            totals.add(connection, tally)
            if tally.remarks:
                _remark(connection, tally.remarks)
            if worker is not None:
                row = (worker.id, worker.pid, worker.host, worker.started, worker.heartbeat)
                connection.execute(schema.ADD_WORKER, (*row, json.dumps(dict(worker.gauges)), worker.interval))
        self._checkpoint_if_large()

    def absorb(self, other: Ledger) -> None:
        """Add everything another book holds, what alerts remember included, in one transaction."""
        with other._reading() as source:
            tables = ("statement", *schema.SLOTS)
            rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in (*tables, *schema.REMEMBERED)}  # noqa: S608
        with self._transaction() as connection:
            _add(connection, *(rows[name] for name in tables))
            for name, statement in schema.REMEMBERED.items():
                connection.executemany(statement, rows[name])

    def leave(self, worker_id: str, now: float) -> None:
        """The worker takes its leave; its counts stay, its gauges go."""
        self.change((schema.END_WORKER, [(now, worker_id)]))

    def reset(self) -> None:
        """Forget every figure. Workers, alerts and the totals of all statements stay."""
        self.change(*((statement, [()]) for statement in schema.DROP_ALL))

    def change(self, *changes: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with its rows of values, in one transaction."""
        with self._transaction() as connection:
            for statement, rows in changes:
                connection.executemany(statement, rows)

    def maintain(self, now: float, *, keep_seconds: float, limit: int, every: float = 60) -> None:
        """Add old slots up, drop what is past its time, stay under ``limit`` bytes: once a minute."""
        with self._transaction() as connection:
            mark = connection.execute("SELECT at FROM mark WHERE name = 'maintained'").fetchone()
            if mark is not None and 0 <= now - mark[0] < every:
                return
            connection.execute("INSERT OR REPLACE INTO mark VALUES ('maintained', ?)", (now,))
            for statement in schema.DROP_WORKERS:
                connection.execute(statement, {"now": now, "keep": keep_seconds, "forget": FORGOTTEN})
            connection.execute("DELETE FROM alert WHERE resolved_at < ?", (now - keep_seconds,))
            for statement in schema.KEEP_MOST:
                connection.execute(statement, {"before": now - keep_seconds})
            dropped = self._drop_before(connection, now - keep_seconds)
            self._roll_up(connection, now, 1)
            for haste in (2, 4, 8, 16, 32):
                if self._used(connection) <= limit:
                    break
                self._roll_up(connection, now, haste)
            while self._used(connection) > limit:
                first, last = connection.execute("SELECT min(start), max(start) FROM query_slot").fetchone()
                if first is None or not self._drop_before(connection, first + (last - first) / 4 + 1):
                    break
                dropped = True
            if dropped:
                for statement in schema.DROP_UNUSED:
                    connection.execute(statement)

    @staticmethod
    def _roll_up(connection: sqlite3.Connection, now: float, haste: int) -> None:
        for (fine, charts, queries), (coarse, *_) in pairwise(schema.RESOLUTIONS):
            for table, statements in schema.ROLL_UP.items():
                keep = queries if table == "query_slot" else charts
                before = int((now - keep / haste) // coarse) * coarse
                for statement in statements:
                    connection.execute(statement, {"fine": fine, "before": before, "coarse": coarse})

    @staticmethod
    def _drop_before(connection: sqlite3.Connection, before: float) -> bool:
        rows = [connection.execute(s, {"before": before}).rowcount for s in schema.DROP_BEFORE]
        return any(rows)

    @staticmethod
    def _used(connection: sqlite3.Connection) -> int:
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    # --- reading ---

    def queries(self, since: float, only: str | None = None) -> Statements:
        """The statements of the slots that reach beyond ``since``, or only the one with this id."""
        found: Statements = {}
        with self._reading() as connection:
            for row in connection.execute(schema.READ_QUERIES, {"since": since, "id": only}):
                query = QuerySum(*row[8:16])
                query.buckets = unpack(row[16])
                found[row[0]] = (query, _shape(row))
        return found

    def shapes(self, ids: Sequence[str]) -> dict[str, Shape]:
        """What is known of these statements beside their sums."""
        return {row[0]: _shape(row) for row in self.rows(schema.READ_SHAPES, (json.dumps(ids),))}

    def workload(self, since: float, database: str | None = None) -> list[Statement]:
        """What ran in the same slots, without the rest: much quicker to read."""
        names = {"since": since, "database": database}
        with self._reading() as connection:
            return [Statement(*row) for row in connection.execute(schema.READ_WORKLOAD, names)]

    def peaks(self, since: float, at_least: float) -> dict[str, tuple[float, str]]:
        """The longest run, and the text, of each statement that took ``at_least`` seconds once."""
        with self._reading() as connection:
            rows = connection.execute(schema.READ_PEAKS, {"since": since, "at_least": at_least}).fetchall()
        return {name: (most, query) for name, most, query in rows}

    def endpoints(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        """The sums by step of ``width`` seconds from ``base`` on, and by endpoint."""
        found: Steps = {}
        names = {"since": since, "base": base, "width": width}
        with self._reading() as connection:
            for row in connection.execute(schema.READ_ENDPOINTS, names):
                found[row[0], row[1]] = endpoint = EndpointSum(*row[2:11])
                endpoint.buckets = unpack(row[11])
        return found

    def counters(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        """The counters in the same manner."""
        names = {"since": since, "base": base, "width": width}
        with self._reading() as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(schema.READ_COUNTERS, names)}

    def first_slot(self) -> int | None:
        """Where the oldest slot starts."""
        with self._reading() as connection:
            found: int | None = connection.execute(schema.READ_FIRST).fetchone()[0]
            return found

    def workers(self) -> list[Worker]:
        """Every worker that is remembered, whether it lives or not."""
        return [
            Worker(name, pid, host, started, heartbeat, json.loads(gauges), interval, ended)
            for name, pid, host, started, heartbeat, gauges, interval, ended in self.rows(schema.READ_WORKERS)
        ]

    def slow_runs(self, statement: str) -> list[SlowRun]:
        """The slow runs that are kept of one statement, the newest first."""
        return [SlowRun.of(row) for row in self.rows(schema.READ_SLOW_RUNS, (statement,))]

    def plans(self, statement: str) -> list[SeenPlan]:
        """Its plans, the newest first."""
        return [SeenPlan.of(row) for row in self.rows(schema.READ_PLANS, (statement,))]

    def requests(self, since: float) -> list[ServedRequest]:
        """The requests that are kept, the newest first."""
        return [ServedRequest.of(row) for row in self.rows(schema.READ_REQUESTS, (since,))]

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """What a SELECT finds."""
        with self._reading() as connection:
            return connection.execute(statement, values).fetchall()


def _add(
    connection: sqlite3.Connection,
    statements: Iterable[tuple[Any, ...]],
    queries: Iterable[tuple[Any, ...]],
    endpoints: Iterable[tuple[Any, ...]],
    counters: Iterable[tuple[Any, ...]],
) -> None:
    """Add rows as the tables hold them; statements past the most that are kept share one row."""
    crowded: dict[str, str] = {}
    count = -1
    for row in statements:
        if connection.execute("SELECT 1 FROM statement WHERE id = ?", row[:1]).fetchone() is None:
            if count < 0:
                count = connection.execute("SELECT count(*) FROM statement").fetchone()[0]
            count += 1
            if count > MOST_STATEMENTS and row[0] != OTHER_ID:
                crowded[row[0]] = OTHER_ID
                row = (OTHER_ID, OTHER, *row[2:])
        connection.execute(schema.ADD_STATEMENT, row)
    connection.executemany(schema.ADD_QUERY, ((*row[:2], crowded.get(row[2], row[2]), *row[3:]) for row in queries))
    connection.executemany(schema.ADD_ENDPOINT, endpoints)
    connection.executemany(schema.ADD_COUNTER, counters)


def _remark(connection: sqlite3.Connection, remarks: Remarks) -> None:
    """Add single runs, requests and plans; of each statement and endpoint a few are kept."""
    connection.executemany(schema.ADD_SLOW_RUN, (run.row() for run in remarks.runs))
    connection.executemany(schema.KEEP_FEW_RUNS, ({"name": name} for name in {run.statement for run in remarks.runs}))
    connection.executemany(schema.ADD_REQUEST, (request.row() for request in remarks.requests.values()))
    connection.executemany(schema.KEEP_FEW_REQUESTS, ({"name": name} for name in {key[0] for key in remarks.requests}))
    for plan in remarks.plans:
        row = connection.execute(schema.READ_PLANS, (plan.statement,)).fetchone()
        newest = None if row is None else SeenPlan.of(row)
        if newest is not None and newest.is_like(plan.lines):
            plan = replace(newest, seen=max(plan.seen, newest.seen), lines=plan.lines)
        elif newest is not None and plan.since <= newest.since:
            continue  # told late: it is known since how it runs now
        connection.execute(schema.ADD_PLAN, plan.row())
        connection.execute(schema.KEEP_FEW_PLANS, {"name": plan.statement})


def _shape(row: Sequence[Any]) -> Shape:
    return Shape(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5], row[6])
