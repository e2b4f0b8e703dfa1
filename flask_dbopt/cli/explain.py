"""``flask db-opt explain``: how the database would run one statement, in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli.target import advisor_of, database_option
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, at, milliseconds, verb
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from flask_dbopt.monitor.figures import QueryDetails, QueryFigures
    from flask_dbopt.monitor.monitor import Monitor

_ID = re.compile(r"[0-9a-f]{12}")
_NAMED = re.compile(r"(?<!:)[:@$][A-Za-z_]|%\(")


@verb("explain")
@click.argument("sql")
@click.option(
    "--param",
    "params",
    metavar="V",
    multiple=True,
    help="A value for each ? (or %s, $1) in turn, or name=value for :name.",
)
@database_option
def command(screen: Screen, sql: str, params: tuple[str, ...], database: str | None) -> int:
    """How SQL would run: what is read whole, what an index answers, what is sorted, and why no index helps.

    SQL may be the id of a recorded statement: then its slow runs and changes of its plan are told as well. Nothing
    is run. Exits with 1 when a table is read whole.
    """
    from flask_dbopt.cli import target
    from flask_dbopt.report import as_dict, plain

    optimizer = target.target().optimizer
    recorded = _recorded(optimizer.monitor, sql)
    if recorded is not None:
        sql = recorded.query
        database = database or (recorded.database if recorded.database in optimizer.databases else None)
    one = target.database(optimizer, database)
    advisor = advisor_of(one)
    values = parameters(sql, params)
    plan = advisor.explain(sql, values)
    if plan.problem:
        raise DBOptError(plan.problem, hint="is it one SQL statement, of tables this database has?")
    whole = any(step.reads_whole_table for step in plan.steps)
    words = advisor.explained(sql, values)
    reason = advisor.why_not(sql) if whole else ""
    details = None if recorded is None else optimizer.monitor.details(recorded.id)
    known = {} if recorded is None else {"recorded": plain(recorded), **plain(details)}
    screen.data({"database": one.name, **as_dict(plan), "explained": list(words), "why_not": reason, **known})
    if recorded is not None:
        screen.say(sql)
        screen.say()
    for step in plan.steps:
        screen.say("  " * step.depth + step.detail, style="yellow" if step.reads_whole_table or step.sorts else None)
    screen.say()
    for line in words:
        screen.say(f"• {line}")
    if reason:
        screen.say(f"Why no index: {reason}")
    if recorded is not None and details is not None:
        _tell(screen, recorded, details)
    return FINDING if whole else FINE


def _recorded(monitor: Monitor, given: str) -> QueryFigures | None:
    """The recorded statement with this id, if that is what was given."""
    if not _ID.fullmatch(given):
        return None
    found = monitor.query(given)
    if found is None:
        raise DBOptError(f"no statement {given} is recorded", hint="flask db-opt stats lists their ids")
    return found


def _tell(screen: Screen, query: QueryFigures, details: QueryDetails) -> None:
    """Where a recorded statement comes from, how it was run before, and its slow runs."""
    screen.say()
    if query.place:
        screen.say(f"Comes from {query.place}")
    for plan in details.plans[1:]:
        screen.say(f"Until {at(plan.until)} it was run otherwise:" if plan.until else "It was run otherwise:")
        for line in plan.lines:
            screen.say(f"  • {line}")
    for run in details.slow_runs:
        values = f", with {run.parameters}" if run.parameters else ""
        screen.say(f"Slow at {at(run.at)}: {milliseconds(run.time)} in {run.endpoint or 'no request'}{values}")
        for line in run.stack:
            screen.say(f"    {line}", style="dim")


def parameters(sql: str, given: tuple[str, ...]) -> list[Any] | dict[str, Any]:
    """The values as the database is to see them: numbers where they look like numbers, by name for ``:name``."""
    if _NAMED.search(sql) and all("=" in one for one in given):
        return {name.lstrip(":@$"): _value(text) for name, _, text in (one.partition("=") for one in given)}
    return [_value(text) for text in given]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text == "NULL" else text
