"""Helps tests to keep an app quick: which queries ran inside a block, and a failure that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, overload

from flask_dbopt.errors import ConfigurationError
from flask_dbopt.monitor.request import Record
from flask_dbopt.sql.fingerprint import fingerprint

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer

#: Statements that begin and end transactions: no queries.
_CONTROL = frozenset("BEGIN START COMMIT END ROLLBACK SAVEPOINT RELEASE ABORT".split())
#: Runs of one statement for one endpoint from which on it looks like N+1.
_SUSPECT = 3
#: Characters of a statement in the list.
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Query:
    """One run of a statement."""

    query: str
    """Its fingerprint: the statement without its literals."""
    sql: str
    """As the app gave it."""
    ms: float
    rows: int | None
    """None where nobody counted them."""
    cached: bool
    """Answered by the query cache."""
    error: str | None
    """The name of the exception that it raised."""
    place: str
    """file:line of the app's own frame; empty where that is not known."""
    endpoint: str
    """Empty outside requests."""
    database: str


class Queries(Sequence[Query]):
    """Every query that ran on behalf of an app while a ``with`` block lasted; as text, the list of them.

    Counted are the runs in all threads of this process, those answered by the cache too, and those that failed;
    not the statements that begin and end transactions, nor our own.
    """

    def __init__(self, optimizer: Optimizer, most: int | None = None) -> None:
        settings = optimizer.settings
        off = next((key for key in ("enabled", "monitor_enabled") if not getattr(settings, key)), None)
        if off is not None:
            raise ConfigurationError(
                f"queries cannot be counted while DBOPT_{off.upper()} is off",
                hint="switch it on in the configuration of the tests",
            )
        if most is not None and most < 0:
            raise ValueError(f"there cannot be {most} queries")
        self._most = most
        self._tap = optimizer.monitor.tap()
        self._places = optimizer.monitor.recorder.places
        self._settled: list[Query] | None = None

    # --- the block ---

    def __enter__(self) -> Queries:
        self._settled = None
        self._tap.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises AssertionError when there were too many, unless the block raised something itself."""
        __tracebackhide__ = True
        self._settled = self._read(self._tap.close())
        if kind is None and self._most is not None and len(self._settled) > self._most:
            raise AssertionError(f"{_count(len(self._settled))} ran, and at most {self._most} may:\n\n{self}")

    # --- what ran ---

    def __len__(self) -> int:
        return len(self._queries())

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Query]: ...
    def __getitem__(self, index: int | slice) -> Query | Sequence[Query]:
        return self._queries()[index]

    def __str__(self) -> str:
        return "\n".join(_listed(self._queries())) or "no query ran"

    def __repr__(self) -> str:
        return f"<{_count(len(self))}>"

    def _queries(self) -> list[Query]:
        return self._read(self._tap.heard()) if self._settled is None else self._settled

    def _read(self, heard: Sequence[tuple[Record, str]]) -> list[Query]:
        found = (self._query(record, endpoint) for record, endpoint in heard)
        return [each for each in found if each.query.partition(" ")[0].upper() not in _CONTROL]

    def _query(self, record: Record, endpoint: str) -> Query:
        sql, seconds, rows, error, cached, _, database = record
        return Query(
            query=fingerprint(sql),
            sql=sql,
            ms=seconds * 1e3,
            rows=rows if rows >= 0 else None,
            cached=cached,
            error=error,
            place=self._places.get(sql, ""),
            endpoint=endpoint,
            database=database,
        )


def _listed(queries: Sequence[Query]) -> list[str]:
    """A numbered line or two for each statement, in the order in which they first ran."""
    groups: dict[tuple[str, str, str], list[Query]] = {}
    for each in queries:
        groups.setdefault((each.query, each.endpoint, each.database), []).append(each)
    lines = []
    for number, ((query, endpoint, database), runs) in enumerate(groups.items(), 1):
        shown = query if len(query) <= _LONGEST else f"{query[: _LONGEST - 1]}…"
        lines.append(f"{number:>3}. {len(runs):>4} × {sum(each.ms for each in runs):>8.2f} ms  {shown}")
        cached, failed = sum(each.cached for each in runs), [each.error for each in runs if each.error]
        notes = [
            next((each.place for each in runs if each.place), ""),
            f"in {endpoint}" if endpoint else "outside any request",
            f"in the database {database!r}" if database != "default" else "",
            f"{cached} from the cache" if cached else "",
            f"{len(failed)} failed: {failed[0]}" if failed else "",
        ]
        lines.append(f"{'':25}{', '.join(note for note in notes if note)}")
        if len(runs) >= _SUSPECT:
            instead = "IN or a JOIN" if query[:6].upper() == "SELECT" else "executemany"
            lines.append(f"{'':25}the same statement {len(runs)} times, as a loop does (N+1): {instead} does it in one")
    return lines


def _count(number: int) -> str:
    return "1 query" if number == 1 else f"{number} queries"
