"""The folder a database's backups live in: a Litestream replica, with our catalog beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """One backup that counts. Times are unix seconds, sizes bytes."""

    id: str
    """Readable and unique in its folder: ``20261122-140501-1`` is UTC date, time and transaction number."""
    database: str
    kind: str
    """"snapshot" holds every page, "increment" only what changed, "safety" is the snapshot taken before a restore."""
    label: str | None
    taken_at: float
    pages: int
    page_size: int
    bytes: int
    """What the file takes on disk."""
    source_bytes: int
    """What the database measured: pages × page size."""
    seconds: float
    """Capture and proof together."""
    verified_at: float | None
    """When it last proved; None when it was never checked, or failed its last check."""
    proof: str
    """What the last check found, as a sentence; empty when there was none."""
    path: str
    """The file, inside the database's backup folder."""
    txid: int
