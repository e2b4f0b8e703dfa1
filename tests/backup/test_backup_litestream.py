"""The real Litestream restores our folders, byte for byte."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flask_dbopt.backup import ltx
from flask_dbopt.backup.backups import Backups

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]
Litestream = Callable[..., bytes]

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("CREATE TABLE IF NOT EXISTS left_side (n INTEGER)")
connection.execute("CREATE TABLE IF NOT EXISTS right_side (n INTEGER, filler TEXT)")
print("writing", flush=True)
for number in range(10**9):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO left_side VALUES (?)", (number,))
    connection.execute("INSERT INTO right_side VALUES (?, ?)", (number, "x" * (number % 3000)))
    connection.execute("COMMIT")
    if number % 50 == 0:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
"""


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_litestream_restores_a_wal_database_whose_frames_are_not_in_the_file_yet(
    build: Build, room: Room, litestream: Litestream, page_size: int
) -> None:
    with closing(build(3000, page_size=page_size)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("UPDATE word SET text = 'changed' WHERE id % 7 = 0")
        record = room().take()
        assert litestream(room()) == connection.serialize()
    assert (record.page_size, record.source_bytes) == (page_size, record.pages * page_size)


def test_litestream_restores_a_database_in_delete_mode(build: Build, room: Room, litestream: Litestream) -> None:
    with closing(build(3000, mode="delete")) as connection:
        room().take()
        assert litestream(room()) == connection.serialize()


def test_litestream_restores_pages_that_would_not_compress(build: Build, room: Room, litestream: Litestream) -> None:
    with closing(build(10)) as connection:
        connection.execute("CREATE TABLE noise AS SELECT randomblob(300000) AS bytes")
        room().take()
        assert litestream(room()) == connection.serialize()


def test_litestream_restores_a_backup_taken_without_compression(
    build: Build, room: Room, litestream: Litestream
) -> None:
    with closing(build(500, page_size=65536)) as connection:
        record = room(compression=False).take()
        assert litestream(room()) == connection.serialize()
    assert record.bytes > record.source_bytes


def test_litestream_restores_tables_without_rowid_and_pages_on_the_freelist(
    build: Build, room: Room, litestream: Litestream
) -> None:
    with closing(build(4000)) as connection:
        connection.execute("CREATE TABLE pair (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID")
        connection.executemany("INSERT INTO pair VALUES (?, ?)", ((f"a{n}", f"b{n}") for n in range(900)))
        connection.execute("DELETE FROM word WHERE id > 100")
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] > 5
        room().take()
        assert litestream(room()) == connection.serialize()


def test_litestream_restores_a_database_without_tables(tmp_path: Path, room: Room, litestream: Litestream) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("PRAGMA user_version=7")
        room().take()
        assert litestream(room()) == connection.serialize()


def test_a_database_of_no_bytes_restores_as_one_without_tables(
    tmp_path: Path, room: Room, litestream: Litestream
) -> None:
    (tmp_path / "app.db").touch()
    record = room().take()
    (tmp_path / "out.db").write_bytes(litestream(room()))
    with closing(sqlite3.connect(tmp_path / "out.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert record.pages == 1
    assert (tmp_path / "app.db").stat().st_size == 0


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_backups_taken_while_another_process_writes_hold_whole_transactions(
    build: Build, room: Room, litestream: Litestream, tmp_path: Path, mode: str
) -> None:
    build(3000, mode=mode).close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "app.db"], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = []
        for turn in range(3):
            record = room().take()
            room().restore(record.id, to=tmp_path / f"{turn}.db")
            assert litestream(room()) == (tmp_path / f"{turn}.db").read_bytes()
            with closing(sqlite3.connect(tmp_path / f"{turn}.db")) as connection:
                left, right = (
                    connection.execute(f"SELECT count(*), max(n) FROM {side}_side").fetchone()
                    for side in ("left", "right")
                )
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert left == right
            seen.append(left)
        assert seen == sorted(seen)
        assert len(set(seen)) > 1
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_litestream_finds_each_backup_by_number_and_by_time(build: Build, room: Room, litestream: Litestream) -> None:
    with closing(build(100)) as connection:
        states, records = [], []
        for number in range(3):
            connection.execute("INSERT INTO word (text) VALUES (?)", (f"state {number}",))
            records.append(room(clock=lambda: time.time() - 10).take())
            states.append(connection.serialize())
            time.sleep(0.01)
    for record, state in zip(records, states, strict=True):
        assert litestream(room(), "-txid", f"{record.txid:016x}") == state
    between = datetime.fromtimestamp((records[1].taken_at + records[2].taken_at) / 2, UTC)
    assert litestream(room(), "-timestamp", between.isoformat()) == states[1]
    assert litestream(room()) == states[2]


def test_a_snapshot_and_later_increments_read_the_same_to_us_and_to_litestream(
    build: Build, room: Room, litestream: Litestream, tmp_path: Path
) -> None:
    """Nothing here writes increments yet; a folder that holds them is read all the same."""
    with closing(build(2000)) as connection:
        backups = room()
        backups.take()
        old = connection.serialize()
        connection.execute("UPDATE word SET text = 'later' WHERE id BETWEEN 500 AND 520")
        connection.execute("CREATE TABLE more AS SELECT * FROM word")
        new = connection.serialize()
    pages = [new[start : start + 4096] for start in range(0, len(new), 4096)]
    changed = [n for n, page in enumerate(pages, 1) if old[(n - 1) * 4096 : n * 4096] != page]
    place = backups.folder / "ltx" / "0" / ltx.file_name(2, 2)
    place.parent.mkdir()
    with place.open("wb") as stream:
        writer = ltx.Writer(stream, ltx.Header(4096, len(pages), 2, 2, time.time()))
        for number in changed:
            writer.add(number, pages[number - 1])
        writer.finish()
    files = [path for level in ("9", "0") for path in (backups.folder / "ltx" / level).iterdir()]
    ltx.unpack(files, tmp_path / "ours.db")
    assert (tmp_path / "ours.db").read_bytes() == new
    assert litestream(backups) == new
    assert litestream(backups, "-txid", f"{1:016x}") == old


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_the_lock_byte_page_of_a_database_over_a_gibibyte_is_left_out_and_comes_back_empty(
    tmp_path: Path, room: Room, litestream: Litestream, page_size: int
) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute("CREATE TABLE big (bytes)")
        for _ in range(11):
            connection.execute("INSERT INTO big VALUES (zeroblob(100000000))")
    record = room().take()
    assert record.source_bytes > 1 << 30
    restored = litestream(room())
    with (tmp_path / "app.db").open("rb") as stream:
        assert restored == stream.read()
