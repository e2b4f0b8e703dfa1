"""Index advice: what is worth building, the plans that say so, and the indexes that are there already."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flask_dbopt.admin.desk import Done, Missing, Page, Visit
from flask_dbopt.advisor.advisor import Recommendation
from flask_dbopt.databases import Database
from flask_dbopt.engines.protocol import Table
from flask_dbopt.errors import DBOptError

log = logging.getLogger("flask_dbopt.admin")


@dataclass(frozen=True, slots=True)
class Inventory:
    """One database's tables, or why they cannot be listed now."""

    database: str
    tables: tuple[Table, ...] = ()
    problem: str = ""
    hindrance: str = ""
    """Why no index can be tried there."""


def show(visit: Visit) -> Page:
    return Page(
        "indexes",
        "Indexes",
        "indexes.html",
        {
            "report": visit.report,
            "advice": visit.report.recommendations,
            "inventories": inventories(visit),
        },
        live=False,
    )


def confirm(visit: Visit, advice_id: str) -> Page:
    """The last look before an index is built."""
    advice = _advice(visit, advice_id)
    return Page(
        "indexes",
        "Build an index",
        "index.html",
        {"report": visit.report, "advice": advice, "database": _database(visit, advice_id)},
        live=False,
        windowed=False,
    )


def apply(visit: Visit, advice_id: str) -> Done:
    advice, database = _advice(visit, advice_id), _database(visit, advice_id, anew=True)
    if database is None or database.advisor is None:
        raise Missing(f"the advice {advice_id} is no longer given: the index may exist by now")
    if database.backups is not None:
        database.backups.take(label=f"before index {advice_id}")
    database.advisor.apply(advice_id)
    log.warning("the admin page built an index: %s", advice.sql)
    return Done(f"Built: {advice.sql}. Statements prepared from now on can use it.", "indexes")


def inventories(visit: Visit) -> list[Inventory]:
    """Every table with its indexes, the largest first."""
    found = []
    for name, database in visit.optimizer.databases.items():
        if database.planner is None:
            continue
        try:
            tables = sorted(database.planner.tables().values(), key=lambda t: (-t.rows, t.name))
        except (DBOptError, OSError) as problem:
            found.append(Inventory(name, problem=str(problem)))
        else:
            found.append(Inventory(name, tuple(tables), hindrance=database.planner.hindrance()))
    return found


def _advice(visit: Visit, advice_id: str) -> Recommendation:
    for each in visit.report.recommendations:
        if each.id == advice_id:
            return each
    raise Missing(f"the advice {advice_id} is not given now: the index may exist by now")


def _database(visit: Visit, advice_id: str, *, anew: bool = False) -> Database | None:
    """The one that the advice is for; ``anew``: as it stands this moment."""
    for database in visit.optimizer.databases.values():
        advisor = database.advisor
        if advisor is not None and any(each.id == advice_id for each in advisor.recommend(force=anew)):
            return database
    return None
