"""What the cache serves is what the database would say: hunts for stale rows, on every road that writes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer

COUNT = "SELECT count(*), max(word) FROM keyword WHERE language = ?"
ALL = "SELECT language, count(*) FROM keyword GROUP BY language ORDER BY language"


@pytest.fixture
def rooms(site: Flask) -> DBOptimizer:
    """Everything that costs more than nothing may be kept."""
    dbopt = DBOptimizer(site)
    database = site.extensions["dbopt"].default
    database.road.notable = database.shelf.worth = 0.0
    return dbopt


def ask(dbopt: DBOptimizer, sql: str = COUNT, parameters: Any = ("de",)) -> Any:
    with dbopt.borrow() as c:
        return c.execute(sql, parameters).fetchall()


def warm(dbopt: DBOptimizer, sql: str = COUNT, parameters: Any = ("de",)) -> Any:
    """Ask until the cache answers."""
    before = dbopt.cache.stats().hits
    for _ in range(12):
        told = ask(dbopt, sql, parameters)
        if dbopt.cache.stats().hits > before:
            return told
    raise AssertionError(f"never answered by the cache: {sql}, {dbopt.cache.stats()}")


def elsewhere(path: Path, script: str) -> None:
    """In another process, by a program that knows nothing of us."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.close()"
    subprocess.run([sys.executable, "-c", code, str(path), script], check=True, timeout=60)


SCRIPTS = {
    "insert": "INSERT INTO keyword (word, language) VALUES ('zzz', 'de')",
    "update": "UPDATE keyword SET language = 'de' WHERE id = 2",
    "delete": "DELETE FROM keyword WHERE id = 1",
    "replace": "REPLACE INTO keyword (id, word, language) VALUES (2, 'zzz', 'de')",
    "upsert": "INSERT INTO keyword (id, language) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET language = 'de'",
    "with": "WITH x AS (SELECT 'zzz' AS w) INSERT INTO keyword (word, language) SELECT w, 'de' FROM x",
    "returning": "INSERT INTO keyword (word, language) VALUES ('zzz', 'de') RETURNING id",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON note BEGIN DELETE FROM keyword WHERE id = 1; END;"
    "INSERT INTO note VALUES (1, 'x')",
    "cascade": "PRAGMA foreign_keys = ON; CREATE TABLE lang (id TEXT PRIMARY KEY);"
    "INSERT INTO lang SELECT DISTINCT language FROM keyword;"
    "CREATE TABLE k2 (id, word, language REFERENCES lang (id) ON DELETE CASCADE);"
    "INSERT INTO k2 SELECT id, word, language FROM keyword; DROP TABLE keyword; ALTER TABLE k2 RENAME TO keyword;"
    "DELETE FROM lang WHERE id = 'de'",
    "ddl": "DROP TABLE keyword; CREATE TABLE keyword (word, language)",
    "alter": "ALTER TABLE keyword RENAME COLUMN language TO was; ALTER TABLE keyword ADD COLUMN language DEFAULT 'de'",
    "view": "ALTER TABLE keyword RENAME TO old; CREATE VIEW keyword AS SELECT word, 'de' AS language FROM old",
    "vacuum": "DELETE FROM keyword WHERE id > 10; VACUUM",
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("road", ["script", "statements", "another process", "attached", "plain module"])
def test_after_every_kind_of_change_the_new_rows_are_told(rooms: DBOptimizer, path: Path, name: str, road: str) -> None:
    warm(rooms)
    script = SCRIPTS[name]
    if road == "script":
        with rooms.borrow() as c:
            c.executescript(script)
    elif road == "statements":
        statements = [script] if name == "trigger" else [each for each in script.split(";") if each.strip()]
        with rooms.borrow() as c:
            if name == "trigger":
                c.executescript(script)
            else:
                for statement in statements:
                    c.execute(statement).fetchall()
                    c.commit()
    elif road == "another process":
        elsewhere(path, script)
    elif road == "attached":
        with contextlib.closing(sqlite3.connect(":memory:")) as c:
            c.execute("ATTACH ? AS main_", (str(path),))
            c.execute("DELETE FROM main_.keyword WHERE id IN (1, 6)")
            c.commit()
    else:
        with contextlib.closing(sqlite3.connect(path)) as c:
            c.executescript(script)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        expected = plain.execute(COUNT, ("de",)).fetchall()
    assert ask(rooms) == expected


def test_a_restore_through_the_backup_api_is_seen(rooms: DBOptimizer, path: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "before.db")) as before:
        before.executescript("CREATE TABLE keyword (word, language); INSERT INTO keyword VALUES ('a', 'de')")
        warm(rooms)
        with contextlib.closing(sqlite3.connect(path)) as live:
            before.backup(live)
    assert ask(rooms) == [(1, "a")]


def test_a_file_that_was_replaced_is_seen(rooms: DBOptimizer, path: Path, tmp_path: Path) -> None:
    warm(rooms)
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as new:
        new.executescript("CREATE TABLE keyword (word, language); INSERT INTO keyword VALUES ('b', 'de')")
    for companion in path.parent.glob("app.db-*"):
        companion.unlink()
    (tmp_path / "new.db").replace(path)
    assert ask(rooms) == [(1, "b")]


def test_what_a_transaction_has_written_is_read_inside_it_and_nowhere_else(rooms: DBOptimizer) -> None:
    before = warm(rooms)
    hits = rooms.cache.stats().hits
    with rooms.borrow() as writer:
        writer.execute("DELETE FROM keyword")
        for _ in range(4):
            assert writer.execute(COUNT, ("de",)).fetchall() == [(0, None)]
        assert rooms.cache.stats().hits == hits
        assert ask(rooms) == before
        writer.rollback()
        assert writer.execute(COUNT, ("de",)).fetchall() == before
        writer.execute("DELETE FROM keyword")
        writer.commit()
        for _ in range(4):
            assert writer.execute(COUNT, ("de",)).fetchall() == [(0, None)]
    assert ask(rooms) == [(0, None)]


def test_a_read_transaction_stays_in_its_snapshot(rooms: DBOptimizer, path: Path) -> None:
    before = warm(rooms)
    with rooms.borrow() as reader:
        reader.execute("BEGIN")
        assert reader.execute(COUNT, ("de",)).fetchall() == before
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.executescript("DELETE FROM keyword")
        assert ask(rooms) == [(0, None)]
        for _ in range(5):
            ask(rooms)
            assert reader.execute(COUNT, ("de",)).fetchall() == before
        reader.rollback()
        assert reader.execute(COUNT, ("de",)).fetchall() == [(0, None)]


def test_what_a_half_read_cursor_pins_is_not_kept_for_others(rooms: DBOptimizer, path: Path) -> None:
    """The connection sees an old snapshot although no transaction is open; to keep that would make it everybody's."""
    warm(rooms)
    with rooms.borrow() as pinned:
        half = pinned.execute("SELECT id FROM note UNION ALL SELECT id FROM keyword")
        half.fetchone()
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.executescript("DELETE FROM keyword WHERE language = 'de'")
        for _ in range(8):
            pinned.execute(COUNT, ("de",)).fetchall()
        assert ask(rooms) == [(0, None)]
        assert half.fetchone() is not None
    assert ask(rooms) == [(0, None)]


def test_a_cursor_that_is_answered_lets_go_of_what_it_had_half_read(rooms: DBOptimizer, path: Path) -> None:
    warm(rooms)
    with rooms.borrow() as c:
        cursor = c.execute("SELECT id FROM keyword ORDER BY id + 0")
        cursor.fetchone()
        hits = rooms.cache.stats().hits
        cursor.execute(COUNT, ("de",))
        assert rooms.cache.stats().hits == hits + 1
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.executescript("DELETE FROM keyword")
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (0,)
        assert cursor.fetchall() == [(600, "word2995")], "as it was when it was asked"


def test_rows_that_are_still_being_read_do_not_change_under_the_reader(rooms: DBOptimizer, path: Path) -> None:
    expected = warm(rooms, ALL, ())
    with rooms.borrow() as c:
        cursor = c.execute(ALL)
        first = cursor.fetchone()
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.executescript("DELETE FROM keyword")
        assert [first, *cursor] == expected
        assert c.execute(ALL).fetchall() == []


def test_a_commit_between_look_and_fill_is_not_lost(rooms: DBOptimizer, path: Path) -> None:
    """The rows were read before it, and must not be kept as if they were read after it."""
    ask(rooms)
    shelf = rooms.optimizer.default.shelf
    look = shelf.look

    def look_and_be_overtaken(*arguments: Any) -> Any:
        answer = look(*arguments)
        if answer is not None and answer.rows is None:
            with contextlib.closing(sqlite3.connect(path)) as other:
                other.executescript(
                    "DELETE FROM keyword WHERE id = (SELECT min(id) FROM keyword WHERE language = 'de')"
                )
        return answer

    rooms.optimizer.default.road.look = look_and_be_overtaken
    for _ in range(8):
        told = ask(rooms)
        with contextlib.closing(sqlite3.connect(path)) as plain:
            assert told == plain.execute(COUNT, ("de",)).fetchall()
    assert rooms.cache.stats().hits == 0


def test_an_own_function_that_takes_a_built_ins_name_is_not_answered_by_the_cache(rooms: DBOptimizer) -> None:
    sql = "SELECT max(lower(word)) FROM keyword"
    assert warm(rooms, sql, ()) == [("word2999",)]
    with rooms.borrow() as c:
        c.create_function("lower", 1, lambda text: "mine", deterministic=True)
        for _ in range(4):
            assert c.execute(sql).fetchall() == [("mine",)]
    del c
    assert ask(rooms, sql, ()) == [("word2999",)]


def test_an_own_collation_is_not_answered_by_the_cache(rooms: DBOptimizer) -> None:
    sql = "SELECT word FROM keyword ORDER BY word COLLATE NOCASE LIMIT 1"
    assert warm(rooms, sql, ()) == [("word0000",)]
    with rooms.borrow() as c:
        c.create_collation("NOCASE", lambda a, b: (a < b) - (a > b))
        assert c.execute(sql).fetchall() == [("word2999",)]
    del c
    assert ask(rooms, sql, ()) == [("word0000",)]


def test_a_temp_table_that_hides_a_table_is_not_answered_by_the_cache(rooms: DBOptimizer) -> None:
    before = warm(rooms)
    for statement in ("CREATE TEMP TABLE keyword (word, language)", "CREATE TABLE temp.keyword (word, language)"):
        with rooms.borrow() as c:
            c.execute(statement)
            for _ in range(4):
                assert c.execute(COUNT, ("de",)).fetchall() == [(0, None)]
        del c
        assert ask(rooms) == before


def test_an_attached_database_is_never_answered_by_the_cache(rooms: DBOptimizer, tmp_path: Path) -> None:
    with rooms.borrow() as c:
        c.execute("ATTACH ? AS more", (str(tmp_path / "more.db"),))
        c.execute("CREATE TABLE more.extra (a)")
        for n in range(6):
            assert c.execute("SELECT count(*) FROM extra").fetchall() == [(n,)]
            c.execute("INSERT INTO extra VALUES (?)", (n,))
            c.commit()


def test_a_pragma_that_shapes_results_is_not_answered_by_the_cache(rooms: DBOptimizer) -> None:
    sql = "SELECT count(*) FROM keyword WHERE word LIKE 'WORD%'"
    assert warm(rooms, sql, ()) == [(3000,)]
    with rooms.borrow() as c:
        c.execute("PRAGMA case_sensitive_like = ON")
        assert c.execute(sql).fetchall() == [(0,)]
    del c
    assert ask(rooms, sql, ()) == [(3000,)]


def test_an_authorizer_is_asked_although_the_rows_are_kept(rooms: DBOptimizer) -> None:
    warm(rooms)
    with rooms.borrow() as c:
        c.set_authorizer(lambda *about: sqlite3.SQLITE_DENY)
        with pytest.raises(sqlite3.DatabaseError):
            c.execute(COUNT, ("de",))
    del c
    warm(rooms)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random(), count(*) FROM keyword",
        "SELECT strftime('%f', 'now'), julianday(), count(*) FROM keyword",
        "SELECT total_changes(), count(*) FROM keyword",
        "SELECT last_insert_rowid(), changes(), count(*) FROM keyword",
        "SELECT hex(randomblob(8)), count(*) FROM keyword",
        "SELECT CURRENT_TIMESTAMP, count(*) FROM keyword",
        "SELECT * FROM pragma_table_info('keyword'), (SELECT count(*) FROM keyword)",
    ],
)
def test_what_changes_by_itself_is_never_kept(rooms: DBOptimizer, sql: str) -> None:
    for _ in range(8):
        ask(rooms, sql, ())
    assert rooms.cache.stats().entries == 0


def test_queries_that_differ_in_anything_are_different(rooms: DBOptimizer) -> None:
    sql = "SELECT typeof(?), count(*) FROM keyword"
    for _ in range(6):
        told = [ask(rooms, sql, (value,))[0][0] for value in (1, 1.0, True, "1", b"1", None)]
        assert told == ["integer", "real", "integer", "text", "blob", "null"]
    for _ in range(6):
        with contextlib.closing(rooms.connect(detect_types=sqlite3.PARSE_DECLTYPES)) as c:
            assert str(c.execute("SELECT max(id), day FROM keyword").fetchone()[1]) == "2026-01-04"
            assert not isinstance(c.execute("SELECT max(id), day FROM keyword").fetchone()[1], str)
        with rooms.borrow() as c:
            assert c.execute("SELECT max(id), day FROM keyword").fetchone()[1] == "2026-01-04"
            c.text_factory = bytes
            assert c.execute("SELECT max(id), day FROM keyword").fetchone()[1] == b"2026-01-04"


def test_two_apps_on_one_file_see_each_others_commits(make_app: Callable[..., Flask], path: Path) -> None:
    one, two = (DBOptimizer(make_app(DBOPT_DATABASE=str(path))) for _ in range(2))
    for dbopt in (one, two):
        dbopt.optimizer.default.road.notable = dbopt.optimizer.default.shelf.worth = 0.0
        warm(dbopt)
    with one.transaction() as c:
        c.execute("DELETE FROM keyword WHERE language = 'de'")
    assert ask(two) == ask(one) == [(0, None)]


def test_two_databases_of_one_app_are_two(make_app: Callable[..., Flask], path: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "more.db")) as more:
        more.executescript("CREATE TABLE keyword (word, language)")
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_DATABASES={"more": str(tmp_path / "more.db")})
    dbopt = DBOptimizer(app)
    for database in dbopt.optimizer.databases.values():
        database.road.notable = database.shelf.worth = 0.0
    for _ in range(6):
        for name, count in ((None, 600), ("default", 600), ("more", 0)):
            with dbopt.borrow(name) as c:
                assert c.execute(COUNT, ("de",)).fetchone()[0] == count
    assert dbopt.cache.stats().hits > 0


def test_threads_that_read_and_write_never_see_less_than_they_were_promised(rooms: DBOptimizer) -> None:
    """Each reader asks after a commit was acknowledged, and must see at least that one."""
    done = threading.Event()
    acknowledged = [0]
    wrong: list[Any] = []

    def write() -> None:
        for n in range(1, 60):
            with rooms.transaction() as c:
                c.execute("INSERT INTO note (id, text) VALUES (?, 'x')", (n,))
            acknowledged[0] = n
        done.set()

    def read() -> None:
        while not done.is_set():
            promised = acknowledged[0]
            ((count, newest),) = ask(rooms, "SELECT count(*), max(id) FROM note WHERE text = ?", ("x",))
            if count < promised or (newest or 0) != count:
                wrong.append((promised, count, newest))

    threads = [threading.Thread(target=work) for work in (write, read, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_starts_empty_and_leaves_the_parent_alone(rooms: DBOptimizer, path: Path) -> None:
    before = warm(rooms)
    with rooms.borrow() as c:
        c.execute("SELECT 1")
    del c
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fresh = rooms.cache.stats().entries == 0 and rooms.pool.stats().connections_num == 0
            same = ask(rooms) == before
            with rooms.transaction() as c:
                c.execute("DELETE FROM keyword WHERE language = 'de'")
            code = 0 if fresh and same and ask(rooms) == [(0, None)] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask(rooms) == [(0, None)]


def test_bypass_reads_and_keeps_nothing(rooms: DBOptimizer) -> None:
    warm(rooms)
    hits = rooms.cache.stats().hits
    with rooms.cache.bypass():
        ask(rooms)
        assert rooms.cache.stats().hits == hits
    ask(rooms)
    assert rooms.cache.stats().hits == hits + 1


def test_with_the_cache_off_nothing_is_kept(make_app: Callable[..., Flask], path: Path) -> None:
    dbopt = DBOptimizer(make_app(DBOPT_DATABASE=str(path), DBOPT_CACHE_ENABLED=False))
    for _ in range(6):
        assert ask(dbopt)[0][0] == 600
    assert dbopt.cache.stats().lookups == 0
    assert sum(each.calls for each in dbopt.monitor.queries()) == 6
