"""The proof of a backup: restore it to scratch, compare with what went in, let the engine look."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_dbopt.backup import ltx
from flask_dbopt.engines.protocol import Snapshotter
from flask_dbopt.errors import BackupError

_HINT = "restore another backup, and take a new one: flask db-opt backup --full"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a restore to scratch showed."""

    sentence: str
    faults: tuple[str, ...]
    """The engine's complaints about a copy that is faithful: then the database itself was damaged already."""
    pages: int
    page_size: int
    content: str


def prove(
    snapshotter: Snapshotter,
    files: Sequence[Path],
    target: Path,
    *,
    digest: str,
    content: str,
    thorough: bool,
    sync: bool,
) -> Proof:
    """Restore ``files`` to the new file ``target`` and check it; the caller keeps or deletes it.

    ``digest`` and ``content`` are SHA-256 of the last file and of the database, empty where unknown.
    ``sync`` makes the result last; scratch needs none.
    Raises BackupError when a file is damaged or something else came out than went in.
    """
    target.unlink(missing_ok=True)
    try:
        header, digests = ltx.unpack(files, target, sync=sync)
    except FileNotFoundError as error:
        raise BackupError(f"{Path(error.filename).name} is gone", hint=_HINT) from error
    name = files[-1].name
    if digest and digests[-1] != digest:
        raise BackupError(f"{name} is not the file that was written", hint=_HINT)
    with target.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if content and found != content:
        raise BackupError(f"{name} restores to something else than was backed up", hint=_HINT)
    faults = snapshotter.check(target, thorough=thorough)
    check = "integrity_check" if thorough else "quick_check"
    sameness = "content hash equal" if content else "checksums right (its content hash was never recorded)"
    return Proof(
        sentence=f"restored {header.pages:,} pages, {sameness}, {check} {'found faults' if faults else 'ok'}",
        faults=faults,
        pages=header.pages,
        page_size=header.page_size,
        content=found,
    )
