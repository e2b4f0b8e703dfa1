"""The folder and its catalog: what is listed, what is lost, what is found again."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flask_dbopt.backup import repository
from flask_dbopt.backup.backups import Backups
from flask_dbopt.backup.repository import Entry, Repository
from flask_dbopt.errors import BackupError

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]
DAY = 86400.0


def test_a_backup_is_listed_with_all_a_person_wants_to_know(build: Build, room: Room) -> None:
    build(100).close()
    noon = 1795348800.0
    told: list[tuple[str, object]] = []
    backups = room(clock=lambda: noon, emit=lambda name, **details: told.append((name, details)))
    record = backups.take(label="before the move")
    assert backups.list() == (record,)
    assert record.id == "20261122-120000-1"
    assert (record.database, record.kind, record.label) == ("default", "snapshot", "before the move")
    assert (record.taken_at, record.verified_at, record.txid) == (noon, noon, 1)
    assert record.bytes == Path(record.path).stat().st_size
    assert record.proof == f"restored {record.pages:,} pages, content hash equal, quick_check ok"
    assert [name for name, _ in told] == ["backup_started", "backup_finished", "deed_done"]
    assert told[1][1] == {"database": "default", "backup": record}


def test_only_its_owner_may_read_a_backup_and_git_leaves_it_alone(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    path = Path(room().take().path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(room().folder.stat().st_mode) == 0o700
    assert (tmp_path / "backups" / ".gitignore").read_text() == "*\n"


def test_a_backup_without_proof_says_so_until_it_is_verified(build: Build, room: Room) -> None:
    build(10).close()
    backups = room(verify=False)
    record = backups.take()
    assert (record.verified_at, record.proof) == (None, "")
    assert backups.take(verify=True).verified_at is not None
    assert backups.verify(record.id).verified_at is not None
    assert all(each.verified_at is not None for each in backups.list())


def test_a_lost_catalog_is_made_up_from_the_files(build: Build, room: Room) -> None:
    build(10).close()
    backups = room()
    before = [backups.take(), backups.take()]
    (backups.folder / "catalog.json").unlink()
    found = backups.list()
    assert [each.id for each in found] == [before[1].id, before[0].id]
    assert {each.proof for each in found} == {"found without a record, not checked yet"}
    verified = backups.verify(found[0].id)
    assert "its content hash was never recorded" in verified.proof
    assert backups.list()[0] == verified
    assert backups.take().txid == 3


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', "[]", '{"format": 1, "last_txid": 0, "backups": [{}]}'])
def test_a_damaged_catalog_is_set_aside_never_deleted(build: Build, room: Room, text: str) -> None:
    build(10).close()
    backups = room()
    backups.take()
    (backups.folder / "catalog.json").write_text(text)
    assert len(backups.list()) == 1
    backups.take()
    assert len(backups.list()) == 2
    aside = list(backups.folder.glob("catalog.json.damaged-*"))
    assert [each.read_text() for each in aside] == [text]


def test_a_catalog_that_points_out_of_its_folder_is_damaged(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    backups = room()
    backups.take()
    precious = tmp_path / "0000000000000001-0000000000000001.ltx"
    precious.write_text("not ours")
    path = backups.folder / "catalog.json"
    kept = json.loads(path.read_text())
    kept["backups"][0].update(path="ltx/../../../" + precious.name, taken_at=0.0)
    path.write_text(json.dumps(kept))
    backups.prune()
    assert precious.exists()
    assert len(backups.list()) == 1


def test_a_catalog_of_a_newer_version_is_left_alone(build: Build, room: Room) -> None:
    build(10).close()
    backups = room()
    backups.take()
    path = backups.folder / "catalog.json"
    path.write_text('{"format": 2}')
    for deed in (backups.list, backups.take, backups.prune):
        with pytest.raises(BackupError, match="written by a newer version"):
            deed()
    assert path.read_text() == '{"format": 2}'


def test_a_file_that_was_deleted_by_hand_is_missed(build: Build, room: Room) -> None:
    build(10).close()
    backups = room()
    record = backups.take()
    Path(record.path).unlink()
    assert backups.list()[0].proof == "its file is gone"
    assert backups.list()[0].verified_at is None
    with pytest.raises(BackupError, match="is gone"):
        backups.verify(record.id)


def test_a_file_of_others_that_is_no_backup_is_listed_as_what_it_is(build: Build, room: Room) -> None:
    build(10).close()
    backups = room()
    backups.take()
    strange = backups.folder / "ltx" / "9" / "0000000000000001-0000000000000009.ltx"
    strange.write_text("nonsense " * 30)
    increment = backups.folder / "ltx" / "0" / "0000000000000002-0000000000000002.ltx"
    increment.parent.mkdir()
    increment.write_text("somebody else's")
    listed = backups.list()
    assert [each.txid for each in listed if each.path == str(strange)] == [9]
    assert "is no LTX file" in next(each for each in listed if each.txid == 9).proof
    assert len(listed) == 2
    assert backups.take().txid == 10


def test_an_increment_is_restored_from_its_snapshot_on_and_refused_when_a_part_is_gone(
    build: Build, room: Room
) -> None:
    build(10).close()
    record = room().take()
    folder = Repository(room().folder, "default")
    part = folder.folder / "ltx" / "0" / "0000000000000002-0000000000000003.ltx"
    part.parent.mkdir()
    part.touch()
    entry = Entry(replace(record, kind="increment", path=str(part), txid=3), "", "")
    assert folder.chain(entry) == (Path(record.path), part)
    part.unlink()
    with pytest.raises(BackupError, match="lacks files it builds on"):
        folder.chain(entry)


def test_a_busy_folder_is_no_failed_backup(build: Build, room: Room) -> None:
    build(10).close()
    told: list[str] = []
    backups = room(emit=lambda name, **details: told.append(name))
    backups.take()
    with Repository(backups.folder, "default").changing("a test", 0.0), pytest.raises(BackupError, match="is busy"):
        backups.take()
    assert [name for name in told if name != "deed_done"] == ["backup_started", "backup_finished"]


def test_a_catalog_that_cannot_be_read_is_said(build: Build, room: Room) -> None:
    build(10).close()
    room().take()
    (room().folder / "catalog.json").unlink()
    (room().folder / "catalog.json").mkdir()
    with pytest.raises(BackupError, match=r"cannot read .*catalog\.json") as caught:
        room().list()
    assert caught.value.hint


def test_an_unknown_id_is_answered_with_those_there_are(build: Build, room: Room) -> None:
    build(10).close()
    with pytest.raises(BackupError, match="no backup 'x'") as caught:
        room().verify("x")
    assert "flask db-opt backup" in caught.value.hint
    ids = [room().take().id for _ in range(2)]
    with pytest.raises(BackupError, match="no backup 'x'") as caught:
        room().verify("x")
    assert ids[-1] in caught.value.hint
    assert ids[0] in caught.value.hint


def test_a_death_between_rename_and_catalog_loses_nothing(
    build: Build, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(10).close()
    backups = room()
    renamed: list[Path] = []

    def die(folder: Path) -> None:
        real(folder)
        if folder.name == "9":
            renamed.append(folder)
            raise KeyboardInterrupt

    real = repository.sync_folder
    monkeypatch.setattr(repository, "sync_folder", die)
    with pytest.raises(KeyboardInterrupt):
        backups.take()
    monkeypatch.undo()
    assert renamed
    (record,) = backups.list()
    assert record.verified_at is not None
    backups.take()
    assert backups.list()[1] == record


def test_a_death_before_the_rename_counts_for_nothing(
    build: Build, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(10).close()
    backups = room()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "utime", die)
    with pytest.raises(KeyboardInterrupt):
        backups.take()
    monkeypatch.undo()
    assert backups.list() == ()
    record = backups.take()
    assert backups.list() == (record,)
    assert record.txid == 2  # a number is never given twice


def test_old_backups_go_with_the_next_one_and_a_dry_run_only_tells(build: Build, room: Room) -> None:
    build(10).close()
    now = time.time()
    clock = [now - 40 * DAY]
    backups = room(clock=lambda: clock[0], retention_days=30)
    old = backups.take()
    clock[0] = now - 35 * DAY
    second = backups.take()
    clock[0] = now
    plan = backups.prune(dry_run=True)
    assert [(each.point.id, each.keep) for each in plan] == [(second.id, True), (old.id, False)]
    assert len(backups.list()) == 2
    third = backups.take()
    assert backups.list() == (third,)
    assert not Path(old.path).exists()
    assert [each.keep for each in backups.prune()] == [True]


def test_prune_removes_what_the_policy_does_not_keep(build: Build, room: Room) -> None:
    build(10).close()
    assert room().prune() == ()
    clock = [0.0]
    backups = room(clock=lambda: clock[0], retention_days=1)
    first = backups.take()
    clock[0] = DAY / 2
    second = backups.take()
    clock[0] = 1.8 * DAY
    assert [(each.point.id, each.keep) for each in backups.prune()] == [(second.id, True), (first.id, False)]
    assert backups.list() == (second,)


def test_a_backup_is_due_after_the_interval_and_a_safety_backup_does_not_count(build: Build, room: Room) -> None:
    build(10)
    clock = [1_800_000_000.0]
    backups = room(clock=lambda: clock[0])
    assert backups.is_due(24, clock[0])
    backups.take()
    assert not backups.is_due(24, clock[0] + 23 * 3600)
    clock[0] += 25 * 3600
    backups.restore()
    assert backups.list()[0].kind == "safety"
    assert backups.is_due(24, clock[0])
    assert backups.is_due(24, clock[0] - 100 * DAY)


def test_whoever_asks_who_is_busy_is_never_taken_for_busy(tmp_path: Path) -> None:
    folder = Repository(tmp_path / "backups" / "default", "default")
    assert folder.holder() is None
    with folder.changing("a test", 12.5):
        assert folder.holder() == {"pid": os.getpid(), "since": 12.5, "deed": "a test"}
        (folder.folder / ".lock").write_text("")
        assert folder.holder() == {}
        with pytest.raises(BackupError, match="another process is busy: change its backups of 'default'"):
            folder.changing("another", 0.0).__enter__()
    assert folder.holder() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_still_restores_to_a_file(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    record = room().take()
    folder = room().folder
    folder.chmod(0o500)
    try:
        with pytest.raises(BackupError, match="cannot write"):
            room().take()
        with pytest.raises(BackupError, match="cannot write"):
            room().verify(record.id)
        room().restore(record.id, to=tmp_path / "out.db")
    finally:
        folder.chmod(0o700)
