"""Few indexes for many statements, each with its reasons in words. Pure, but for the trials it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from flask_dbopt.advisor.candidates import Candidate, merge
from flask_dbopt.advisor.findings import is_costly
from flask_dbopt.advisor.trial import Trial
from flask_dbopt.engines.protocol import Index, Plan, Table


class Statement(Protocol):
    """One line of the workload."""

    @property
    def id(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def calls(self) -> int: ...
    @property
    def seconds(self) -> float:
        """All its runs together."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One statement, and the trial of the index that helps it."""

    statement: Statement
    trial: Trial


#: Tries another candidate for a case's statement; None when it does not help.
Retry = Callable[[Case, Candidate], Case | None]


def combine(cases: Sequence[Case], retry: Retry) -> list[list[Case]]:
    """Groups of cases that one index serves; a merged index was tried for every statement in its group."""
    groups: list[list[Case]] = []
    for case in cases:
        for group in groups:
            served = _served(group, case, retry)
            if served:
                group[:] = served
                break
        else:
            groups.append([case])
    return groups


def _served(group: list[Case], case: Case, retry: Retry) -> list[Case]:
    both = merge(group[0].trial.candidate, case.trial.candidate)
    if both is None:
        return []
    served = []
    for each in [*group, case]:
        wanted = each.trial.candidate
        # The wider index has to do for each statement what its own would have done.
        wider = replace(wanted, equal=both.equal, rest=both.rest)
        again = each if wanted.parts == both.parts else retry(each, wider)
        if again is None:
            return []
        served.append(again)
    return served


def reason(group: Sequence[Case], table: Table) -> str:
    """Two or three sentences: what happens today, what would happen, and what else to know."""
    trial = group[0].trial
    sentences = [f"Today the statement {_today(trial.before, table)}; with the index it {_then(trial)}."]
    finds = next((step.finds for step in trial.after.steps if _uses(step.index, trial.sql)), None)
    if finds and not trial.candidate.ranges and not trial.candidate.stops_early:
        sentences.append(f"One look-up finds about {finds:,} row{'s' if finds > 1 else ''}.")
    if trial.candidate.ranges:
        sentences.append("How much it saves depends on how narrow the range is.")
    if len(group) > 1:
        sentences.append(f"It helps {len(group)} recorded statements.")
    sentences += [
        f"The index {index.name} begins the same way and could be dropped then."
        for index in superseded(table, trial.candidate)
    ]
    return " ".join(sentences)


def superseded(table: Table, candidate: Candidate) -> list[Index]:
    """Indexes whose columns the candidate begins with. One that is UNIQUE or partial has work of its own."""
    return [
        index
        for index in table.indexes
        if not index.unique
        and not index.partial
        and index.columns
        and index.columns == candidate.columns[: len(index.columns)]
    ]


def existing(table: Table, candidate: Candidate) -> Index | None:
    """An index that begins with the candidate's columns already."""
    if any(part.collation or part.descending for part in candidate.parts):
        return None
    wanted = candidate.columns
    return next((index for index in table.indexes if index.columns[: len(wanted)] == wanted), None)


def _today(plan: Plan, table: Table) -> str:
    return ", ".join(
        step.reading
        for step in plan.steps
        if step.sorts or (is_costly(step) and (step.table or "").lower() == table.name.lower())
    )


def _then(trial: Trial) -> str:
    words = ", ".join(step.reading for step in trial.after.steps if _uses(step.index, trial.sql))
    if trial.candidate.stops_early:
        return words + ("" if "LIMIT" in words else ", stopping at the LIMIT") + ", without sorting"
    return words + (", without sorting" if trial.candidate.sorts else "")


def _uses(index: str | None, sql: str) -> bool:
    return index is not None and sql.startswith((f"CREATE INDEX {index} ON ", f'CREATE INDEX "{index}" ON '))
