"""What a doctor looks at: facts in, findings with hints out. Decides only; the verb reads the facts."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_dbopt.audit.chain import Verdict
from flask_dbopt.cli.terminal import size, span
from flask_dbopt.engines.sqlite import maintenance
from flask_dbopt.monitor.lookout import LostUpdate

if TYPE_CHECKING:
    from flask_dbopt.report import Guarded

OK, NOTE, PROBLEM = "ok", "note", "problem"
"""How a check ends. A note is something to know; only a problem makes the exit code 1."""

_REMOTE = (
    "nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "gpfs", "vboxsf", "davfs",
    "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse",
)  # fmt: skip
_FLEETING = ("tmpfs", "ramfs", "overlay")

#: Seconds for which updates that may be lost are worth a finding.
LOST_LATELY = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome; ``hint`` says what to do and is empty when there is nothing to do."""

    check: str
    level: str
    message: str
    hint: str = ""
    database: str | None = None


def tuning(database: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Finding:
    """Whether a live connection is tuned as the settings say."""
    off = maintenance.deviations(found, wanted)
    if off:
        told = ", ".join(f"{name} is {have}, not {want}" for name, (have, want) in off.items())
        hint = "the app sets it itself (then say so in DBOPT_SQLITE_PRAGMAS), or the database was held meanwhile"
        return Finding("pragmas", PROBLEM, told, hint, database)
    told = ", ".join(f"{name}={found[name]}" for name in wanted if name in found)
    return Finding("pragmas", OK, told, database=database)


def durability(database: str, found: Mapping[str, Any]) -> Finding:
    """What a power cut could do: NORMAL is safe in WAL mode only."""
    mode, level = str(found.get("journal_mode", "")).lower(), str(found.get("synchronous", ""))
    if level == "0":
        told, hint = "synchronous is OFF: a power cut can corrupt the database", "set synchronous to NORMAL"
    elif level == "1" and mode not in ("wal", "memory"):
        told = f"synchronous is NORMAL with journal_mode {mode}: a power cut can corrupt the database"
        hint = "use journal_mode WAL, or synchronous FULL"
    else:
        told = "every commit is on disk before it is acknowledged"
        if level == "1":
            told = "a power cut may undo the last commits, never corrupt (synchronous=NORMAL in WAL mode)"
        return Finding("durability", OK, told, database=database)
    return Finding("durability", PROBLEM, told, f"{hint} in DBOPT_SQLITE_PRAGMAS", database)


def sqlite_library(version: tuple[int, ...]) -> Finding:
    """Whether the SQLite library has a known danger."""
    danger = maintenance.sqlite_danger(version)
    if danger:
        hint = "use a Python with SQLite 3.51.3 or newer; until then our own checkpoints hold the writer's lock"
        return Finding("sqlite", NOTE, danger, hint)
    return Finding("sqlite", OK, f"SQLite {'.'.join(map(str, version))}")


def wal(database: str, wal_bytes: int, limit: int) -> Finding:
    """Whether the write-ahead log stays within bounds."""
    if wal_bytes > limit:
        hint = "a reader may hold an old state open; when it has ended: flask db-opt optimize"
        told = f"the WAL has {size(wal_bytes)}, over the limit of {size(limit)}"
        return Finding("wal", PROBLEM, told, hint, database)
    return Finding("wal", OK, f"{size(wal_bytes)} in the WAL", database=database)


def file_system(database: str, kind: str | None) -> Finding:
    """Whether the file lies where locks and shared memory work."""
    if kind is None:
        told = "this system does not say which file system the database is on"
        return Finding("file system", NOTE, told, database=database)
    if kind.startswith(_REMOTE):
        told = f"the database is on a network file system ({kind}), where WAL mode and locks are not reliable"
        return Finding("file system", PROBLEM, told, "move it to a local disk", database)
    if kind in _FLEETING:
        told = f"the database is on {kind}: it may not outlive the machine or the container"
        return Finding("file system", NOTE, told, "keep it on a volume", database)
    return Finding("file system", OK, f"on {kind}", database=database)


def disk(database: str, folder: Path, free: int, needed: int) -> Finding:
    """Whether there is room for the next backup and its proof."""
    if free < needed:
        told = f"{size(free)} free in {folder}, {size(needed)} needed for the next backup"
        return Finding("disk", PROBLEM, told, "make room, or set DBOPT_BACKUP_DIR to a larger disk", database)
    return Finding("disk", OK, f"{size(free)} free in {folder}", database=database)


def backup_age(database: str, newest: float | None, proved: float | None, every_hours: float, now: float) -> Finding:
    """Whether there is a backup, young enough, and proved."""
    if newest is None:
        return Finding("backup", PROBLEM, "there is no backup yet", "flask db-opt backup", database)
    age = now - newest
    if age > every_hours * 3600 * 1.5:
        told = f"the last backup is {span(age)} old, though one is due every {every_hours:g} h"
        hint = "flask db-opt backup takes one now; flask db-opt worker keeps them coming without traffic"
    elif proved is None:
        told = f"the last backup ({span(age)} old) was never proved"
        hint = "flask db-opt backups --verify all"
    else:
        told = f"the last one is {span(age)} old and was proved {span(max(0.0, now - proved))} ago"
        return Finding("backup", OK, told, database=database)
    return Finding("backup", PROBLEM, told, hint, database)


def schedule(enabled: bool, holder: Mapping[str, Any] | None, problem: str, every_hours: float) -> Finding:
    """Whether some process does the scheduled work."""
    if problem:
        return Finding("scheduler", PROBLEM, f"no process can hold the lease: {problem}", "mend that folder")
    if holder is None:
        hint = "a worker takes it at its first request; where requests are rare: flask db-opt worker"
        return Finding("scheduler", NOTE, "no process holds the lease, so nothing runs on schedule now", hint)
    told = f"process {holder['pid']} holds the lease"
    if not enabled:
        return Finding("scheduler", NOTE, f"{told}; scheduled backups are off", "set DBOPT_BACKUP_ENABLED=1")
    return Finding("scheduler", OK, f"{told}; a backup every {every_hours:g} h")


def admin(enabled: bool, token: bool, debug: bool, url: str) -> Finding:
    """Who can open the admin page."""
    if not enabled:
        return Finding("admin page", OK, "switched off")
    if token:
        return Finding("admin page", OK, f"{url} opens with the token")
    if debug:
        hint = "set DBOPT_ADMIN_TOKEN before it goes live"
        return Finding("admin page", NOTE, f"{url} is open to this machine alone, in debug mode", hint)
    hint = "set DBOPT_ADMIN_TOKEN"
    return Finding("admin page", NOTE, f"{url} is closed, unless the app has a hook of its own", hint)


def audit(path: Path | None, verdict: Verdict | None, problem: str) -> Finding:
    """Whether the audit log is whole, and can be written."""
    if verdict is None or problem:
        return Finding("audit log", PROBLEM, f"{path}: {problem}", "let the app's user read and write it")
    if not verdict.intact:
        hint = "somebody changed it; compare it with a copy, and with heads that you have kept elsewhere"
        return Finding("audit log", PROBLEM, f"{path}: {verdict}", hint)
    return Finding("audit log", OK, f"{path}: {verdict}")


def limits(workers: int, connections: int, allowed: int) -> Finding:
    """Whether a worker may open as many files as its pools can ask for."""
    # A connection in WAL mode holds the database, -wal and -shm; the rest of a web worker needs some 64.
    most = connections * 3 + 64
    now = "1 worker" if workers == 1 else f"{workers} workers"
    told = f"{connections} connections × 3 files: up to {most:,} open files a worker, {allowed:,} allowed; {now} now"
    if most > allowed:
        return Finding("limits", PROBLEM, told, "lower DBOPT_POOL_MAX, or raise the limit (ulimit -n)")
    return Finding("limits", OK, told)


def lost_update(lost: LostUpdate, now: float) -> Finding:
    """A request that wrote what another commit had changed since it read it."""
    other = lost.other or "work outside requests"
    told = (
        f"{lost.endpoint} read the table {lost.table}, {other} changed it, and then {lost.endpoint} wrote it"
        f" ({span(max(0.0, now - lost.at))} ago): an update may be lost"
    )
    hint = 'set DBOPT_SQLITE_TRANSACTIONS="immediate", or put both into one `with dbopt.transaction()`'
    return Finding("transactions", NOTE, told, hint, lost.database)


def statistics(database: str, analyzed: bool) -> Finding:
    """Whether the planner knows how the values are spread."""
    if analyzed:
        return Finding("statistics", OK, "the planner has statistics", database=database)
    told = "the planner has no statistics, so it guesses which index is best"
    return Finding("statistics", NOTE, told, "flask db-opt optimize", database)


def state(folder: Path | None) -> Finding:
    """Whether figures outlive the process."""
    if folder is None:
        hint = "set DBOPT_STATE_DIR to a folder that can be written"
        return Finding("state folder", NOTE, "figures are kept in memory only", hint)
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        told = f"{folder} cannot be written, so figures stay in memory"
        return Finding("state folder", PROBLEM, told, "let the app's user write there, or set DBOPT_STATE_DIR")
    return Finding("state folder", OK, str(folder))


def guard(mode: str, found: Sequence[Guarded]) -> Finding:
    """Whether values of requests have been changing statements."""
    suspected = [one for one in found if one.verdict == "suspected"]
    if suspected:
        places = ", ".join(dict.fromkeys(one.place or one.endpoint for one in suspected[:5]))
        told = f"values of requests changed {_statements(suspected)} in a week: {places}"
        hint = 'pass values as parameters there; DBOPT_MONITOR_GUARD = "block" refuses such statements'
        return Finding("guard", PROBLEM, told, hint)
    if any(one.count for one in found):
        return Finding("guard", NOTE, f"{_statements(found)} refused in a week", "flask db-opt stats names them")
    if mode == "off":
        return Finding("guard", NOTE, "nobody looks for injections", 'set DBOPT_MONITOR_GUARD to "log" or "block"')
    return Finding("guard", OK, "no value of a request changed a statement in a week")


def _statements(found: Iterable[Guarded]) -> str:
    count = sum(one.count for one in found)
    return "1 statement" if count == 1 else f"{count:,} statements"


def has_problem(findings: Iterable[Finding]) -> bool:
    """Whether any of them is one."""
    return any(one.level == PROBLEM for one in findings)


def allowed_files() -> int:
    """How many files one process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def file_system_of(path: Path, mounts: str | None = None) -> str | None:
    """The kind of file system that holds ``path``, from Linux's table of mounts; None where there is none."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    real, depth, kind = path.resolve(), -1, None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        words = left.split()
        if len(words) < 5 or not right:
            continue
        point = Path(words[4].replace("\\040", " "))
        if real.is_relative_to(point) and len(point.parts) >= depth:  # a later mount covers an earlier one
            depth, kind = len(point.parts), right.split()[0]
    return kind
