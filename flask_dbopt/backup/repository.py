"""The folder a database's backups live in: a Litestream replica, with our catalog beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask_dbopt.backup import ltx
from flask_dbopt.errors import BackupError

CATALOG = "catalog.json"
_LOCK_ATTEMPTS = 5
"""Whoever only asks who is busy holds the lock for microseconds; that must not look like a busy folder."""
FORMAT = 1
"""The catalog's version. A newer one than this is read by nobody here, and changed by nobody here."""


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """One backup that counts. Times are unix seconds, sizes bytes."""

    id: str
    """Readable and unique in its folder: ``20261122-140501-1`` is UTC date, time and transaction number."""
    database: str
    kind: str
    """"snapshot" has every page, "increment" only what changed; "safety" is a snapshot before a restore."""
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A record with what proves it: SHA-256 of the file and of the database it makes; empty if unknown."""

    record: BackupRecord
    digest: str
    content: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the folder knows of itself beyond its files."""

    entries: tuple[Entry, ...] = ()
    coming: Entry | None = None
    """Proved and about to be renamed into place. It counts as soon as its file is there."""
    last_txid: int = 0
    """The highest number ever given, so that none is given twice."""
    damaged: bool = False


class FolderBusy(BackupError):
    """Another process or thread is changing the folder; nothing was started, so nothing failed."""


def backup_id(taken_at: float, txid: int) -> str:
    return f"{datetime.fromtimestamp(taken_at, UTC):%Y%m%d-%H%M%S}-{txid}"


class Repository:
    """One database's backup folder. Reading needs no lock; whoever changes it holds ``changing()``."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database

    @property
    def scratch(self) -> Path:
        """Where databases are restored to be looked at; emptied whenever the folder is changed."""
        return self.folder / ".scratch"

    def files(self) -> tuple[ltx.File, ...]:
        """Every whole file of every level, by name alone."""
        found = []
        for level in range(ltx.SNAPSHOT_LEVEL + 1):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for path in (self.folder / "ltx" / str(level)).iterdir():
                    if span := ltx.parse_name(path.name):
                        found.append(ltx.File(path, level, *span))
        return tuple(sorted(found, key=lambda file: (file.max_txid, file.min_txid, file.level)))

    def entries(self) -> tuple[Entry, ...]:
        """Every backup there is, newest first.

        A file the catalog does not know (put back by hand, or the catalog was lost) counts, unproved;
        a record whose file is gone says so.
        """
        catalog = self._read()
        files = self.files()
        there = {str(file.path): file for file in files}
        known = [*([catalog.coming] if catalog.coming else []), *catalog.entries]
        found = []
        for entry in known:
            if entry.record.path in there:
                found.append(entry)
            elif entry != catalog.coming:
                lost = replace(entry.record, verified_at=None, proof="its file is gone")
                found.append(replace(entry, record=lost))
        named = {entry.record.path for entry in known}
        strange = (self._strange(file) for path, file in there.items() if path not in named)
        found += [each for each in strange if each is not None]
        return tuple(sorted(found, key=lambda entry: (entry.record.taken_at, entry.record.txid), reverse=True))

    def entry(self, backup: str) -> Entry:
        """The backup of this id, or a BackupError that names those there are."""
        entries = self.entries()
        for entry in entries:
            if entry.record.id == backup:
                return entry
        names = ", ".join(entry.record.id for entry in entries[:5])
        hint = f"there are {names}{', …' if len(entries) > 5 else ''}" if entries else "take one: flask db-opt backup"
        raise BackupError(f"no backup {backup!r} in {self.folder}", hint=hint)

    def chain(self, entry: Entry) -> tuple[Path, ...]:
        """The files to restore this backup from, in order."""
        if entry.record.kind != "increment":
            return (Path(entry.record.path),)
        files = ltx.chain(self.files(), entry.record.txid)
        if not files:
            raise BackupError(f"{entry.record.id} lacks files it builds on", hint="restore an older or newer backup")
        return tuple(file.path for file in files)

    def next_txid(self) -> int:
        highest = max((file.max_txid for file in self.files()), default=0)
        return max(highest, self._read().last_txid) + 1

    def place(self, txid: int) -> Path:
        """Where the snapshot with this number goes."""
        return self.folder / "ltx" / str(ltx.SNAPSHOT_LEVEL) / ltx.file_name(1, txid)

    @contextlib.contextmanager
    def changing(self, deed: str, now: float) -> Iterator[int]:
        """Hold the folder against every other process and thread; yields the descriptor a child may inherit.

        What an earlier holder left half-done is swept first. Does not wait: FolderBusy names the holder.
        """
        descriptor = self._lock()
        try:
            os.truncate(descriptor, 0)
            holder = {"pid": os.getpid(), "since": now, "deed": deed}
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            self._sweep()
            yield descriptor
        finally:
            with contextlib.suppress(OSError):
                self._sweep()
            os.close(descriptor)

    def holder(self) -> dict[str, Any] | None:
        """Who is changing the folder right now: pid, since, deed. None when nobody is."""
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                return dict(json.loads(os.pread(descriptor, 4096, 0)))
            return {}
        finally:
            os.close(descriptor)
        return None

    def accept(self, entry: Entry, temporary: Path) -> None:
        """Let a finished, synced file count. Before the rename nothing counts, after it everything."""
        catalog = self._settled()
        self._write(replace(catalog, coming=entry, last_txid=max(catalog.last_txid, entry.record.txid)))
        os.utime(temporary, (entry.record.taken_at,) * 2)  # Litestream's point-in-time restore goes by this
        temporary.rename(entry.record.path)
        sync_folder(Path(entry.record.path).parent)
        with contextlib.suppress(OSError):  # it counts already; the next change tidies this
            self._write(self._settled())

    def update(self, record: BackupRecord) -> None:
        """Note what a later check found."""
        catalog = self._settled()
        known = any(entry.record.id == record.id for entry in catalog.entries)
        entries = [
            replace(entry, record=record) if entry.record.id == record.id else entry for entry in catalog.entries
        ]
        self._write(replace(catalog, entries=tuple(entries if known else [*entries, Entry(record, "", "")])))

    def remove(self, records: Sequence[BackupRecord]) -> None:
        """Delete files, then forget them. A death in between leaves records that say their file is gone."""
        for record in records:
            Path(record.path).unlink(missing_ok=True)
        gone = {record.id for record in records}
        catalog = self._settled()
        self._write(replace(catalog, entries=tuple(e for e in catalog.entries if e.record.id not in gone)))

    def _lock(self) -> int:
        try:
            for folder in (self.folder.parent, self.folder, self.place(1).parent):
                if not folder.exists():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    if folder == self.folder.parent:
                        (folder / ".gitignore").write_text("*\n")
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BackupError(
                f"cannot write to the backup folder {self.folder}: {error.strerror}",
                hint="set DBOPT_BACKUP_DIR to a folder this user may write to",
            ) from error
        for _ in range(_LOCK_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            time.sleep(0.01)
        os.close(descriptor)
        raise self._busy()

    def _busy(self) -> FolderBusy:
        holder = self.holder() or {}
        who = f"process {holder['pid']}" if "pid" in holder else "another process"
        since = f" since {time.strftime('%H:%M:%S', time.localtime(holder['since']))}" if "since" in holder else ""
        deed = holder.get("deed", "change its backups")
        return FolderBusy(
            f"{who} is busy{since}: {deed} of {self.database!r}",
            hint="wait until it is done; nothing was started",
        )

    def _sweep(self) -> None:
        """What a dead process left. Only under the lock: nobody else is writing."""
        for stale in self.folder.glob("ltx/*/*.tmp"):
            stale.unlink(missing_ok=True)
        (self.folder / f"{CATALOG}.tmp").unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _settled(self) -> Catalog:
        """The catalog with the backup that was coming either arrived or forgotten."""
        catalog = self._read()
        if catalog.damaged:
            (self.folder / CATALOG).rename(self.folder / f"{CATALOG}.damaged-{time.time_ns()}")
        coming = catalog.coming
        if coming and Path(coming.record.path).exists():
            catalog = replace(catalog, entries=(*catalog.entries, coming))
        return replace(catalog, coming=None, damaged=False)

    def _strange(self, file: ltx.File) -> Entry | None:
        """A file without a record. Increments (Litestream's own, say) are parts of a chain, not backups."""
        if file.level != ltx.SNAPSHOT_LEVEL:
            return None
        unread, size = "found without a record, not checked yet", file.path.stat()
        header = ltx.Header(0, 0, file.min_txid, file.max_txid, size.st_mtime)
        try:
            header = ltx.read_header(file.path)
        except (BackupError, OSError) as error:
            unread = str(error)
        record = BackupRecord(
            id=backup_id(header.timestamp, file.max_txid),
            database=self.database,
            kind="snapshot",
            label=None,
            taken_at=header.timestamp,
            pages=header.pages,
            page_size=header.page_size,
            bytes=size.st_size,
            source_bytes=header.pages * header.page_size,
            seconds=0.0,
            verified_at=None,
            proof=unread,
            path=str(file.path),
            txid=file.max_txid,
        )
        return Entry(record, "", "")

    def _read(self) -> Catalog:
        path = self.folder / CATALOG
        try:
            kept = json.loads(path.read_bytes())
            if kept["format"] > FORMAT:
                raise BackupError(
                    f"{path} was written by a newer version of this package",
                    hint="upgrade it; nothing was changed",
                )
            entries = tuple(self._entry(each) for each in kept["backups"])
            coming = self._entry(kept["coming"]) if kept["coming"] else None
            return Catalog(entries, coming, int(kept["last_txid"]))
        except (FileNotFoundError, NotADirectoryError):
            return Catalog()
        except OSError as error:
            raise BackupError(f"cannot read {path}: {error.strerror}", hint="check its owner and mode") from error
        except (ValueError, KeyError, TypeError):
            return Catalog(damaged=True)

    def _write(self, catalog: Catalog) -> None:
        kept = {
            "format": FORMAT,
            "database": self.database,
            "last_txid": catalog.last_txid,
            "coming": self._kept(catalog.coming) if catalog.coming else None,
            "backups": [self._kept(entry) for entry in catalog.entries],
        }
        temporary = self.folder / f"{CATALOG}.tmp"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            json.dump(kept, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(self.folder / CATALOG)
        sync_folder(self.folder)

    def _kept(self, entry: Entry) -> dict[str, Any]:
        path = Path(entry.record.path).relative_to(self.folder)
        return {**asdict(entry.record), "path": str(path), "digest": entry.digest, "content": entry.content}

    def _entry(self, kept: dict[str, Any]) -> Entry:
        known = {field.name: kept[field.name] for field in fields(BackupRecord)}
        path = self.folder / kept["path"]
        if Path(kept["path"]).parts[0] != "ltx" or ltx.parse_name(path.name) is None or ".." in path.parts:
            raise ValueError(f"{kept['path']} is no place for a backup")
        return Entry(BackupRecord(**{**known, "path": str(path)}), kept["digest"], kept["content"])


def sync_folder(folder: Path) -> None:
    """A rename lasts only once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
