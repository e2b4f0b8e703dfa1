"""``flask db-opt advise``: the indexes worth having, with reasons; applies one when told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flask_dbopt.cli.target import advisor_of, database, database_option, target
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, number, span, verb
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from flask_dbopt.advisor.advisor import Recommendation
    from flask_dbopt.databases import Database
    from flask_dbopt.engines.protocol import Plan


@verb("advise")
@database_option
@click.option("--apply", "chosen", metavar="ID", help="Build this index in the live database, after a backup.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(screen: Screen, database: str | None, chosen: str | None, yes: bool) -> int:
    """Indexes that would help the statements the app really runs, each tried before it is shown.

    Nothing is changed unless you say --apply. Exits with 1 while there is advice.
    """
    one = _database(database)
    found = advisor_of(one).recommend(force=True)
    if chosen is not None:
        return _apply(screen, one, chosen, found, yes)
    from flask_dbopt.report import as_dict

    screen.data({"database": one.name, "recommendations": [as_dict(advice) for advice in found]})
    for advice in found:
        show(screen, advice)
    if not found and advisor_of(one).hindrance():
        screen.say(f"Nothing is advised for {one.name}: {advisor_of(one).hindrance()}.")
    elif not found:
        screen.say(
            f"No index would help {one.name}, as far as its statements were recorded. "
            "`flask db-opt explain SQL` tells about one statement."
        )
    return FINDING if found else FINE


def _database(name: str | None) -> Database:
    return database(target().optimizer, name)


def show(screen: Screen, advice: Recommendation) -> None:
    """One recommendation as a person reads it."""
    screen.say(f"{advice.id}  {advice.sql}", style="bold")
    screen.say(f"  {advice.reason}")
    screen.say(
        f"  {number(advice.rows)} rows; the statements it helps took {span(advice.seconds)} so far:",
        style="dim",
    )
    for query_id, query in zip(advice.query_ids, advice.queries, strict=True):
        screen.say(f"    {query_id}  {query}", style="dim")
    for word, plan in (("today", advice.before), ("with it", advice.after)):
        for line in lines_of(plan):
            screen.say(f"  {word + ':':9}{line}")
    screen.say(f"  Build it: flask db-opt advise --apply {advice.id}")
    screen.say()


def lines_of(plan: Plan) -> list[str]:
    """A plan as the engine says it, indented as it nests."""
    return [plan.problem] if plan.problem else ["  " * step.depth + step.detail for step in plan.steps]


def _apply(screen: Screen, one: Database, chosen: str, found: tuple[Recommendation, ...], yes: bool) -> int:
    advice = next((each for each in found if each.id == chosen), None)
    if advice is None:
        known = ", ".join(each.id for each in found) or "none"
        raise DBOptError(f"there is no advice {chosen!r} for {one.name}", hint=f"there is now: {known}")
    apply(screen, one, advice, yes=yes)
    screen.data({"database": one.name, "applied": advice.id, "sql": advice.sql})
    screen.say(f"Built: {advice.sql}", style="green")
    screen.say(f"Undo:  {undo(advice)}")
    return FINE


def apply(screen: Screen, one: Database, advice: Recommendation, *, yes: bool) -> None:
    """Ask, back up, build the index."""
    waiting = "Writers wait" if one.planner is None or one.planner.writers_wait else "The app goes on"
    screen.confirm(
        f"{advice.sql}\n{waiting} while {number(advice.rows)} rows are indexed. Build it now?",
        yes=yes,
    )
    if one.backups is not None:
        with screen.progress("Backing up first"):
            one.backups.take(label=f"before index {advice.id}")
    with screen.progress("Building the index"):
        advisor_of(one).apply(advice.id)


def undo(advice: Recommendation) -> str:
    """The statement that takes the index away again."""
    words = advice.sql.split()
    return f"DROP INDEX {words[words.index('ON') - 1]}"
