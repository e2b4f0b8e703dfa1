"""What the monitor tells: the books' figures, and with them what this process counted and has not flushed yet."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flask_dbopt.monitor import reading
from flask_dbopt.monitor.books import Books
from flask_dbopt.monitor.figures import (
    EndpointFigures,
    Point,
    QueryDetails,
    QueryFigures,
    RequestFigures,
    Statement,
    Worker,
)
from flask_dbopt.monitor.intake import Intake
from flask_dbopt.monitor.sums import Shape, Statements, Steps, is_request, merge_statements, merge_steps
from flask_dbopt.monitor.tally import Tally

#: A worker lives while its heartbeat is younger than this, in seconds.
LIVING = 10.0
#: Seconds for which a worker that ended without a word is told of.
LOST_SHOWN = 86_400.0


class Account:
    """All figures of one app, over all its workers. May take a lock and touch the disk: nothing for requests."""

    def __init__(self, intake: Intake, books: Books, clock: Callable[[], float]) -> None:
        self._intake = intake
        self._books = books
        self._clock = clock

    def queries(self, sort: str = "total_time", since: float | None = None) -> list[QueryFigures]:
        """Every statement run after ``since`` (to the slot it lies in), the largest by ``sort`` first.

        Counts what this process has not flushed yet. ``sort``: a key of ``reading.SORTS``, else ValueError.
        """
        if sort not in reading.SORTS:
            raise ValueError(f"cannot sort queries by {sort!r}; known: {', '.join(reading.SORTS)}")
        figures = [reading.query_figures(*each) for each in self._statements(since).values()]
        return sorted(figures, key=reading.SORTS[sort], reverse=True)

    def query(self, id: str) -> QueryFigures | None:  # noqa: A002 - the figures' own word
        """One statement over all time; None when nobody ran it."""
        found = self._statements(None, id).get(id)
        return None if found is None else reading.query_figures(*found)

    def details(self, id: str) -> QueryDetails:  # noqa: A002 - the figures' own word
        """The slow runs and the plans that are kept of one statement."""
        with self._seen() as parts:
            runs, plans = self._books.slow_runs(id), self._books.plans(id)
            for part in parts:
                runs += [run for run in part.remarks.runs if run.statement == id]
                plans += [plan for plan in part.remarks.plans if plan.statement == id]
        return reading.details(runs, plans)

    def requests(self, since: float | None = None) -> list[RequestFigures]:
        """Of each endpoint the slowest, the newest slow ones and those that repeated a statement; slowest first."""
        since = since or 0.0
        shapes: dict[str, Shape] = {}
        with self._seen() as parts:
            found = self._books.requests(since)
            for part in parts:
                found += [request for request in part.remarks.requests.values() if request.at > since]
                shapes.update(part.shapes)
            wanted = {name for request in found for name, _ in request.groups} - set(shapes)
            if wanted:
                shapes.update(self._books.shapes(sorted(wanted)))
        return sorted((reading.request_figures(each, shapes) for each in found), key=lambda request: -request.time)

    def workload(self, since: float | None = None, database: str | None = None) -> list[Statement]:
        """What ran in the databases, or in one of them, the most expensive first."""
        sums: dict[str, Statement] = {}
        with self._seen() as parts:
            kept = self._books.workload(since or 0.0, database)
            new = [each for part in parts for each in part.queries_since(since or 0.0).values()]
            fresh = [Statement(s.id, s.query, q.calls, q.seconds, s.database) for q, s in new]
            for one in (*kept, *(each for each in fresh if database in (None, each.database))):
                if (other := sums.get(one.id)) is not None:
                    one = replace(one, calls=one.calls + other.calls, seconds=one.seconds + other.seconds)
                sums[one.id] = one
        return sorted(sums.values(), key=lambda statement: -statement.seconds)

    def endpoints(self, since: float | None = None) -> list[EndpointFigures]:
        """Every endpoint that answered a request, the one with the most time first."""
        found = [
            reading.endpoint_figures(name, total)
            for (_, name), total in self._steps(since or 0.0).items()
            if total.calls
        ]
        return sorted(found, key=lambda endpoint: -endpoint.total_time)

    def overall(self, since: float | None = None) -> EndpointFigures:
        """All requests as if one endpoint had answered them; work outside requests is left out."""
        steps = self._steps(since or 0.0)
        return reading.endpoint_figures(
            "", reading.summed(total for (_, name), total in steps.items() if is_request(name))
        )

    def series(self, since: float | None = None, points: int = 60) -> list[Point]:
        """At most ``points`` equal steps from ``since`` (None: the first figure) until now, for a chart."""
        now = self._clock()
        if since is None:
            first = self._books.first_slot()
            since = now if first is None else float(first)
        base, width, count = reading.plan_steps(since, now, max(1, points))
        counters = self._counters(base, base, width)
        return reading.series(base, width, count, self._steps(base, base, width), counters)

    def counters(self, since: float | None = None) -> dict[str, float]:
        """Every counter, summed over all workers."""
        return {name: amount for (_, name), amount in self._counters(since or 0.0).items()}

    def workers(self) -> list[Worker]:
        """The living workers, by their heartbeats; the oldest first."""
        now = self._clock()
        return [each for each in self._books.workers() if each.ended is None and abs(now - each.heartbeat) < LIVING]

    def lost_workers(self, since: float | None = None) -> list[Worker]:
        """Those that ended without a word, such as by kill -9, heard of last after ``since``; the latest first."""
        now = self._clock()
        lost = [
            worker
            for worker in self._books.workers()
            if worker.ended is None and now - worker.heartbeat >= LIVING and not _still_runs(worker)
        ]
        return sorted((w for w in lost if w.heartbeat > (since or 0.0)), key=lambda worker: -worker.heartbeat)

    def notices(self) -> list[str]:
        """Where the monitor itself is not at its best, as sentences."""
        return [*self._books.notices(), *reading.farewells(self.lost_workers(self._clock() - LOST_SHOWN))]

    def _check_process(self) -> None:
        """Called before each look: a child that was forked unnoticed has figures of its own."""

    def _statements(self, since: float | None, only: str | None = None) -> Statements:
        with self._seen() as parts:
            found = self._books.queries(since or 0.0, only)
            for part in parts:
                merge_statements(found, part.queries_since(since or 0.0))
        return found

    def _steps(self, since: float, base: int = 0, width: int = 1 << 60) -> Steps:
        with self._seen() as parts:
            found = self._books.endpoints(since, base, width)
            for part in parts:
                merge_steps(found, part.endpoints_since(since, base, width))
        return found

    def _counters(self, since: float, base: int = 0, width: int = 1 << 60) -> dict[tuple[int, str], float]:
        with self._seen() as parts:
            found = self._books.counters(since, base, width)
            for part in parts:
                for key, amount in part.counters_since(since, base, width).items():
                    found[key] = found.get(key, 0) + amount
        return found

    @contextmanager
    def _seen(self) -> Iterator[tuple[Tally, Tally]]:
        """What this process counted and has not flushed, while nothing moves from there to the books."""
        self._check_process()
        with self._intake.lock:
            now = self._clock()
            self._intake.fold(now)
            yield self._intake.tally, self._intake.held(now)
        self._intake.tell()


def _still_runs(worker: Worker) -> bool:
    """Whether a worker that is not heard of is only held up: its process is there, on this machine."""
    if worker.host != socket.gethostname():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
