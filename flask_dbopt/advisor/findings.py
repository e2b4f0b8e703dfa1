"""What is wrong with a plan: large tables that it reads whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flask_dbopt.engines.protocol import Plan, Step, Table


@dataclass(frozen=True, slots=True)
class Finding:
    """One large table that a plan reads from end to end, or builds an automatic index over."""

    table: Table
    step: Step


def whole_reads(plan: Plan, tables: Mapping[str, Table], min_rows: int) -> tuple[Finding, ...]:
    """Each table of ``min_rows`` rows or more that is read whole, the largest first and each once."""
    found: dict[str, Finding] = {}
    for step in plan.steps:
        key = (step.table or "").lower()
        if step.reads_whole_table and key in tables and key not in found:
            table = tables[key]
            if table.rows >= min_rows:
                found[key] = Finding(table, step)
    return tuple(sorted(found.values(), key=lambda finding: -finding.table.rows))
