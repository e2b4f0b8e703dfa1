"""``flask db-opt audit``: who did what, and whether the log of it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import click

from flask_dbopt.audit.audit import Audit
from flask_dbopt.audit.chain import Entry, Head, Verdict, worded
from flask_dbopt.cli.terminal import FINDING, FINE, Screen, at, length_of_time, verb
from flask_dbopt.deeds import DONE
from flask_dbopt.errors import DBOptError


@verb("audit")
@click.option("--limit", type=click.IntRange(1), metavar="N", default=20, show_default=True, help="How many entries.")
@click.option("--since", callback=length_of_time, metavar="7d", help="Only the last 30s, 15m, 1h, 7d.")
@click.option("--deed", default="", metavar="NAME", help="Only deeds whose names begin so, such as backup or admin.")
@click.option("--verify", is_flag=True, help="Only check the chain, and name every broken line.")
@click.option("--head", is_flag=True, help="Only print the newest entry's place and hash, to be kept elsewhere.")
@click.option("--anchor", metavar="HEAD", help="A head that you have kept: it must still be in the chain.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="This audit log, instead of the app's; then no app is needed.",
)
def command(
    screen: Screen,
    limit: int,
    since: float | None,
    deed: str,
    verify: bool,
    head: bool,
    anchor: str | None,
    file: Path | None,
) -> int:
    """The newest entries of the audit log, after its chain was checked line by line.

    Exits with 1 where the chain is broken: an entry was changed, removed or moved. That the newest entries
    were cut off shows only against a head that is kept elsewhere: print one with --head, check it with --anchor.
    """
    import time

    if verify and head:
        raise click.UsageError("--verify and --head are two things; say one at a time.")
    audit = _of_app() if file is None else Audit(file)
    try:
        verdict = audit.verdict(None if anchor is None else _anchor(anchor))
        earliest = None if since is None else time.time() - since
        entries = [] if verify or head else list(islice(audit.entries(since=earliest, deed=deed), limit))
    except OSError as error:
        raise DBOptError(
            f"{audit.path} cannot be read: {error.strerror or error}", hint="run this as the app's user"
        ) from error
    screen.data({"file": None if audit.path is None else str(audit.path), **told(verdict, entries)})
    if head:
        screen.say(str(verdict.head) if verdict.head is not None else "There is no entry yet.")
        return FINE if verdict.intact else FINDING
    if entries:
        columns = ("Entry", "At", "Deed", "By", "About")
        screen.table(columns, [(one.seq, at(one.at), named(one), listed(one.who), listed(one.what)) for one in entries])
    for fault in verdict.faults[1:]:
        screen.say(f"  {fault}", style="red")
    sentence = str(verdict)
    screen.say(f"{sentence[:1].upper()}{sentence[1:]}.", style="green" if verdict.intact else "red")
    return FINE if verdict.intact else FINDING


def _of_app() -> Audit:
    from flask_dbopt.cli.target import target

    audit = target().optimizer.audit
    if audit.path is None:
        raise DBOptError(
            "this app has no place for an audit log",
            hint="set DBOPT_LOG_DIR or DBOPT_STATE_DIR; an app under TESTING writes nothing by itself",
        )
    return audit


def _anchor(text: str) -> Head:
    seq, _, digest = text.strip().partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        raise click.UsageError(f"{text!r} is no head; flask db-opt audit --head prints one, as 12:3f5a…")
    return Head(int(seq), digest.lower())


def told(verdict: Verdict, entries: list[Entry]) -> dict[str, Any]:
    """The answer in JSON's types."""
    return {
        "intact": verdict.intact,
        "entries_checked": verdict.entries,
        "chain": verdict.chain,
        "head": None if verdict.head is None else str(verdict.head),
        "torn": verdict.torn,
        "faults": [{"file": one.file, "line": one.line, "message": one.message} for one in verdict.faults],
        "entries": [one.told() for one in entries],
    }


def named(entry: Entry) -> str:
    """The deed, and how it ended if not well."""
    return entry.deed if entry.outcome == DONE else f"{entry.deed} ({entry.outcome})"


def listed(about: Mapping[str, Any]) -> str:
    """Names and values on a line."""
    return ", ".join(worded(value) if name == "by" else f"{name} {worded(value)}" for name, value in about.items())
