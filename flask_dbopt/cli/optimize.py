"""``flask db-opt optimize``: statistics, checkpoint, index advice and configuration, in one go."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli import checks
from flask_dbopt.cli.advise import apply, show, undo
from flask_dbopt.cli.target import advisor_of, target
from flask_dbopt.cli.target import database as named
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, number, size, verb
from flask_dbopt.deeds import DONE, FAILED
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from flask_dbopt.advisor.advisor import Advisor, Recommendation
    from flask_dbopt.databases import Database
    from flask_dbopt.optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Deed:
    """Something to be done to a database: what it is called, what it means, and how to do it."""

    name: str
    meaning: str
    do: Callable[[], str]


@verb("optimize")
@click.option("--database", metavar="NAME", help="Only this database; else all of them.")
@click.option("--apply", "build", is_flag=True, help="Build the advised indexes too, after a backup.")
@click.option("--vacuum", is_flag=True, help="Rewrite the file without its free pages; writers wait meanwhile.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(screen: Screen, database: str | None, build: bool, vacuum: bool, dry_run: bool, yes: bool) -> int:
    """Bring the planner's statistics up to date, move the WAL into the file, and say what else would help.

    Indexes are built and files rewritten only when you say --apply and --vacuum. Exits with 1 while advice
    or a problem is left.
    """
    from flask_dbopt.cli.doctor import findings

    who = target()
    optimizer = who.optimizer
    chosen = [named(optimizer, database)] if database else list(optimizer.databases.values())
    files = [(one, one.path) for one in chosen if one.path is not None]
    if not files:
        raise DBOptError("there is no SQLite file to optimize", hint="set DBOPT_DATABASE, or attach an engine")
    told: list[dict[str, Any]] = []
    left = 0
    for one, path in files:
        screen.say(one.name, style="bold")
        done = [_perform(screen, deed, dry_run, yes) for deed in _deeds(optimizer, one, path, vacuum)]
        for told_of in done if not dry_run else ():
            outcome = DONE if told_of["done"] else FAILED
            optimizer.audit.note("database.optimize", outcome, database=one.name, **_some(told_of, "name", "result"))
        advice = _advice(screen, one, build, dry_run, yes)
        left += sum(not each["applied"] for each in advice)
        told.append({"database": one.name, "deeds": done, "recommendations": advice})
    found = [each for each in findings(who) if each.level != checks.OK]
    if found:
        screen.say("Configuration", style="bold")
    for each in found:
        about = f"{each.check} ({each.database})" if each.database else each.check
        screen.say(f"  {about}: {each.message}", style="red" if each.level == checks.PROBLEM else "yellow")
        if each.hint:
            screen.say(f"    {each.hint}", style="dim")
    from flask_dbopt.report import as_dict

    screen.data({"dry_run": dry_run, "databases": told, "findings": [as_dict(each) for each in found]})
    return FINDING if left or checks.has_problem(found) else FINE


def _some(told: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: told[name] for name in names}


def _deeds(optimizer: Optimizer, one: Database, path: Path, vacuum: bool) -> list[Deed]:
    """What is to be done to one file, in this order."""
    from flask_dbopt.engines.sqlite import maintenance

    wait = max(5.0, optimizer.settings.sqlite_busy_timeout)
    condition = maintenance.condition(path)

    def analyze() -> str:
        return "; ".join(maintenance.analyze(path, wait=wait))

    def checkpoint() -> str:
        done = maintenance.checkpoint(path, wait=wait)
        return f"{number(done.moved)} of {number(done.frames)} pages moved"

    def rewrite() -> str:
        return f"{size(maintenance.vacuum(path, wait=wait))} given back"

    deeds = [Deed("analyze", "statistics for the planner", analyze)]
    if vacuum:
        meaning = f"rewrite {size(condition.bytes)}, of which {size(condition.free_bytes)} are free"
        deeds.insert(0, Deed("vacuum", meaning, rewrite))
    if condition.journal_mode == "wal":
        deeds.append(Deed("checkpoint", f"move the WAL ({size(condition.wal_bytes)}) into the file", checkpoint))
    return deeds


def _perform(screen: Screen, deed: Deed, dry_run: bool, yes: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": deed.name, "meaning": deed.meaning, "done": False, "result": ""}
    if dry_run:
        screen.say(f"  would {deed.name}: {deed.meaning}")
        return told
    if deed.name == "vacuum":
        screen.confirm(f"Vacuum: {deed.meaning}; writers wait until it is done. Go on?", yes=yes)
    try:
        with screen.progress(deed.name.capitalize()):
            told |= {"result": deed.do(), "done": True}
    except sqlite3.OperationalError as error:
        # Somebody else is at work on the file; the other deeds do not depend on this one.
        told["result"] = f"not done: {error}"
    screen.say(f"  {deed.name}: {told['result']}", style=None if told["done"] else "yellow")
    return told


def _one_by_one(advisor: Advisor) -> Iterator[Recommendation]:
    """The best advice, and once it is followed the best that is left: an index may make others needless."""
    followed: set[str] = set()
    while True:
        left = (each for each in advisor.recommend(force=True) if each.id not in followed)
        best = next(left, None)
        if best is None:
            return
        followed.add(best.id)
        yield best


def _advice(screen: Screen, one: Database, build: bool, dry_run: bool, yes: bool) -> list[dict[str, Any]]:
    from flask_dbopt.report import as_dict

    if one.advisor is None:
        return []
    applied = build and not dry_run
    told = []
    for advice in _one_by_one(advisor_of(one)) if applied else advisor_of(one).recommend(force=True):
        if applied:
            apply(screen, one, advice, yes=yes)
            screen.say(f"  built: {advice.sql} (undo: {undo(advice)})", style="green")
        else:
            show(screen, advice)
        told.append({**as_dict(advice), "applied": applied})
    if not told:
        screen.say("  no index would help, as far as statements were recorded")
    return told
