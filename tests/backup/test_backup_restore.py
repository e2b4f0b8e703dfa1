"""Restores: into the live database while others use it, to a file, and back again."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flask_dbopt.backup.backups import Backups, open_folder
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.backup.restore import choose
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter
from flask_dbopt.errors import BackupError, RestoreError

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
seen = []
while True:
    connection.execute("BEGIN")
    first = connection.execute("SELECT count(*), total(length(text)) FROM word").fetchone()
    again = connection.execute("SELECT count(*), total(length(text)) FROM word NOT INDEXED").fetchone()
    state = connection.execute("SELECT state FROM era").fetchone()[0]
    connection.execute("COMMIT")
    assert first == again, (first, again)
    entry = [state, *first]
    if entry not in seen:
        seen.append(entry)
        print(entry, flush=True)
"""

WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
print("writing", flush=True)
for number in range(10**9):
    connection.execute("INSERT INTO log (n) VALUES (?)", (number,))
    time.sleep(0.001)
"""


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def words(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM word").fetchone()[0]
    return count


@pytest.fixture
def eras(build: Build) -> sqlite3.Connection:
    """A database whose content says which state it is in."""
    connection = build(20000)
    connection.execute("CREATE TABLE era AS SELECT 'old' AS state")
    connection.execute("CREATE TABLE log (n INTEGER)")
    return connection


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_others_go_on_through_a_live_restore_and_see_the_old_or_the_new_state_only(
    eras: sqlite3.Connection, room: Room, tmp_path: Path, mode: str
) -> None:
    eras.execute(f"PRAGMA journal_mode={mode}")
    backups = room()
    record = backups.take()
    eras.execute("BEGIN")
    eras.execute("UPDATE era SET state = 'new'")
    eras.execute("UPDATE word SET text = text || ' and more' WHERE id > 100")
    eras.execute("COMMIT")
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "app.db"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script in (READER, READER, WRITER)
    ]
    writer = others[2]
    told: list[list[str]] = [[], [], []]

    def listen() -> None:
        for other, lines in zip(others, told, strict=True):
            assert other.stdout is not None
            lines.append(other.stdout.readline()[2:5])

    try:
        listen()
        done = backups.restore(record.id)
        for _ in range(200):
            eras.execute("INSERT INTO log VALUES (-1)")
        del others[2:], told[2:]
        listen()
        assert [other.poll() for other in others] == [None, None]
    finally:
        writer.kill()
        errors = [writer.communicate()[1]]
        for other in others:
            other.kill()
            errors.append(other.communicate()[1])
    assert errors == [""] * len(errors)
    assert told == [["new", "old"]] * 2
    assert eras.execute("SELECT state FROM era").fetchone() == ("old",)
    assert eras.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert eras.execute("SELECT count(*) FROM log").fetchone()[0] > 0
    assert (done.record, done.target, done.faults) == (record, "default", ())
    assert done.safety is not None
    assert done.safety.kind == "safety"


def test_the_state_before_a_restore_was_backed_up_and_can_be_put_back(build: Build, room: Room, tmp_path: Path) -> None:
    told: list[str] = []
    connection = build(100)
    backups = room(emit=lambda name, **details: told.append(name))
    record = backups.take()
    connection.execute("DELETE FROM word")
    before = dump(tmp_path / "app.db")
    safety = backups.restore("latest").safety
    assert words(connection) == 100
    assert safety is not None
    assert safety.label == "before a restore"
    assert safety.verified_at is not None
    backups.restore(safety.id)
    assert dump(tmp_path / "app.db") == before
    assert [name for name in told if name != "deed_done"] == [
        "backup_started",
        "backup_finished",
        "restore_finished",
        "restore_finished",
    ]
    assert choose(backups.list(), "latest") == record


def test_a_restore_to_a_file_leaves_the_live_database_alone(build: Build, room: Room, tmp_path: Path) -> None:
    connection = build(100)
    record = room().take()
    state = connection.serialize()
    connection.execute("DELETE FROM word")
    done = room().restore(record.id, to=tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == state
    assert words(connection) == 0
    assert done.safety is None
    assert done.target == str(tmp_path / "out.db")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))) == ["out.db"]


def test_a_dry_run_checks_everything_and_changes_nothing(build: Build, room: Room, tmp_path: Path) -> None:
    connection = build(100)
    backups = room()
    backups.take()
    connection.execute("DELETE FROM word")
    state = connection.serialize()
    assert backups.restore(dry_run=True).dry_run
    assert backups.restore(dry_run=True, to=tmp_path / "out.db").dry_run
    assert connection.serialize() == state
    assert not (tmp_path / "out.db").exists()
    assert len(backups.list()) == 1


def test_a_target_that_cannot_be_is_refused_before_any_work(build: Build, room: Room, tmp_path: Path) -> None:
    build(10)
    room().take()
    (tmp_path / "there.db").touch()
    for target, message in (("there.db", "exists"), ("no/where.db", "there is no folder")):
        with pytest.raises(RestoreError, match=message) as caught:
            room().restore(to=tmp_path / target)
        assert caught.value.hint


def test_a_restore_of_a_damaged_file_is_refused_and_the_live_database_untouched(build: Build, room: Room) -> None:
    connection = build(1000)
    record = room().take()
    connection.execute("DELETE FROM word WHERE id > 10")
    state = connection.serialize()
    flip(Path(record.path), 2000)
    with pytest.raises(RestoreError) as caught:
        room().restore(record.id)
    assert "damaged" in str(caught.value) or "not the file" in str(caught.value)
    assert connection.serialize() == state
    assert len(room().list()) == 1


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 0x10]))


def test_a_backup_that_holds_a_damaged_database_goes_to_a_file_only(build: Build, room: Room, tmp_path: Path) -> None:
    with closing(build(3000, mode="delete")) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'word'").fetchone()[0]
    sound = (tmp_path / "app.db").read_bytes()
    with (tmp_path / "app.db").open("r+b") as stream:
        stream.seek((root - 1) * 4096 + 8)
        stream.write(b"\xff" * 200)
    record = room().take(verify=False)
    (tmp_path / "app.db").write_bytes(sound)
    with pytest.raises(RestoreError, match="its database is damaged") as caught:
        room().restore(record.id)
    assert "--to" in caught.value.hint
    with pytest.raises(BackupError, match="the database itself is damaged"):
        room().verify(record.id)
    assert (tmp_path / "app.db").read_bytes() == sound
    assert room().restore(record.id, to=tmp_path / "out.db").faults


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(
    build: Build, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(10).close()
    room().take()
    monkeypatch.setattr("flask_dbopt.backup.backups.check_target", lambda target: target.touch())
    with pytest.raises(RestoreError, match="exists by now"):
        room().restore(to=tmp_path / "out.db")
    assert (tmp_path / "out.db").stat().st_size == 0


def test_a_file_system_without_hard_links_will_do(
    build: Build, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    connection = build(10)
    room().take()
    monkeypatch.setattr("os.link", refuse)
    room().restore(to=tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == connection.serialize()


def test_a_disk_that_fills_up_while_restoring_is_said(
    build: Build, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    build(10).close()
    room().take()
    monkeypatch.setattr("flask_dbopt.backup.backups.put", fill_up)
    with pytest.raises(RestoreError, match="No space left on device") as caught:
        room().restore(to=tmp_path / "out.db")
    assert "free disk space" in caught.value.hint
    assert not list(tmp_path.glob("*out.db*"))


def test_flipped_bytes_are_found_by_verify_wherever_they_are(build: Build, room: Room) -> None:
    build(200).close()
    backups = room()
    record = backups.take()
    path = Path(record.path)
    for place in (5, 104, record.bytes // 2, record.bytes - 3):
        flip(path, place)
        with pytest.raises(BackupError) as caught:
            backups.verify(record.id)
        failed = backups.list()[0]
        assert (failed.verified_at, failed.proof) == (None, str(caught.value.args[0]))
        assert backups.is_due(24, failed.taken_at + 1)
        flip(path, place)
    assert backups.verify(record.id).verified_at is not None
    assert "integrity_check ok" in backups.verify(record.id, thorough=True).proof
    assert backups.list()[0].proof.endswith("integrity_check ok")


def test_a_missing_live_database_is_made_again(build: Build, room: Room, tmp_path: Path) -> None:
    build(100, mode="delete").close()
    before = dump(tmp_path / "app.db")
    room().take()
    (tmp_path / "app.db").unlink()
    assert room().restore().safety is None
    assert dump(tmp_path / "app.db") == before


def test_a_live_file_that_is_no_database_is_refused_with_the_way_out(build: Build, room: Room, tmp_path: Path) -> None:
    build(100, mode="delete").close()
    room().take()
    (tmp_path / "app.db").write_text("garbage " * 1000)
    with pytest.raises(RestoreError, match="file is not a database") as caught:
        room().restore()
    assert "--to FILE" in caught.value.hint
    assert (tmp_path / "app.db").read_text() == "garbage " * 1000


def test_a_damaged_live_database_is_kept_unproved_and_replaced(build: Build, room: Room, tmp_path: Path) -> None:
    with closing(build(3000, mode="delete")) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'word'").fetchone()[0]
        sound = words(connection)
    room().take()
    with (tmp_path / "app.db").open("r+b") as stream:
        stream.seek((root - 1) * 4096 + 8)
        stream.write(b"\xff" * 200)
    damaged = (tmp_path / "app.db").read_bytes()
    safety = room().restore().safety
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert words(connection) == sound
    assert safety is not None
    assert safety.verified_at is None
    assert "found faults" in safety.proof
    done = room().restore(safety.id, to=tmp_path / "again.db")
    assert done.faults
    assert (tmp_path / "again.db").read_bytes() == damaged


def test_another_page_size_waits_until_nobody_has_the_database_open(build: Build, room: Room, tmp_path: Path) -> None:
    build(500, page_size=1024).close()
    record = room().take()
    for path in tmp_path.glob("app.db*"):
        path.unlink()
    with closing(build(3, page_size=4096)) as connection:
        with pytest.raises(RestoreError, match="pages have 4096 bytes, those of the backup 1024") as caught:
            room().restore(record.id)
        assert "stop every process" in caught.value.hint
        assert words(connection) == 3
    room().restore(record.id)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert words(connection) == 500
        assert connection.execute("PRAGMA page_size").fetchone() == (1024,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_without_a_live_database_a_restore_needs_a_file(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    room().take()
    nowhere = SQLiteSnapshotter(tmp_path / "none.db")
    for folder in (tmp_path / "backups", tmp_path / "backups" / "default"):
        backups = open_folder(folder, snapshotter=nowhere)
        with pytest.raises(RestoreError, match="no live database was named"):
            backups.restore()
        backups.restore(to=tmp_path / f"{folder.name}.db")
        assert backups.verify(backups.list()[0].id).verified_at is not None


def test_a_folder_of_several_databases_wants_a_name(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    snapshotter = SQLiteSnapshotter(tmp_path / "app.db")
    for name in ("users", "shop"):
        Backups(name, snapshotter, tmp_path / "backups").take()
    with pytest.raises(BackupError, match="no backups of one single database") as caught:
        open_folder(tmp_path / "backups", snapshotter=snapshotter)
    assert "shop, users" in caught.value.hint
    with pytest.raises(BackupError, match="no backups of other"):
        open_folder(tmp_path / "backups", name="other", snapshotter=snapshotter)
    assert open_folder(tmp_path / "backups", name="shop", snapshotter=snapshotter).list()
    room().take()
    assert open_folder(tmp_path / "backups", snapshotter=snapshotter).name == "default"


NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


def record(txid: int, hours: float, *, kind: str = "snapshot", proof: str = "ok", proved: bool = True) -> BackupRecord:
    return BackupRecord(
        f"r{txid}", "default", kind, None, NOON + hours * 3600, 1, 4096, 1, 4096, 0.1,
        NOON if proved else None, proof, "", txid,
    )  # fmt: skip


def test_a_backup_is_chosen_by_id_by_time_or_as_the_latest() -> None:
    records = [
        record(5, 4, kind="safety"),
        record(4, 3, proof="damaged", proved=False),
        record(3, 2, proof="", proved=False),
        record(2, 1),
        record(1, 0),
    ]
    assert choose(records, "r4").txid == 4
    assert choose(records, "latest").txid == 3
    assert choose(records, NOON + 1.5 * 3600).txid == 2
    assert choose(records, datetime.fromtimestamp(NOON + 60, UTC)).txid == 1
    assert choose(records, "2026-11-22T13:30+00:00").txid == 2
    local = datetime.fromtimestamp(NOON + 1.5 * 3600).astimezone()
    assert choose(records, local.strftime("%Y-%m-%d %H:%M")).txid == 2
    assert choose(records[:1], "latest").txid == 5


@pytest.mark.parametrize(
    ("records", "wish", "message"),
    [
        ([], "latest", "no backup yet"),
        ([record(1, 0)], "yesterday-ish", "neither a backup's id nor a time"),
        ([record(1, 0)], NOON - 1, "no backup is as old as"),
        ([replace(record(1, 0), verified_at=None)], "latest", "no backup has passed its check"),
    ],
)
def test_a_wish_that_no_backup_meets_is_explained(records: list[BackupRecord], wish: str | float, message: str) -> None:
    with pytest.raises(RestoreError, match=message) as caught:
        choose(records, wish)
    assert caught.value.hint
