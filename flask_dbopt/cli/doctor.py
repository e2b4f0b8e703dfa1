"""``flask db-opt doctor``: everything that could go wrong, looked at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_dbopt.audit.audit import Audit
from flask_dbopt.cli import checks
from flask_dbopt.cli.checks import Finding
from flask_dbopt.cli.target import Target, target
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, verb
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from flask_dbopt.databases import Database

_LOOKS = {checks.OK: ("✓", "green"), checks.NOTE: ("•", "yellow"), checks.PROBLEM: ("✗", "red")}


@verb("doctor")
def command(screen: Screen) -> int:
    """Look at connections, SQLite, files, disk, backups, schedule and access; say what to do about it.

    Exits with 1 when there is a problem; notes are only worth knowing.
    """
    from flask_dbopt.report import as_dict

    found = list(findings(target()))
    screen.data({"healthy": not checks.has_problem(found), "findings": [as_dict(one) for one in found]})
    for one in found:
        sign, color = _LOOKS[one.level]
        about = f"{one.check} ({one.database})" if one.database else one.check
        screen.say(f"{sign} {about}: {one.message}", style=color if one.level != checks.OK else None)
        if one.hint:
            screen.say(f"    {one.hint}", style="dim")
    problems = sum(one.level == checks.PROBLEM for one in found)
    screen.say()
    screen.say(f"{problems or 'no'} problem{'' if problems == 1 else 's'}", style="red" if problems else "green")
    return FINDING if problems else FINE


def findings(who: Target) -> Iterator[Finding]:
    """Every check of an app and its databases, in the order they are told."""
    optimizer, settings = who.optimizer, who.optimizer.settings
    yield checks.sqlite_library(sqlite3.sqlite_version_info)
    if not settings.enabled:
        yield Finding("optimizer", checks.NOTE, "switched off", "set DBOPT_ENABLED=1")
    if not optimizer.databases:
        yield Finding("databases", checks.PROBLEM, "none is known", "set DBOPT_DATABASE, or attach an engine")
    for one in optimizer.databases.values():
        if one.path is not None:
            yield from _of_file(who, one, one.path)
    yield checks.limits(
        len(optimizer.monitor.workers()),
        sum(pool.stats().pool_max for one in optimizer.databases.values() for pool in list(one.pools)),
        checks.allowed_files(),
    )
    for lost in optimizer.monitor.lost_updates(time.time() - checks.LOST_LATELY):
        yield checks.lost_update(lost, time.time())
    yield from _of_guard(who)
    yield checks.state(optimizer.state_dir)
    yield checks.schedule(
        settings.backup_enabled,
        optimizer.lease.holder(),
        optimizer.lease.problem,
        settings.backup_interval_hours,
    )
    yield checks.admin(settings.admin_enabled, settings.admin_token is not None, who.app.debug, settings.admin_url)
    for path in {optimizer.audit.path, optimizer.backup_dir / "audit.log"}:
        if path is not None and (path == optimizer.audit.path or path.exists()):
            yield _of_audit(optimizer.audit if path == optimizer.audit.path else Audit(path))
    for notice in optimizer.notices():
        yield Finding("optimizer", checks.NOTE, notice)


def _of_guard(who: Target) -> Iterator[Finding]:
    from flask_dbopt.report import guarded

    since = time.time() - checks.LOST_LATELY
    with suppress(OSError):  # the check of the audit log tells
        found = guarded(who.optimizer, who.optimizer.monitor.counters(since), since)
        yield checks.guard(who.optimizer.settings.monitor_guard, found)


def _of_audit(audit: Audit) -> Finding:
    try:
        verdict = audit.verdict()
    except OSError as error:
        return checks.audit(audit.path, None, str(error))
    path = audit.path
    there = next((each for each in (path, *path.parents) if each.exists()), None) if path is not None else None
    problem = "" if there is None or os.access(there, os.W_OK) else "it cannot be written"
    return checks.audit(path, verdict, problem)


def _of_file(who: Target, one: Database, path: Path) -> Iterator[Finding]:
    """The checks of one SQLite file."""
    from flask_dbopt.engines.sqlite import maintenance

    settings = who.optimizer.settings
    if not path.exists():
        hint = "the app creates it at first use, or DBOPT_DATABASE names another place"
        yield Finding("file", checks.PROBLEM, f"{path} does not exist", hint, one.name)
        return
    try:
        found = live_pragmas(one)
        condition = maintenance.condition(path)
    except (DBOptError, sqlite3.Error) as error:
        hint = error.hint if isinstance(error, DBOptError) else ""
        yield Finding("file", checks.PROBLEM, str(error.args[0] if error.args else error), hint, one.name)
    else:
        yield checks.tuning(one.name, found, settings.sqlite_pragmas)
        yield checks.durability(one.name, found)
        yield checks.wal(one.name, condition.wal_bytes, settings.sqlite_wal_limit)
        yield checks.statistics(one.name, condition.analyzed)
    yield checks.file_system(one.name, checks.file_system_of(path))
    if one.backups is not None and settings.backup_enabled:
        yield from _of_backups(who, one, path)


def _of_backups(who: Target, one: Database, path: Path) -> Iterator[Finding]:
    assert one.backups is not None  # noqa: S101 - the caller looked
    folder = next(each for each in (one.backups.folder, *one.backups.folder.parents) if each.exists())
    # A backup and the scratch copy that proves it.
    yield checks.disk(one.name, folder, shutil.disk_usage(folder).free, 2 * path.stat().st_size)
    try:
        newest = next((record for record in one.backups.list() if record.kind != "safety"), None)
    except DBOptError as error:
        yield Finding("backup", checks.PROBLEM, str(error.args[0]), error.hint, one.name)
        return
    yield checks.backup_age(
        one.name,
        None if newest is None else newest.taken_at,
        None if newest is None else newest.verified_at,
        who.optimizer.settings.backup_interval_hours,
        time.time(),
    )


def live_pragmas(one: Database) -> dict[str, Any]:
    """The PRAGMAs of a connection as the app gets it, lent by the pool."""
    from flask_dbopt.engines.sqlite import maintenance
    from flask_dbopt.engines.sqlite.connector import Arguments
    from flask_dbopt.engines.sqlite.limits import ours

    if one.pool is None:
        raise DBOptError(f"{one.name} has no pool to ask")
    connection = one.pool.lend(Arguments(), borrower="flask db-opt doctor")
    try:
        with ours(connection):
            return maintenance.pragmas(connection)
    finally:
        connection.close()
