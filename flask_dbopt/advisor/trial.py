"""Whether a candidate would really help one statement: the engine's own plan on a clone with it, judged."""

from __future__ import annotations

from dataclasses import dataclass

from flask_dbopt.advisor.candidates import Candidate
from flask_dbopt.advisor.findings import WORTH_A_LOOKUP, is_costly, share
from flask_dbopt.engines.protocol import Plan, Planner

#: What a comparison with < or > is taken to leave over, as SQLite itself does without a histogram.
LEFT_BY_A_RANGE = 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    candidate: Candidate
    sql: str
    """The CREATE INDEX statement that was tried."""
    before: Plan
    after: Plan
    refusal: str
    """Why it is no good; empty when it helps."""


def attempt(planner: Planner, statement: str, before: Plan, candidate: Candidate, name: str) -> Trial:
    """Explain ``statement`` on the clone with the candidate as an index called ``name``."""
    sql = candidate.sql(name)
    after = planner.trial(statement, [sql])
    return Trial(candidate, sql, before, after, _refusal(before, after, candidate, name))


def _refusal(before: Plan, after: Plan, candidate: Candidate, name: str) -> str:
    if after.problem:
        return after.problem
    used = [step for step in after.steps if (step.index or "").lower() == name.lower()]
    if not used:
        return "the planner would not use it"
    table = candidate.table.lower()
    sorts_less = _sorts(after) < _sorts(before)
    if candidate.sorts and not sorts_less:
        return "the result would still be sorted"
    if not (candidate.stops_early and sorts_less):
        part = max(map(share, used)) * (LEFT_BY_A_RANGE if candidate.ranges else 1.0)
        if part > WORTH_A_LOOKUP:
            return f"one look-up would find {part:.0%} of the table: reading all of it is as quick"
        if _costly(after, table, name if candidate.ranges else "") >= _costly(before, table):
            return "the table would still be read whole"
    if _rows_elsewhere(after, table) > _rows_elsewhere(before, table):
        return "another table would be read whole instead"
    return ""


def _costly(plan: Plan, table: str, fine: str = "") -> int:
    """How many steps read much of ``table``, but for those that use the index called ``fine``."""
    return sum(
        is_costly(step) and (step.table or "").lower() == table and (not fine or step.index != fine)
        for step in plan.steps
    )


def _rows_elsewhere(plan: Plan, table: str) -> int:
    return sum(step.rows or 0 for step in plan.steps if step.reads_whole_table and (step.table or "").lower() != table)


def _sorts(plan: Plan) -> int:
    return sum(step.sorts for step in plan.steps)
