"""``flask db-opt explain``: how the database would run one statement, in words."""

from __future__ import annotations

from typing import Any

import click

from flask_dbopt.cli.target import advisor_of, database_option
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, verb
from flask_dbopt.errors import DBOptError


@verb("explain")
@click.argument("sql")
@click.option(
    "--param",
    "params",
    metavar="V",
    multiple=True,
    help="A value for each ? in turn, or name=value for :name.",
)
@database_option
def command(screen: Screen, sql: str, params: tuple[str, ...], database: str | None) -> int:
    """How SQL would run: what is read whole, what an index answers, what is sorted, and why no index helps.

    Nothing is run. Exits with 1 when a table is read whole.
    """
    from flask_dbopt.cli import target
    from flask_dbopt.report import as_dict

    one = target.database(target.target().optimizer, database)
    advisor = advisor_of(one)
    plan = advisor.explain(sql, parameters(sql, params))
    if plan.problem:
        raise DBOptError(plan.problem, hint="is it one SQL statement, of tables this database has?")
    whole = any(step.reads_whole_table for step in plan.steps)
    words = advisor.explained(sql)
    reason = advisor.why_not(sql) if whole else ""
    screen.data({"database": one.name, **as_dict(plan), "explained": list(words), "why_not": reason})
    for step in plan.steps:
        screen.say("  " * step.depth + step.detail, style="yellow" if step.reads_whole_table or step.sorts else None)
    screen.say()
    for line in words:
        screen.say(f"• {line}")
    if reason:
        screen.say(f"Why no index: {reason}")
    return FINDING if whole else FINE


def parameters(sql: str, given: tuple[str, ...]) -> list[Any] | dict[str, Any]:
    """The values as SQLite is to see them: numbers where they look like numbers, by name for ``:name``."""
    if given and "?" not in sql and all("=" in one for one in given):
        return {name.lstrip(":@$"): _value(text) for name, _, text in (one.partition("=") for one in given)}
    return [_value(text) for text in given]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text == "NULL" else text
