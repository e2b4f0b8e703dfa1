"""The ledger: shared by real processes, and no trouble of its file is ever the app's."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from flask_dbopt.monitor import books, schema
from flask_dbopt.monitor.ledger import Ledger
from flask_dbopt.monitor.ledger_file import LedgerBusyError, LedgerError, LedgerForeignError
from flask_dbopt.monitor.tally import Tally

WORKER = Path(__file__).with_name("ledger_worker.py")


def start(path, rounds, each):
    command = [sys.executable, str(WORKER), str(path), str(rounds), str(each)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def calls(monitor):
    return {row.query: row.calls for row in monitor.queries()}


# --- real processes ---


def test_a_ledger_that_another_worker_makes_between_two_looks_is_not_taken_for_a_strangers(build, serve, clock, path):
    ledger_file = sys.modules["flask_dbopt.monitor.ledger_file"]
    plain, others = ledger_file._made_by, [build() for _ in range(2)]
    serve(others[0], "a", ("SELECT 1", 0.01))

    def meanwhile(connection):
        found = plain(connection)
        if others:
            others.pop().sweep(clock.now)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_file, "_made_by", meanwhile)
        monitor = build()
        serve(monitor, "a", ("SELECT 1", 0.01))
        monitor.sweep(clock.now)
    assert not any("something else" in notice for notice in monitor.notices())


def test_four_workers_that_flush_at_once_add_up_exactly(build, path):
    workers = [start(path, rounds=25, each=40) for _ in range(4)]
    for worker in workers:
        assert worker.communicate(timeout=60)[0].count("flushed") == 25
        assert worker.returncode == 0
    monitor = build()
    found = calls(monitor)
    assert found.pop("SELECT * FROM t WHERE id = ?") == 4 * 25 * 40
    assert found == {f"UPDATE t{worker.pid} SET a = ?": 25 for worker in workers}
    (page,) = monitor.endpoints()
    assert (page.calls, page.queries) == (100, 4_000)
    assert monitor.counters()["shouts"] == 100
    assert sum(row.rows for row in monitor.queries()) == 2 * 4_000 + 100
    assert monitor.workers() == [], "each took its leave"


def test_a_worker_killed_at_any_point_takes_no_flushed_figure_with_it(build, path, clock):
    clock.now = time.time()
    for delay in (0.0, 0.003, 0.011, 0.027):
        worker = start(path, rounds=100_000, each=20)
        with worker.stdout:
            told = sum(1 for _ in zip(range(5), worker.stdout, strict=False))
            time.sleep(delay)
            worker.kill()
            told += sum(1 for _ in worker.stdout)
        worker.wait()
        with_it = calls(build())[f"UPDATE t{worker.pid} SET a = ?"]
        assert told <= with_it <= told + 1, "at most the flush that was under way was not told"
    monitor = build()
    assert calls(monitor)["SELECT * FROM t WHERE id = ?"] == 20 * monitor.endpoints()[0].calls
    assert len(monitor.workers()) == 4, "shown until their heartbeats are old"
    clock.now = time.time() + 15
    assert monitor.workers() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_forked_child_counts_for_itself_and_never_for_its_parent(build, serve, clock):
    monitor = build()
    serve(monitor, "parent", ("SELECT parent", 0.01))
    monitor.sweep(clock.now)
    serve(monitor, "parent", ("SELECT parent", 0.01))
    monitor.recorder.record("SELECT loose", 0.01, 1, None, False)
    child = os.fork()
    if child == 0:
        try:
            monitor.abandon()
            serve(monitor, "child", ("SELECT child", 0.01))
            monitor.sweep(clock.now)
            os._exit(0 if len(monitor.workers()) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    monitor.sweep(clock.now)
    assert calls(monitor) == {"SELECT parent": 2, "SELECT loose": 1, "SELECT child": 1}


def test_a_fork_that_nobody_told_of_is_noticed(build, serve, clock, path):
    monitor = build()
    serve(monitor, "parent", ("SELECT parent", 0.01))
    monitor.sweep(clock.now)
    monitor.recorder.record("SELECT loose", 0.01, 1, None, False)
    child = os.fork()
    if child == 0:
        try:
            monitor.sweep(clock.now)
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert calls(monitor) == {"SELECT parent": 1, "SELECT loose": 1}
    assert len(monitor.workers()) == 2


# --- a file in trouble ---


def test_a_broken_ledger_is_set_aside_and_counting_begins_anew(build, serve, clock, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database, and somebody may want to know why" * 100)
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    (aside,) = path.parent.glob("ledger.db.broken-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert calls(build()) == {"SELECT ?": 1}
    assert monitor.notices() == [f"a broken ledger was set aside as {aside}; counting began anew"]


def test_a_ledger_whose_pages_are_overwritten_while_it_is_open_is_set_aside(build, serve, clock, path):
    one, other = build(), build()
    for monitor in (one, other):
        serve(monitor, "a", *((f"SELECT a{n}", 0.01) for n in range(300)))
        monitor.sweep(clock.now)
    # In another process: to close a file here would drop the locks that SQLite holds on it here.
    scribble = "import os, sys; [os.truncate(sys.argv[2], 0), open(sys.argv[1], 'wb').write(os.urandom(9000))]"
    subprocess.run([sys.executable, "-c", scribble, path, f"{path}-wal"], check=True)
    for query in ("SELECT lost", "SELECT new"):
        serve(one, "a", (query, 0.01))
        serve(other, "a", (query, 0.01))
        for _ in range(3):
            clock.now += books.RETRY + 1
            one.sweep(clock.now)
            other.sweep(clock.now)
    assert calls(build())["SELECT new"] == 2
    assert one.notices() + other.notices() != []
    assert len(list(path.parent.glob("ledger.db.broken-*[0-9]"))) >= 1


def test_a_ledger_that_lost_a_table_is_set_aside(build, serve, clock, path):
    monitor = build()
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE query_slot")
    assert monitor.queries() == []
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert calls(build()) == {"SELECT ?": 1}


def test_a_ledger_that_breaks_again_and_again_is_left_alone_in_the_end(build, serve, clock, path):
    monitor = build()
    for number in range(books.MOST_ASIDE + 2):
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            path.with_name(name).unlink(missing_ok=True)
        path.write_bytes(b"%d is no database" % number * 1000)
        serve(monitor, "a", ("SELECT 1", 0.01))
        clock.now += books.RETRY + 1
        monitor.sweep(clock.now)
    assert len(list(path.parent.glob("ledger.db.broken-*"))) == books.MOST_ASIDE
    assert any("it broke 3 times" in notice for notice in monitor.notices())
    assert calls(monitor)["SELECT ?"] == 2, "what was counted since"


@pytest.mark.parametrize("gone", [("ledger.db",), ("ledger.db", "ledger.db-wal", "ledger.db-shm")])
def test_a_ledger_deleted_while_it_is_open_is_made_anew(build, serve, clock, path, gone):
    one, other = build(), build()
    for monitor in (one, other):
        serve(monitor, "a", ("SELECT old", 0.01))
        monitor.sweep(clock.now)
        serve(monitor, "a", ("SELECT new", 0.01))
    for name in gone:
        path.with_name(name).unlink()
    one.sweep(clock.now)
    other.sweep(clock.now)
    assert calls(build()) == {"SELECT new": 2}
    assert one.notices() == other.notices() == []


def test_the_whole_state_folder_may_go(build, serve, clock, path):
    monitor = build()
    monitor.sweep(clock.now)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert calls(build()) == {"SELECT ?": 1}
    assert (path.parent / ".gitignore").exists()


def test_a_folder_that_others_use_gets_no_gitignore(build, clock, path):
    path.parent.mkdir(parents=True)
    (path.parent / "mine.txt").write_text("mine")
    build().sweep(clock.now)
    assert not (path.parent / ".gitignore").exists()


def test_a_newer_versions_ledger_is_left_alone_and_figures_stay_in_memory(build, serve, clock, path):
    build().sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    assert calls(monitor) == {"SELECT ?": 1}
    (notice,) = monitor.notices()
    assert "newer version of Flask-DBOpt" in notice
    with pytest.raises(LedgerForeignError):
        monitor.reset()
    monitor.close()
    assert path.read_bytes() == before


def test_somebody_elses_database_is_left_alone(build, serve, clock, path):
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (id)")
    before = path.read_bytes()
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    assert calls(monitor) == {"SELECT ?": 1}
    assert "a database of something else" in monitor.notices()[0]
    assert path.read_bytes() == before


@pytest.mark.parametrize("obstacle", ["the folder is a file", "the ledger is a folder"])
def test_a_place_where_no_file_can_be_keeps_figures_in_memory(build, serve, clock, path, obstacle):
    if obstacle == "the folder is a file":
        path.parent.parent.mkdir(parents=True)
        path.parent.write_text("a file")
    else:
        path.mkdir(parents=True)
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 0.01))
    monitor.sweep(clock.now)
    monitor.sweep(clock.now)
    assert calls(monitor) == {"SELECT ?": 1}
    assert "figures are kept in memory" in monitor.notices()[0]


def test_a_read_only_folder_keeps_figures_in_memory_and_what_was_there_is_still_told(build, serve, clock, path):
    one = build()
    serve(one, "a", ("SELECT old", 0.01))
    one.sweep(clock.now)
    one.close()
    path.parent.chmod(0o555)
    path.chmod(0o444)
    for folder in (path.parent, *path.parents[1:4]):
        folder.chmod(folder.stat().st_mode | 0o055)
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65_534)  # root may write anywhere
            monitor = build()
            serve(monitor, "a", ("SELECT new", 0.01))
            for _ in range(3):
                monitor.sweep(clock.now)
                clock.now += books.RETRY + 1
            right = calls(monitor)["SELECT new"] == 1 and "in memory" in monitor.notices()[0]
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    path.parent.chmod(0o755)
    path.chmod(0o644)
    assert calls(build()) == {"SELECT old": 1}


def test_a_full_disk_keeps_figures_in_memory_and_loses_none_when_there_is_room_again(build, serve, clock, path):
    monitor = build()
    serve(monitor, "a", ("SELECT before", 0.01))
    monitor.sweep(clock.now)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.with_name("ledger.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        for _ in range(3):
            serve(monitor, "a", *((f"SELECT a{n}", 0.01) for n in range(200)), ("SELECT during", 0.01))
            monitor.sweep(clock.now)
            clock.now += books.RETRY + 1
        monitor.evaluate(clock.now)
        assert calls(monitor)["SELECT during"] == 3
        assert "cover this process alone" in monitor.notices()[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    serve(monitor, "a", ("SELECT after", 0.01))
    clock.now += books.RETRY + 1
    monitor.sweep(clock.now)
    assert monitor.notices() == []
    found = calls(build())
    assert [found[f"SELECT {when}"] for when in ("before", "during", "after")] == [1, 3, 1]
    assert found["SELECT a199"] == 3


def test_a_writer_that_holds_the_ledger_only_puts_the_flush_off(build, serve, clock, path):
    monitor = build()
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        serve(monitor, "a", ("SELECT 1", 0.01))
        started = time.perf_counter()
        monitor.sweep(clock.now)
        assert time.perf_counter() - started < 2
        assert calls(monitor) == {"SELECT ?": 1}, "not flushed, and told all the same"
        assert monitor.notices() == []
        monitor.evaluate(clock.now)
        holder.execute("ROLLBACK")
    monitor.sweep(clock.now)
    assert calls(build()) == {"SELECT ?": 1}


def test_an_alert_raised_while_the_ledger_cannot_be_written_is_kept_until_it_can(build, serve, clock, path):
    monitor = build()
    serve(monitor, "a", ("SELECT 1", 3.0))
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        monitor.evaluate(clock.now)
        monitor.evaluate(clock.now)
        assert [alert.rule for alert in monitor.alerts()] == ["query_too_slow"]
        holder.execute("ROLLBACK")
    assert build().alerts() == []
    monitor.sweep(clock.now)
    assert [alert.rule for alert in build().alerts()] == ["query_too_slow"]


def test_a_writer_that_never_lets_go_sends_the_figures_to_memory_and_closing_ends_in_time(build, serve, clock, path):
    monitor = build()
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        serve(monitor, "a", ("SELECT 1", 0.01))
        monitor.sweep(clock.now)
        clock.now += books.LONGEST_WAIT + 1
        monitor.sweep(clock.now)
        assert calls(monitor) == {"SELECT ?": 1}
        with pytest.raises(LedgerBusyError):
            monitor.reset()
        monitor.recorder.record("SELECT late", 0.01, 1, None, False)
        started = time.perf_counter()
        monitor.close()
        assert time.perf_counter() - started < 5
        holder.execute("ROLLBACK")


# --- time and size ---


def test_figures_roll_up_as_they_age_and_their_sums_stay_the_same(build, serve, clock):
    monitor = build()
    begun = clock.now
    for _ in range(200):
        serve(monitor, "a", ("SELECT 1", 0.01), ("SELECT now()", 0.02, 3, None, False))
        monitor.count("shouts")
        monitor.sweep(clock.now)
        clock.now += 3_777
    rows = {row.query: row for row in monitor.queries()}
    assert rows["SELECT ?"].calls == rows["SELECT now()"].calls == 200
    assert rows["SELECT now()"].rows == 600
    assert rows["SELECT ?"].total_exec_time == pytest.approx(2_000)
    assert rows["SELECT ?"].p95 == pytest.approx(10, rel=0.02)
    assert monitor.endpoints()[0].calls == 200
    assert monitor.counters()["shouts"] == 200
    assert sum(point.requests for point in monitor.series(begun - 60)) == 200
    lately = monitor.queries(since=clock.now - 86_400)[0].calls
    assert 86_400 // 3_777 <= lately <= 86_400 // 3_777 + 2


def test_slots_become_coarser_with_age(build, serve, clock, path):
    monitor = build()
    for _ in range(30):
        serve(monitor, "a", ("SELECT 1", 0.01))
        monitor.sweep(clock.now)
        clock.now += 86_400
    with closing(sqlite3.connect(path)) as connection:
        found = dict(connection.execute("SELECT resolution, count(*) FROM query_slot GROUP BY 1").fetchall())
    assert set(found) <= {width for width, *_ in schema.RESOLUTIONS}
    assert found[86_400] >= 20
    assert sum(found.values()) == 30


def test_figures_past_their_retention_are_forgotten_and_so_are_their_statements(build, serve, clock, path):
    monitor = build(monitor_retention_days=2)
    serve(monitor, "a", ("SELECT old", 3.0))
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    clock.now += 86_400
    monitor.evaluate(clock.now)
    for _ in range(3):
        serve(monitor, "a", ("SELECT new", 0.01))
        monitor.sweep(clock.now)
        clock.now += 86_400
    monitor.sweep(clock.now)
    assert set(calls(monitor)) == {"SELECT new"}
    assert monitor.alerts() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT query FROM statement").fetchall() == [("SELECT new",)]


def test_a_ledger_stays_under_its_size_and_keeps_the_newest(tmp_path, clock):
    ledger = Ledger(tmp_path / "ledger.db")
    limit = 1 << 20
    try:
        for _ in range(60):
            tally = Tally()
            records = [[f"SELECT a{n} FROM somewhere", 0.001 * n, 1, None, False, 0.0, "default"] for n in range(300)]
            tally.statements(records, "a", clock.now, 10)
            ledger.write(tally, None)
            ledger.maintain(clock.now, keep_seconds=1e9, limit=limit, every=0)
            clock.now += 1_000
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        assert pages * 4096 < 2 * limit
        sums = ledger.queries(clock.now - 2_000)
        assert len(sums) == 300
        assert sums[next(iter(sums))][0].calls >= 1
    finally:
        ledger.close()


def test_a_size_that_can_never_be_kept_costs_history_and_no_more(tmp_path, clock):
    ledger = Ledger(tmp_path / "ledger.db")
    try:
        for _ in range(5):
            tally = Tally()
            tally.statements([["SELECT 1", 0.001, 1, None, False, 0.0, "default"]], "a", clock.now, 10)
            ledger.write(tally, None)
            clock.now += 100_000
        ledger.maintain(clock.now, keep_seconds=1e9, limit=1, every=0)
        assert ledger.queries(0) == {}
    finally:
        ledger.close()


def test_the_write_ahead_log_is_moved_into_the_file_before_it_grows_large(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("flask_dbopt.monitor.ledger_file.WAL_LIMIT", 100_000)
    ledger = Ledger(tmp_path / "ledger.db")
    try:
        for _ in range(40):
            tally = Tally()
            records = [[f"SELECT a{n} FROM somewhere", 0.001, 1, None, False, 0.0, "default"] for n in range(100)]
            tally.statements(records, "a", clock.now, 10)
            ledger.write(tally, None)
        assert (tmp_path / "ledger.db-wal").stat().st_size < 1_000_000
        assert (tmp_path / "ledger.db").stat().st_size > 20_000
    finally:
        ledger.close()


def test_a_ledger_in_memory_has_no_file_to_set_aside():
    ledger = Ledger(None)
    assert ledger.set_aside() is None
    assert ledger.first_slot() is None
    ledger.close()


def test_a_broken_ledger_in_a_folder_that_cannot_be_written_stays_where_it_is(tmp_path, monkeypatch):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database" * 1000)
    (tmp_path / "ledger.db.lock").mkdir()
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="cannot be set aside"):
        ledger.set_aside()
    assert path.exists()
