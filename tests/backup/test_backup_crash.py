"""What goes wrong while a backup is taken leaves nothing that counts, and says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flask_dbopt.backup.backups import Backups
from flask_dbopt.backup.errand import explain
from flask_dbopt.errors import BackupError

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]

TAKER = """
import sys
from pathlib import Path
from flask_dbopt.backup.backups import Backups
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter
folder = Path(sys.argv[1])
print("taking", flush=True)
print(Backups("default", SQLiteSnapshotter(folder / "app.db"), folder / "backups").take().id)
"""


def the_child(of: int | None = None) -> psutil.Process:
    """The backup's own process, once it runs."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for child in psutil.Process(of).children():
            with contextlib.suppress(psutil.Error):
                if "flask_dbopt.backup.errand" in child.cmdline():
                    return child
        time.sleep(0.001)
    raise AssertionError("no child came")


def leftovers(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".ltx" and path.name not in ("catalog.json", ".lock")
    )


def check_all_counts(backups: Backups) -> None:
    for record in backups.list():
        assert backups.verify(record.id).verified_at is not None
    assert leftovers(backups.folder) == []


@pytest.fixture
def big(build: Build) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(build(60000)) as connection:
        yield connection


@pytest.mark.parametrize("turn", range(3))
def test_a_child_that_is_killed_at_any_point_leaves_nothing_that_counts(
    big: sqlite3.Connection, room: Room, turn: int
) -> None:
    backups = room()
    first = backups.take()
    delay = random.Random(turn).uniform(0.02, 0.05 + first.seconds)

    def kill() -> None:
        child = the_child()
        time.sleep(delay)
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with contextlib.suppress(BackupError):
        backups.take()
    killer.join()
    assert backups.list()[-1] == first
    check_all_counts(backups)
    assert backups.take().txid > first.txid


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_process_that_is_killed_at_any_point_leaves_nothing_that_counts(
    big: sqlite3.Connection, room: Room, tmp_path: Path
) -> None:
    backups = room()
    first = backups.take()
    for turn in range(30):
        delay = random.Random(turn).uniform(0.0, 0.25 + 1.2 * first.seconds)
        taker = subprocess.Popen([sys.executable, "-c", TAKER, tmp_path], stdout=subprocess.PIPE)
        assert taker.stdout is not None
        taker.stdout.readline()
        time.sleep(delay)
        taker.kill()
        taker.wait()
        taker.stdout.close()
        wait_until_free(backups)
        assert first.id in [record.id for record in backups.list()]
        check_all_counts(backups)


def wait_until_free(backups: Backups) -> None:
    until = time.monotonic() + 20
    while backups.busy() is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert backups.busy() is None


def test_a_child_whose_parent_was_killed_goes_too_and_the_next_backup_sweeps_up(
    build: Build, room: Room, tmp_path: Path
) -> None:
    with contextlib.closing(build(1000, mode="delete")) as connection:
        connection.execute("BEGIN EXCLUSIVE")  # the child waits for this
        taker = subprocess.Popen([sys.executable, "-c", TAKER, tmp_path], stdout=subprocess.DEVNULL)
        child = the_child(taker.pid)
        taker.kill()
        taker.wait()
        assert room().busy() is not None
        with pytest.raises(BackupError, match=rf"process {taker.pid} is busy since .*: a backup of 'default'"):
            room().take()
        child.wait(20)
        assert room().list() == ()
        connection.execute("ROLLBACK")
        stale = room().folder / "ltx" / "9" / "0000000000000001-0000000000000009.ltx.tmp"
        stale.write_bytes(b"half")
        assert room().take().verified_at is not None
        check_all_counts(room())


def test_a_stopped_child_is_given_up_after_the_time_allowed(
    build: Build, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(build(100, mode="delete")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BackupError, match=r"not done within 0\.5 s"):
            room(time_limit=0.5).take()
        connection.execute("ROLLBACK")
    assert "backup of default failed" in caplog.text
    assert room().list() == ()


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """``small_files(bytes)``: from now on no file may grow beyond this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.getsignal(signal.SIGXFSZ)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("room_for", [0.3, 1.1])
def test_a_full_disk_is_said_with_a_hint_and_earlier_backups_remain(
    big: sqlite3.Connection, room: Room, small_files: Callable[[int], None], room_for: float
) -> None:
    told: list[tuple[str, object]] = []
    backups = room(emit=lambda name, **details: told.append((name, details.get("error"))))
    first = backups.take()
    small_files(int(first.bytes * room_for))
    with pytest.raises(BackupError, match="File too large") as caught:
        backups.take()
    assert "free disk space" in caught.value.hint
    assert ("backup_failed", caught.value) in told
    small_files(resource.RLIM_INFINITY)
    assert backups.list() == (first,)
    check_all_counts(backups)


def test_a_full_disk_in_our_own_process_is_said_too(
    build: Build, room: Room, small_files: Callable[[int], None]
) -> None:
    build(10).close()
    (room().folder / "ltx" / "9").mkdir(parents=True)
    small_files(0)
    with pytest.raises(BackupError, match="File too large") as caught:
        room().take()
    small_files(resource.RLIM_INFINITY)
    assert "free disk space" in caught.value.hint
    assert room().list() == ()


def test_too_little_free_space_is_known_beforehand(build: Build, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    build(1000).close()
    room().take()
    little = (10**9, 10**9, 4 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": little[2]}))
    for deed in (room().take, room().restore, lambda: room().verify(room().list()[0].id)):
        with pytest.raises(RuntimeError, match=r"may need .* MB in .*, and 4\.2 MB are free"):
            deed()
    assert len(room().list()) == 1


def test_every_refusal_of_the_system_has_a_hint() -> None:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert "free disk space" in explain(OSError(code, os.strerror(code), "/backups/x")).hint
    told = explain(PermissionError(errno.EACCES, "Permission denied", "/backups/x"))
    assert str(told.args[0]) == "Permission denied: /backups/x"
    assert "check that this user" in told.hint


def test_a_backup_folder_that_cannot_be_made_is_said(build: Build, room: Room, tmp_path: Path) -> None:
    build(10).close()
    (tmp_path / "backups").write_text("a file where the folder should be")
    with pytest.raises(BackupError, match="cannot write to the backup folder") as caught:
        room().take()
    assert "DBOPT_BACKUP_DIR" in caught.value.hint
    assert room().list() == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no database at"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("no database " * 200), "file is not a database"),
    ],
)
def test_a_path_that_is_no_database_is_said(
    tmp_path: Path, room: Room, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "app.db")
    with pytest.raises(BackupError, match=message) as caught:
        room().take()
    assert caught.value.hint
    assert room().list() == ()


def test_a_damaged_database_is_not_passed_off_as_a_backup(build: Build, room: Room, tmp_path: Path) -> None:
    with contextlib.closing(build(3000, mode="delete")) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'word'").fetchone()[0]
    with (tmp_path / "app.db").open("r+b") as stream:
        stream.seek((root - 1) * 4096 + 8)
        stream.write(b"\xff" * 200)
    with pytest.raises(BackupError, match="the copy is faithful, but the database itself is damaged"):
        room().take()
    assert room().list() == ()


def test_two_processes_at_once_take_one_backup_and_one_clear_error(build: Build, room: Room, tmp_path: Path) -> None:
    build(60000).close()
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [taker.communicate()[1] for taker in takers]
    assert sorted(taker.returncode for taker in takers) == [0, 1]
    assert sum("is busy since" in error for error in errors) == 1
    assert len(room().list()) == 1


def test_two_threads_at_once_take_one_backup_and_one_clear_error(big: sqlite3.Connection, room: Room) -> None:
    outcomes: list[object] = []

    def take() -> None:
        try:
            outcomes.append(room().take().txid)
        except BackupError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 in outcomes
    assert sum(isinstance(each, BackupError) and "is busy" in str(each) for each in outcomes) == 1
