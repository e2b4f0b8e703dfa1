"""The raw read of a pinned state, the check of a copy, and the way back into a live database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.protocol import Snapshot
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter, from_recipe
from flask_dbopt.errors import BackupError, RestoreError

Connect = Callable[..., sqlite3.Connection]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """``connect(mode)``: an open connection to tmp_path/app.db, checkpointing only when told."""
    with ExitStack() as opened:

        def make(mode: str = "wal", name: str = "app.db", **options: Any) -> sqlite3.Connection:
            connection = sqlite3.connect(tmp_path / name, isolation_level=None, **options)
            opened.enter_context(closing(connection))
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
            return connection

        yield make


@pytest.fixture
def snapshotter(tmp_path: Path) -> SQLiteSnapshotter:
    return SQLiteSnapshotter(tmp_path / "app.db", patience=5)


def content(snapshot: Snapshot) -> bytes:
    return b"".join(snapshot.page(number) for number in range(1, snapshot.page_count + 1))


def fill(connection: sqlite3.Connection, rows: int, size: int = 500) -> None:
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (v) VALUES (zeroblob(?))", ((size,) for _ in range(rows)))
    connection.execute("COMMIT")


@pytest.mark.parametrize("checkpoint", ["none", "PASSIVE", "RESTART", "TRUNCATE"])
def test_the_pinned_state_is_what_sqlite_itself_reads(
    connect: Connect, snapshotter: SQLiteSnapshotter, checkpoint: str
) -> None:
    connection = connect()
    fill(connection, 300)
    if checkpoint != "none":
        connection.execute(f"PRAGMA wal_checkpoint({checkpoint})")
    with snapshotter.pin() as snapshot:
        assert content(snapshot) == connection.serialize()


def test_commits_and_checkpoints_after_the_pin_change_nothing_that_is_read(
    connect: Connect, snapshotter: SQLiteSnapshotter
) -> None:
    connection = connect()
    fill(connection, 300)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.execute("UPDATE t SET v = 'a' WHERE id % 3 = 0")
    state = connection.serialize()
    with snapshotter.pin() as snapshot:
        half = snapshot.page_count // 2
        first = [snapshot.page(number) for number in range(1, half)]
        for turn in range(5):
            connection.execute("UPDATE t SET v = ? WHERE id % 2 = 0", (f"later {turn}",))
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            fill(connection, 200)
        rest = [snapshot.page(number) for number in range(half, snapshot.page_count + 1)]
    assert b"".join(first + rest) == state


def test_a_wal_that_was_fully_copied_back_may_be_overwritten_under_the_reader(
    connect: Connect, snapshotter: SQLiteSnapshotter
) -> None:
    connection = connect()
    fill(connection, 300)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    state = connection.serialize()
    wal = Path(f"{snapshotter.path}-wal")
    before = wal.stat().st_size
    with snapshotter.pin() as snapshot:
        connection.execute("UPDATE t SET v = 'other'")
        assert wal.stat().st_size == before
        assert content(snapshot) == state


def test_every_pin_under_a_storm_of_commits_and_checkpoints_is_one_whole_state(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    connection = connect(check_same_thread=False)
    connection.executescript(
        "CREATE TABLE a (n); INSERT INTO a VALUES (0); CREATE TABLE b (n); INSERT INTO b VALUES (0)"
    )
    fill(connection, 500)
    stop = threading.Event()

    def storm() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE a SET n = ?", (number,))
            connection.execute("UPDATE t SET v = ? WHERE id = ?", (b"x" * (number % 900), number % 500))
            connection.execute("UPDATE b SET n = ?", (number,))
            connection.execute("COMMIT")
            if number % 7 == 0:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)" if number % 3 else "PRAGMA wal_checkpoint")

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        states = []
        for turn in range(25):
            with snapshotter.pin() as snapshot:
                (tmp_path / f"{turn}.db").write_bytes(content(snapshot))
            assert snapshotter.check(tmp_path / f"{turn}.db", thorough=True) == ()
            with closing(sqlite3.connect(f"file:{tmp_path}/{turn}.db?immutable=1", uri=True)) as copy:
                left, right = copy.execute("SELECT (SELECT n FROM a), (SELECT n FROM b)").fetchone()
            assert left == right
            states.append(left)
    finally:
        stop.set()
        thread.join()
    assert states == sorted(states)
    assert states[-1] > states[0]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_every_page_size_is_read_in_every_journal_mode(
    tmp_path: Path, snapshotter: SQLiteSnapshotter, mode: str, page_size: int
) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        fill(connection, 100, 1500)
        with snapshotter.pin() as snapshot:
            assert snapshot.page_size == page_size
            assert content(snapshot) == connection.serialize()


def test_what_a_dead_process_left_in_a_journal_is_rolled_back_first(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    connection = connect("delete")
    fill(connection, 200)
    connection.close()
    script = f"""
import os, sqlite3
connection = sqlite3.connect({str(tmp_path / "app.db")!r}, isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("PRAGMA cache_spill=1")
connection.execute("BEGIN")
connection.execute("UPDATE t SET v = zeroblob(5000)")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "app.db-journal").exists()
    with snapshotter.pin() as snapshot:
        (tmp_path / "copy.db").write_bytes(content(snapshot))
    assert snapshotter.check(tmp_path / "copy.db", thorough=True) == ()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*), max(length(v)) FROM t").fetchone() == (200, 500)


def test_a_link_to_the_database_leads_to_its_wal_too(connect: Connect, tmp_path: Path) -> None:
    connection = connect()
    fill(connection, 100)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "app.db")
    linked = SQLiteSnapshotter(tmp_path / "elsewhere" / "link.db")
    with linked.pin() as snapshot:
        assert content(snapshot) == connection.serialize()
    assert linked.size() == sum((tmp_path / name).stat().st_size for name in ("app.db", "app.db-wal"))


def test_a_strange_path_is_read_all_the_same(connect: Connect, tmp_path: Path) -> None:
    connection = connect(name="a b?c#d%20.db")
    fill(connection, 10)
    strange = SQLiteSnapshotter(tmp_path / "a b?c#d%20.db")
    with strange.pin() as snapshot:
        (tmp_path / "x?y.db").write_bytes(content(snapshot))
    assert (tmp_path / "x?y.db").read_bytes() == connection.serialize()
    assert strange.check(tmp_path / "x?y.db") == ()


def test_a_database_that_was_replaced_meanwhile_is_not_mixed_with_the_new_one(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("delete").close()
    connect("delete", name="other.db").close()
    real = sqlite3.connect

    def replaced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = real(*arguments, **options)
        (tmp_path / "other.db").rename(tmp_path / "app.db")
        return connection

    monkeypatch.setattr(sqlite3, "connect", replaced)
    with pytest.raises(BackupError, match="was replaced meanwhile"), snapshotter.pin():
        pass


def test_a_database_that_stays_locked_is_given_up_with_a_hint(connect: Connect, tmp_path: Path) -> None:
    connection = connect("delete")
    connection.execute("BEGIN EXCLUSIVE")
    impatient = SQLiteSnapshotter(tmp_path / "app.db", patience=0.2)
    with pytest.raises(BackupError, match=r"all the time for 0\.2 s") as caught, impatient.pin():
        pass
    assert "another process holds it" in caught.value.hint


def test_a_recipe_makes_the_same_snapshotter_elsewhere(connect: Connect, snapshotter: SQLiteSnapshotter) -> None:
    connection = connect()
    again = from_recipe(snapshotter.recipe())
    assert snapshotter.recipe() == again.recipe()
    with again.pin() as snapshot:
        assert content(snapshot) == connection.serialize()


def frozen(connection: sqlite3.Connection, path: Path) -> Path:
    path.write_bytes(connection.serialize())
    return path


def test_a_check_needs_neither_the_apps_collations_nor_its_functions(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    connection = connect()
    connection.create_collation("backwards", lambda a, b: (a < b) - (a > b))
    connection.create_function("own", 1, lambda value: 1, deterministic=True)
    connection.executescript("""
        CREATE TABLE odd (a TEXT COLLATE backwards, b CHECK (own(b)), c AS (own(a)) NOT NULL);
        CREATE INDEX odd_a ON odd (a);
        CREATE INDEX odd_b ON odd (own(b));
        CREATE TABLE pair (a TEXT COLLATE backwards PRIMARY KEY) WITHOUT ROWID;
        INSERT INTO odd (a, b) VALUES ('x', 1), ('y', 2), ('z', 3);
        INSERT INTO pair VALUES ('x'), ('y'), ('z');
    """)
    path = frozen(connection, tmp_path / "copy.db")
    assert snapshotter.check(path) == ()
    assert snapshotter.check(path, thorough=True) == ()


def test_constraints_that_the_app_broke_are_no_damage(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    connection = connect()
    connection.executescript("""
        CREATE TABLE strict_one (a, b);
        INSERT INTO strict_one VALUES (NULL, -1);
        PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql = 'CREATE TABLE strict_one (a NOT NULL, b CHECK (b > 0))'
            WHERE name = 'strict_one';
    """)
    assert snapshotter.check(frozen(connection, tmp_path / "copy.db"), thorough=True) == ()


def test_damage_is_named(connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path) -> None:
    connection = connect()
    connection.execute("CREATE INDEX t_v ON t (v)")
    fill(connection, 300)
    path = frozen(connection, tmp_path / "copy.db")
    data = bytearray(path.read_bytes())
    data[4096:4200] = b"\xff" * 104
    path.write_bytes(data)
    assert snapshotter.check(path)
    path.write_bytes(b"nothing of the kind " * 300)
    assert snapshotter.check(path) == ("file is not a database",)


def test_a_load_that_never_gets_the_lock_ends_at_its_deadline(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    """Connection.backup() by itself would try for ever here, whatever the connection's timeout."""
    connection = connect()
    fill(connection, 10)
    path = frozen(connection, tmp_path / "copy.db")
    connection.execute("DELETE FROM t")
    connection.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(RestoreError, match=r"could not be written within 0\.3 s") as caught:
        snapshotter.load(path, deadline=0.3)
    assert time.monotonic() - began < 5
    assert "another connection keeps it locked" in caught.value.hint
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    snapshotter.load(path, deadline=5)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (10,)


def test_a_load_keeps_the_live_databases_own_journal_mode(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    wal = connect("wal", name="other.db")
    path = frozen(wal, tmp_path / "copy.db")
    connect("delete").close()
    snapshotter.load(path, deadline=5)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_other_page_sizes_go_into_a_live_database_that_is_not_in_wal_mode(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "small.db", isolation_level=None)) as small:
        small.execute("PRAGMA page_size=512")
        small.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        fill(small, 50)
        path = frozen(small, tmp_path / "copy.db")
    connection = connect("delete")
    snapshotter.load(path, deadline=5)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("page_size", [4096, 1024])
def test_a_load_onto_a_full_disk_leaves_the_old_state(
    connect: Connect, snapshotter: SQLiteSnapshotter, tmp_path: Path, page_size: int
) -> None:
    with closing(sqlite3.connect(tmp_path / "big.db", isolation_level=None)) as big:
        big.execute(f"PRAGMA page_size={page_size}")
        big.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        fill(big, 3000)
        path = frozen(big, tmp_path / "copy.db")
    connection = connect()
    fill(connection, 3)
    connection.close()
    script = f"""
import resource
from pathlib import Path
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter
resource.setrlimit(resource.RLIMIT_FSIZE, (400000, 400000))
SQLiteSnapshotter({str(tmp_path / "app.db")!r}).load(Path({str(path)!r}), deadline=5)
"""
    failed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "RestoreError: cannot restore into" in failed.stderr
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA page_size").fetchone() == (4096,)
