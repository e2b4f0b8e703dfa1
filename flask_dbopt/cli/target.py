"""Whom a verb talks to: the app, its optimizer, one of its databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.errors import ConfigurationError, DBOptError

if TYPE_CHECKING:
    from flask import Flask

    from flask_dbopt.advisor.advisor import Advisor
    from flask_dbopt.backup.backups import Backups
    from flask_dbopt.databases import Database
    from flask_dbopt.optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Target:
    """The app that ``flask`` found, and its optimizer."""

    app: Flask
    optimizer: Optimizer


def target() -> Target:
    """The app of this ``flask`` command, loaded now; DBOptError when it has no optimizer."""
    from flask.cli import ScriptInfo

    context = click.get_current_context()
    info = context.ensure_object(ScriptInfo)
    try:
        app = info.load_app()
    except ConfigurationError:
        raise
    except click.UsageError as error:
        raise DBOptError(error.message, hint="say which app: flask --app MODULE db-opt …") from error
    except Exception as error:
        raise DBOptError(
            f"the app could not be loaded: {type(error).__name__}: {error}",
            hint="flask --debug db-opt … shows where; a restore works without the app: "
            "flask db-opt restore latest --database FILE --backup-dir FOLDER",
        ) from error
    optimizer = app.extensions.get("dbopt")
    if optimizer is None:
        raise DBOptError(f"the app {app.name!r} has no optimizer", hint="give it one: DBOptimizer(app)")
    context.with_resource(app.app_context())
    return Target(app, optimizer)


def database_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--database NAME`` for verbs that deal with one database at a time."""
    return click.option("--database", metavar="NAME", help="Which database; else the default one.")(function)


def database(optimizer: Optimizer, name: str | None) -> Database:
    """The database called ``name``, or the default one."""
    databases = optimizer.databases
    if not databases:
        raise DBOptError(
            "the app has no database that the optimizer knows",
            hint="set DBOPT_DATABASE, or attach an engine",
        )
    if name is None:
        return next(iter(databases.values()))
    if name not in databases:
        raise DBOptError(f"there is no database {name!r}", hint=f"known are: {', '.join(databases)}")
    return databases[name]


def backups_of(one: Database) -> Backups:
    """The backups of a database; raises when it has none."""
    if one.backups is None:
        raise DBOptError(
            f"the database {one.name!r} has no backups",
            hint="databases in memory and servers are not backed up from here",
        )
    return one.backups


def advisor_of(one: Database) -> Advisor:
    """The advisor of a database; raises when it has none."""
    if one.advisor is None:
        raise DBOptError(
            f"there is no index advice for the database {one.name!r}",
            hint="only SQLite files are explained so far",
        )
    return one.advisor
