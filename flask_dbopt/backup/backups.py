"""The backup room's front: take, list, verify, restore and prune the backups of one database."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flask_dbopt.backup import errand
from flask_dbopt.backup.repository import BackupRecord, Entry, FolderBusy, Repository, backup_id
from flask_dbopt.backup.restore import Restored, check_target, choose, put
from flask_dbopt.backup.retention import Decision, Policy, plan_retention
from flask_dbopt.deeds import deed
from flask_dbopt.engines.protocol import Snapshotter
from flask_dbopt.errors import BackupError, DBOptError, RestoreError
from flask_dbopt.signals import Emit, silence

log = logging.getLogger("flask_dbopt.backup")

_SPARE = 4 << 20
_SLOWEST = 4e6
"""Bytes a second below which we no longer wait for a disk, beyond the first minute."""


class Backups:
    """The backups of one database, in ``<directory>/<name>``. Any process may take one, one at a time.

    ``snapshotter`` is the engine's window; ``live`` tells whether its database may be restored into.
    """

    def __init__(
        self,
        name: str,
        snapshotter: Snapshotter,
        directory: Path,
        *,
        retention_days: float = 30,
        keep_weekly: int = 0,
        keep_monthly: int = 0,
        compression: bool = True,
        verify: bool = True,
        emit: Emit = silence,
        clock: Callable[[], float] = time.time,
        live: bool = True,
        time_limit: float | None = None,
    ) -> None:
        self.name = name
        self.folder = Path(directory).absolute() / name
        self.live = live
        self.policy = Policy(retention_days, keep_weekly, keep_monthly)
        self._snapshotter = snapshotter
        self._repository = Repository(self.folder, name)
        self._compression = compression
        self._verify_each = verify
        self._emit = emit
        self._clock = clock
        self._time_limit = time_limit

    def list(self) -> tuple[BackupRecord, ...]:
        """Every backup, newest first; BackupError when a newer version of the package wrote the folder."""
        return tuple(entry.record for entry in self._repository.entries())

    def busy(self) -> Mapping[str, Any] | None:
        """Who is taking, checking or restoring now, in any process: pid, since, deed. None when nobody is."""
        return self._repository.holder()

    def due_at(self, interval_hours: float, now: float) -> float:
        """When the next ordinary backup is due, unix seconds: ``now`` where there is none, or one of the future."""
        ordinary = [record for record in self.list() if record.kind != "safety" and not _failed(record)]
        if not ordinary or ordinary[0].taken_at > now:
            return now
        return ordinary[0].taken_at + interval_hours * 3600

    def is_due(self, interval_hours: float, now: float) -> bool:
        """Whether the newest ordinary backup is older than the interval."""
        return self.due_at(interval_hours, now) <= now

    @deed("backup.take", told={"full": "full", "label": "label"}, found=lambda record: _told(record))
    def take(self, full: bool = False, label: str | None = None, *, verify: bool | None = None) -> BackupRecord:
        """Take one, prove it, let it count, and remove what the policy no longer keeps.

        Every backup is a full snapshot so far, whatever ``full`` says. After a BackupError all is as it was.
        """
        try:
            with self._repository.changing("a backup", self._clock()) as lock:
                self._emit("backup_started", database=self.name)
                proving = self._verify_each if verify is None else verify
                record = self._take("snapshot", label, lock, proving=proving)
                if doomed := [each for each in self._plan() if not each.keep and each.point.id != record.id]:
                    self._remove(doomed)
        except FolderBusy:
            raise
        except DBOptError as error:
            log.error("backup of %s failed: %s", self.name, error)  # noqa: TRY400
            self._emit("backup_failed", database=self.name, error=error)
            raise
        except OSError as error:
            told = errand.explain(error)
            log.error("backup of %s failed: %s", self.name, told)  # noqa: TRY400
            self._emit("backup_failed", database=self.name, error=told)
            raise told from error
        log.info(
            "backup %s of %s: %d bytes in %.1f s; %s",
            record.id,
            self.name,
            record.bytes,
            record.seconds,
            record.proof,
        )
        self._emit("backup_finished", database=self.name, backup=record)
        return record

    @deed("backup.verify", told={"id": "backup"}, found=lambda record: _told(record))
    def verify(self, id: str, thorough: bool = False) -> BackupRecord:  # noqa: A002
        """Prove it again: restore to scratch, compare, let the engine check; BackupError when it fails.

        The outcome is noted in the catalog either way.
        """
        entry = self._repository.entry(id)
        if not os.access(self.folder, os.W_OK):
            raise BackupError(
                f"cannot write to {self.folder}, where the backup would be restored for a look",
                hint="restore it to a file elsewhere: that checks it too",
            )
        with self._repository.changing("a check", self._clock()) as lock:
            self._check_space(self.folder, entry.record.source_bytes, "checking it")
            try:
                proof = self._stage(entry, lock, self._scratch(thorough=thorough))
                if proof["faults"]:
                    raise self._damaged_before(proof)
            except BackupError as error:
                failed = replace(entry.record, verified_at=None, proof=str(error.args[0]))
                self._repository.update(failed)
                log.error("backup %s of %s does not prove: %s", id, self.name, error)  # noqa: TRY400
                raise
            record = replace(entry.record, verified_at=self._clock(), proof=proof["sentence"])
            self._repository.update(record)
        log.info("backup %s of %s proves: %s", id, self.name, record.proof)
        return record

    @deed("backup.restore", told={"id_or_time": "wanted", "to": "to"}, found=lambda done: _told_of_restore(done))
    def restore(
        self, id_or_time: str | float | datetime = "latest", to: Path | None = None, dry_run: bool = False
    ) -> Restored:
        """Into the live database through its engine (others go on undisturbed), or ``to`` a new file.

        Staged and checked in full before anything is touched; a dry run stops there. Before the live database
        is written its state is backed up, and proved: the way back. After a RestoreError all is as it was.
        """
        entry = self._chosen(id_or_time)
        started, target = time.monotonic(), self.name if to is None else str(to)
        safety: BackupRecord | None = None
        try:
            if to is None:
                safety, faults = self._restore_live(entry, dry_run)
            else:
                faults = self._restore_to(entry, Path(to).absolute(), dry_run)
        except RestoreError:
            raise
        except DBOptError as error:
            raise RestoreError(str(error.args[0]), hint=error.hint) from error
        except OSError as error:
            told = errand.explain(error)
            raise RestoreError(str(told.args[0]), hint=told.hint) from error
        done = Restored(entry.record, target, safety, time.monotonic() - started, dry_run, tuple(faults))
        if not dry_run:
            log.warning("backup %s of %s was restored to %s", entry.record.id, self.name, target)
            self._emit("restore_finished", database=self.name, backup=entry.record, target=target)
        return done

    def prune(self, dry_run: bool = False) -> tuple[Decision, ...]:
        """Remove what the policy no longer keeps; each decision has its reason. A dry run only tells."""
        if dry_run or not self.folder.exists():
            return self._plan()
        with self._repository.changing("a clean-up", self._clock()):
            decisions = self._plan()
            self._remove([each for each in decisions if not each.keep])
        return decisions

    def _plan(self) -> tuple[Decision, ...]:
        return plan_retention(self.list(), self.policy, self._clock())

    @deed("backup.prune", found=lambda removed: {"removed": removed})
    def _remove(self, decisions: Sequence[Decision]) -> Sequence[str]:
        if decisions:
            self._repository.remove([each.point for each in decisions])
        for each in decisions:
            log.info("backup %s of %s was removed: %s", each.point.id, self.name, each.reason)
        return [each.point.id for each in decisions]

    def _take(self, kind: str, label: str | None, lock: int, *, proving: bool, damaged: bool = False) -> BackupRecord:
        """Under the folder's lock. ``damaged``: a faithful copy of a damaged database counts, unproved."""
        started, taken_at = time.monotonic(), round(self._clock(), 3)
        size = self._snapshotter.size()
        self._check_space(self.folder, size * (2 if proving else 1), "a backup")
        txid = self._repository.next_txid()
        place = self._repository.place(txid)
        temporary = place.with_name(f"{place.name}.tmp")
        job: dict[str, Any] = {
            "capture": str(temporary),
            "txid": txid,
            "taken_at": taken_at,
            "compression": self._compression,
            **(self._scratch(thorough=False) if proving else {}),
        }
        answer = self._run(job, size, lock)
        captured, proof = answer["captured"], answer.get("proof")
        if proof and proof["faults"] and not damaged:
            raise self._damaged_before(proof)
        proved = bool(proof and not proof["faults"])
        record = BackupRecord(
            id=backup_id(taken_at, txid),
            database=self.name,
            kind=kind,
            label=label,
            taken_at=taken_at,
            pages=captured["pages"],
            page_size=captured["page_size"],
            bytes=captured["bytes"],
            source_bytes=captured["pages"] * captured["page_size"],
            seconds=time.monotonic() - started,
            verified_at=self._clock() if proved else None,
            proof=proof["sentence"] if proof else "",
            path=str(place),
            txid=txid,
        )
        self._repository.accept(Entry(record, captured["digest"], captured["content"]), temporary)
        return record

    def _chosen(self, wish: str | float | datetime) -> Entry:
        entries = self._repository.entries()
        record = choose([entry.record for entry in entries], wish)
        return next(entry for entry in entries if entry.record.id == record.id)

    def _restore_to(self, entry: Entry, target: Path, dry_run: bool) -> Sequence[str]:
        check_target(target)
        self._check_space(target.parent, entry.record.source_bytes, "restoring it")
        staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            proof = self._stage(entry, None, {"scratch": str(staged), "thorough": False, "sync": True})
            if not dry_run:
                put(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        faults: Sequence[str] = proof["faults"]
        return faults

    def _restore_live(self, entry: Entry, dry_run: bool) -> tuple[BackupRecord | None, Sequence[str]]:
        if not self.live:
            raise RestoreError("no live database was named", hint="restore with --to, or give --database")
        with self._repository.changing("a restore", self._clock()) as lock:
            self._check_space(self.folder, entry.record.source_bytes, "restoring it")
            scratch = self._scratch(thorough=False)
            staged = Path(scratch["scratch"])
            faults = self._stage(entry, lock, scratch)["faults"]
            if faults and entry.record.kind != "safety":  # a safety backup is the way back, whatever it holds
                raise RestoreError(f"its database is damaged: {faults[0]}", hint="restore with --to and repair it")
            if dry_run:
                return None, faults
            kept = staged.rename(staged.with_name("staged"))
            safety = self._safety(lock)
            self._snapshotter.load(kept, deadline=self._limit(entry.record.source_bytes))
        return safety, faults

    def _safety(self, lock: int) -> BackupRecord | None:
        try:
            self._snapshotter.size()
        except BackupError:
            return None  # there is no database: nothing to lose
        label = "before a restore"
        return self._take("safety", label, lock, proving=True, damaged=True)

    def _scratch(self, *, thorough: bool) -> dict[str, Any]:
        return {"scratch": str(self._repository.scratch / "database"), "thorough": thorough, "sync": False}

    def _stage(self, entry: Entry, lock: int | None, scratch: Mapping[str, Any]) -> dict[str, Any]:
        job = {
            "files": [str(path) for path in self._repository.chain(entry)],
            "digest": entry.digest,
            "content": entry.content,
            **scratch,
        }
        proof: dict[str, Any] = self._run(job, entry.record.source_bytes, lock)["proof"]
        return proof

    def _run(self, job: Mapping[str, Any], size: int, lock: int | None) -> dict[str, Any]:
        recipe = self._snapshotter.recipe()
        return errand.run({"recipe": recipe, **job}, limit=self._limit(size), lock=lock)

    def _limit(self, size: int) -> float:
        return self._time_limit if self._time_limit is not None else 60 + size / _SLOWEST

    def _check_space(self, folder: Path, needed: int, deed: str) -> None:
        free = shutil.disk_usage(folder).free
        if free < needed + _SPARE:
            raise BackupError(
                f"{deed} may need {_megabytes(needed)} in {folder}, and {_megabytes(free)} are free",
                hint="free disk space, or point DBOPT_BACKUP_DIR at a larger disk",
            )

    def _damaged_before(self, proof: Mapping[str, Any]) -> BackupError:
        first = "; ".join(proof["faults"][:3])
        return BackupError(
            f"the copy is faithful, but the database itself is damaged: {first}",
            hint="restore the last backup that proved: flask db-opt backups",
        )


def open_folder(
    directory: Path, *, name: str | None = None, snapshotter: Snapshotter, live: bool = False, **options: Any
) -> Backups:
    """The backups in ``directory`` without an app: a backup folder, or one database's folder within it.

    ``name`` chooses a database where there are several. ``live``: restores may go into the snapshotter's own.
    """
    directory = Path(directory).absolute()
    if (directory / "ltx").is_dir() and name in (None, directory.name):
        return Backups(directory.name, snapshotter, directory.parent, live=live, **options)
    found = sorted(path.parent.name for path in directory.glob("*/ltx"))
    chosen = name or (found[0] if len(found) == 1 else "default" if "default" in found else None)
    if chosen not in found:
        listed = ", ".join(found) or "none"
        raise BackupError(
            f"{directory} has no backups of {name or 'one single database'}",
            hint=f"databases there: {listed}; name one of them, or give its own folder",
        )
    return Backups(chosen, snapshotter, directory, live=live, **options)


def _told(record: BackupRecord) -> dict[str, Any]:
    return {"backup": record.id, "proved": record.verified_at is not None}


def _told_of_restore(done: Restored) -> dict[str, Any]:
    safety = {} if done.safety is None else {"safety": done.safety.id}
    return {"backup": done.record.id, "target": done.target, **safety}


def _failed(record: BackupRecord) -> bool:
    return record.verified_at is None and bool(record.proof)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
