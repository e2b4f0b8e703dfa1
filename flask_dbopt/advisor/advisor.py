"""Index advice that was tried before it is offered. Shows and explains; only a person applies."""

from __future__ import annotations

from dataclasses import dataclass

from flask_dbopt.engines.protocol import Plan


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
