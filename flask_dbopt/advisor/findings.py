"""What is wrong with a plan: large tables that it reads whole, or nearly so. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flask_dbopt.engines.protocol import Plan, Step, Table

#: A look-up that finds more than this part of a table is no quicker than reading the table: measured with
#: SQLite 3.40 on 320,000 rows, the two take the same time at one row in ten (16 ms), at one in five the index
#: takes 25 ms and the scan 18 ms.
WORTH_A_LOOKUP = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One large table that a plan reads from end to end, or builds an automatic index over."""

    table: Table
    step: Step


def costly_reads(plan: Plan, tables: Mapping[str, Table], min_rows: int) -> tuple[Finding, ...]:
    """Each table of ``min_rows`` rows or more that is read whole or nearly so, the largest first, each once."""
    found: dict[str, Finding] = {}
    for step in plan.steps:
        key = (step.table or "").lower()
        if is_costly(step) and key in tables and key not in found:
            table = tables[key]
            if table.rows >= min_rows:
                found[key] = Finding(table, step)
    return tuple(sorted(found.values(), key=lambda finding: -finding.table.rows))


def is_costly(step: Step) -> bool:
    """Reads its whole table, or looks up so much of it that reading the whole would be as quick."""
    return step.reads_whole_table or (not step.may_stop and share(step) > WORTH_A_LOOKUP)


def share(step: Step) -> float:
    """The part of its table that one look-up touches, where statistics tell and it is touched at all."""
    return 0.0 if step.covering or step.finds is None or not step.rows else step.finds / step.rows
