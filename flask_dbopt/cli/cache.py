"""``flask db-opt cache``: what the query caches of all workers do, and how to empty them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flask_dbopt.cli.target import database_option, target
from flask_dbopt.cli.terminal import Screen, length_of_time, number, share, size, span, verb
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from flask_dbopt.databases import Database


@click.group("cache", help="The query cache: figures of all workers, and how to empty it.")
def command() -> None:
    """The query cache."""


@verb("stats")
@click.option(
    "--since",
    callback=length_of_time,
    metavar="1h",
    help="Only the last 30s, 15m, 1h, 7d; else all that is kept.",
)
def stats(screen: Screen, since: float | None) -> None:
    """Hits, misses and size, summed over all workers."""
    import time

    from flask_dbopt.report import as_dict, build

    now = time.time()
    report = build(target().optimizer, since=None if since is None else now - since, now=now)
    cache = report.cache
    screen.data(as_dict(cache))
    screen.table(
        ("Figure", ">Value"),
        [
            ("hit ratio", share(cache.hit_ratio)),
            ("hits", number(cache.hits)),
            ("misses", number(cache.misses)),
            ("results held", f"{number(cache.entries)} of {number(cache.max_entries)}"),
            ("memory", f"{size(cache.bytes)} of {size(cache.max_bytes)}"),
            ("served for at most", span(cache.ttl)),
            ("evicted to make room", number(cache.evictions)),
            ("dropped because the database changed", number(cache.invalidations)),
            ("refused", number(cache.refused)),
            ("workers", number(len(report.workers))),
        ],
        title="Query cache" if cache.enabled else "Query cache (switched off)",
    )


@verb("clear")
@database_option
def clear(screen: Screen, database: str | None) -> None:
    """Make every worker forget its kept results of a database."""
    from flask_dbopt.cli import target as targets

    optimizer = target().optimizer
    one = targets.database(optimizer, database)
    _announce(one)
    optimizer.audit.note("cache.clear", database=one.name, workers="all")
    screen.data({"database": one.name, "cleared": True})
    screen.say(f"Every worker drops its kept results of {one.name} at its next look.")


@verb("invalidate")
@click.argument("tables", metavar="TABLE…", nargs=-1, required=True)
@database_option
def invalidate(screen: Screen, tables: tuple[str, ...], database: str | None) -> None:
    """Make every worker forget the kept results that read these tables."""
    from flask_dbopt.cli import target as targets

    optimizer = target().optimizer
    one = targets.database(optimizer, database)
    known = set(one.planner.tables()) if one.planner is not None else set()
    for table in tables:
        if table.lower() not in known:
            raise DBOptError(f"{one.name} has no table {table!r}", hint=f"it has {', '.join(sorted(known)) or 'none'}")
    _announce(one)
    optimizer.audit.note("cache.invalidate", database=one.name, tables=tables, workers="all")
    screen.data({"database": one.name, "invalidated": list(tables)})
    screen.say(
        f"Every worker drops its kept results of {one.name} at its next look "
        f"(those of other tables than {', '.join(tables)} too: a commit drops all)."
    )


def _announce(one: Database) -> None:
    """Results live in the workers' memory and fall with the next commit; so commit, changing nothing."""
    from flask_dbopt.engines.sqlite import maintenance

    if one.path is None:
        raise DBOptError(f"the cache of {one.name!r} cannot be emptied from another process")
    maintenance.announce(one.path, wait=5.0)


for verb_ in (stats, clear, invalidate):
    command.add_command(verb_)
