"""Index advice that was tried before it is offered. Shows and explains; only a person applies."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask_dbopt.advisor.candidates import Candidate, aliases_of, candidates, predicates_on
from flask_dbopt.advisor.findings import Finding, costly_reads
from flask_dbopt.advisor.trial import Trial, attempt
from flask_dbopt.advisor.verdict import Case, Statement, combine, existing, reason
from flask_dbopt.deeds import deed
from flask_dbopt.engines.protocol import Plan, Planner, Table
from flask_dbopt.errors import AdviceError
from flask_dbopt.signals import Emit, silence
from flask_dbopt.sql.predicates import Predicate, first_word, read_selects

#: Advice is good for this long, in seconds; ``recommend(force=True)`` asks again.
ADVICE_KEPT = 60.0

#: Only the costliest statements are looked at, …
STATEMENTS = 50
#: … and for no longer than this, in seconds: a page may be waiting.
BUDGET = 2.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One index worth having, with the plans that say why. ``id`` is stable: it comes from ``sql``."""

    id: str
    table: str
    columns: tuple[str, ...]
    sql: str
    """The whole CREATE INDEX statement."""
    reason: str
    """Two or three sentences a person reads."""
    query_ids: tuple[str, ...]
    """The recorded statements it helps, costliest first."""
    queries: tuple[str, ...]
    """Their texts (fingerprints), in the same order."""
    before: Plan
    """The costliest statement's plan today …"""
    after: Plan
    """… and on the row-less clone with the index."""
    rows: int
    """Rows in the table, exact or an estimate."""
    seconds: float
    """Recorded seconds of all the statements it helps."""


class Advisor:
    """Reads the workload, explains its costliest SELECTs and tries indexes for what they read whole.

    A statement is looked at when it ran at least ``min_calls`` times and took, all runs together, at least as
    long as ``min_calls`` runs of ``min_seconds``. Tables of fewer than ``min_rows`` rows get no advice.
    """

    def __init__(
        self,
        planner: Planner,
        workload: Callable[[], Sequence[Statement]],
        *,
        min_rows: int = 500,
        min_calls: int = 50,
        min_seconds: float = 0.02,
        database: str = "default",
        emit: Emit = silence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._planner = planner
        self._workload = workload
        self._min_rows = min_rows
        self._min_calls = min_calls
        self._min_seconds = min_seconds
        self.name = database
        self._emit = emit
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[Recommendation, ...]] | None = None
        self._announced: set[str] = set()

    def recommend(self, force: bool = False) -> tuple[Recommendation, ...]:
        """Indexes worth having, the one that saves most first. Kept for a minute unless ``force``.

        Raises DatabaseUnavailable when the database can not be read. A statement that can not be explained or
        read costs only its own advice.
        """
        kept = self._kept
        if not force and kept is not None and 0 <= self._clock() - kept[0] < ADVICE_KEPT:
            return kept[1]
        lock = self._lock
        if not lock.acquire(blocking=force):
            # Somebody else is at it: what was true a minute ago will do.
            return kept[1] if kept else ()
        try:
            advice = self._advise()
            self._kept = (self._clock(), advice)
        finally:
            lock.release()
        for each in advice:
            if each.id not in self._announced:
                self._announced.add(each.id)
                self._emit("index_recommended", database=self.name, recommendation=each)
        return advice

    def explain(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Plan:
        """How the engine would run ``sql``; nothing is run."""
        return self._planner.explain(sql, params)

    def hindrance(self) -> str:
        """Why nothing is advised for this database, whatever runs; empty where indexes can be tried."""
        return self._planner.hindrance()

    def explained(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[str, ...]:
        """The plan as people read it, one line a step; or one line that says why there is none."""
        plan = self._planner.explain(sql, params)
        if plan.problem:
            return (plan.problem,)
        tables = self._planner.tables()
        lines = []
        for step in plan.steps:
            key = (step.table or "").lower()
            conditions = _conditions(sql, tables[key], tables) if step.reads_whole_table and key in tables else ()
            texts = ", ".join(dict.fromkeys(f"`{each.text}`" for each in conditions))
            lines.append(step.reading + (f"; no index helps {texts}" if texts else ""))
        return tuple(lines)

    def why_not(self, sql: str) -> str:
        """Why no index is advised for one statement, or which one would help. One to three sentences."""
        if first_word(sql) not in {"select", "with"}:
            return "Only SELECTs are looked at."
        plan = self._planner.explain(sql)
        if plan.problem:
            return f"{plan.problem[:1].upper()}{plan.problem[1:]}."
        tables = self._planner.tables()
        findings = costly_reads(plan, tables, self._min_rows)
        if not findings:
            return f"No table of {self._min_rows:,} rows or more is read whole, or in large part."
        if read_selects(sql) is None:
            return "Its conditions could not be read, so nothing is advised."
        hindrance = self._planner.hindrance()
        return " ".join(self._why_not(sql, plan, finding, tables, hindrance) for finding in findings)

    @deed("index.apply", told={"id": "advice"}, found=lambda advice: {"sql": advice.sql})
    def apply(self, id: str) -> Recommendation:  # noqa: A002 - the public name of what recommend() gives
        """Build the recommended index in the live database, and say which it was. Writers wait meanwhile.

        Raises AdviceError when there is no such advice or the index can not be built, DatabaseUnavailable
        when the database can not be written now.
        """
        kept = self._kept
        advice = next((each for each in (kept[1] if kept else ()) if each.id == id), None)
        if advice is None:
            advice = next((each for each in self.recommend(force=True) if each.id == id), None)
        if advice is None:
            raise AdviceError(f"there is no index advice {id!r} now", hint="the index may exist already")
        self._planner.create(advice.sql)
        self._kept = None
        return advice

    def abandon(self) -> None:
        """After a fork, in the child: a lock that another thread held will never be released here."""
        self._lock = threading.Lock()

    # --- from workload to advice ----------------------------------------------------------------------------

    def _advise(self) -> tuple[Recommendation, ...]:
        deadline = self._clock() + BUDGET
        statements = sorted(filter(self._matters, self._workload()), key=lambda each: -each.seconds)
        if not statements or self._planner.hindrance():
            return ()
        tables = self._planner.tables()
        cases: list[Case] = []
        for statement in statements[:STATEMENTS]:
            if self._clock() > deadline:
                break
            before = self._planner.explain(statement.query)
            for finding in costly_reads(before, tables, self._min_rows):
                trial = self._first_that_helps(statement.query, before, finding, tables)
                if trial is not None:
                    cases.append(Case(statement, trial))

        def retry(case: Case, candidate: Candidate) -> Case | None:
            if self._clock() > deadline:
                return None
            trial = self._try(case.statement.query, case.trial.before, candidate, tables)
            return None if trial.refusal else Case(case.statement, trial)

        advice = [_recommendation(group, tables) for group in combine(cases, retry)]
        return tuple(sorted(advice, key=lambda each: -each.seconds))

    def _matters(self, statement: Statement) -> bool:
        return (
            statement.calls >= self._min_calls
            and statement.seconds >= self._min_calls * self._min_seconds
            and first_word(statement.query) in {"select", "with"}
        )

    def _first_that_helps(self, sql: str, before: Plan, finding: Finding, tables: Mapping[str, Table]) -> Trial | None:
        for candidate in candidates(read_selects(sql) or (), finding.table, tables):
            if existing(finding.table, candidate) is None:
                trial = self._try(sql, before, candidate, tables)
                if not trial.refusal:
                    return trial
        return None

    def _try(self, sql: str, before: Plan, candidate: Candidate, tables: Mapping[str, Table]) -> Trial:
        taken = {index.name.lower() for index in tables[candidate.table.lower()].indexes} | set(tables)
        name = candidate.name(taken)
        trial = attempt(self._planner, sql, before, candidate, name)
        if name in trial.refusal:
            # Another table has an index of this name.
            trial = attempt(self._planner, sql, before, candidate, candidate.name({*taken, name}))
        return trial

    # --- why not --------------------------------------------------------------------------------------------

    def _why_not(self, sql: str, before: Plan, finding: Finding, tables: Mapping[str, Table], hindrance: str) -> str:
        table = finding.table
        selects = read_selects(sql) or ()
        if not any(aliases_of(select, table) for select in selects):
            return f"{table.name} is read through a view, and conditions on a view are not followed yet."
        refusals: dict[str, None] = {}
        for candidate in candidates(selects, table, tables):
            index = existing(table, candidate)
            if index is not None:
                refusals[f"the index {index.name} begins with {_listed(candidate)} already"] = None
                continue
            if hindrance:
                return f"An index on {table.name} {_listed(candidate)} may help; {hindrance}."
            trial = self._try(sql, before, candidate, tables)
            if not trial.refusal:
                for advice in self._kept[1] if self._kept else ():
                    if sql in advice.queries and advice.table == table.name:
                        return f"An index is advised: {advice.sql}."
                return f"An index would help, and be advised once this ran often enough: {trial.sql}."
            refusals[f"with an index on {_listed(candidate)} {trial.refusal}"] = None
        if refusals:
            return f"No index on {table.name} helps: {'; '.join(refusals)}."
        obstacles = [_obstacle(predicate) for predicate in _conditions(sql, table, tables)]
        if obstacles:
            return f"No index on {table.name} can help: {'; '.join(dict.fromkeys(obstacles))}."
        return f"Every row of {table.name} is wanted: no condition narrows them down."


def _recommendation(group: Sequence[Case], tables: Mapping[str, Table]) -> Recommendation:
    first = group[0].trial
    table = tables[first.candidate.table.lower()]
    statements = {case.statement.id: case.statement for case in group}
    return Recommendation(
        id=hashlib.sha256(first.sql.encode()).hexdigest()[:12],
        table=table.name,
        columns=first.candidate.columns,
        sql=first.sql,
        reason=reason(group, table),
        query_ids=tuple(statements),
        queries=tuple(each.query for each in statements.values()),
        before=first.before,
        after=first.after,
        rows=table.rows,
        seconds=sum(each.seconds for each in statements.values()),
    )


def _conditions(sql: str, table: Table, tables: Mapping[str, Table]) -> tuple[Predicate, ...]:
    return tuple(
        predicate
        for select in read_selects(sql) or ()
        for alias in aliases_of(select, table)
        for predicate in predicates_on(select, alias, table, tables)
    )


_OBSTACLES = {
    "pattern": "compares a pattern, which a full-text table serves better",
    "inequality": "excludes some values, so most rows remain",
    "expression": "wraps the column, so that only an index on the same expression could serve it",
    "alternative": "offers alternatives; each side would need an index of its own",
}


def _obstacle(predicate: Predicate) -> str:
    words = _OBSTACLES.get(predicate.kind, "compares the table with itself, row by row")
    return f"`{predicate.text}` {words}"


def _listed(candidate: Candidate) -> str:
    return f"({', '.join(map(str, candidate.parts))})"
