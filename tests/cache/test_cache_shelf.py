"""What a cursor sees of the cache: true results, the right to keep one, or nothing."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from flask_dbopt.cache.cache import Cache, CacheStats, Kept, Ticket
from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher

if TYPE_CHECKING:
    from conftest import Bench

SQL = "SELECT text FROM word WHERE id >= ? ORDER BY id"
FACTORIES = (None, str)


def test_an_expensive_query_that_repeats_is_kept_and_served(bench: Bench) -> None:
    reader = bench.reader()
    rows = reader.warm(SQL, (2,))
    assert reader.ask(SQL, (2,)) == rows == [("b",), ("c",)]
    assert reader.how == "hit"
    assert reader.description[0] == ("text", None, None, None, None, None, None)


def test_a_statement_nobody_learned_of_is_not_looked_up(bench: Bench) -> None:
    assert bench.shelf.look(SQL, (1,), FACTORIES) is None
    assert bench.cache.stats().lookups == 0


def test_a_cheap_run_teaches_nothing(bench: Bench) -> None:
    for _ in range(10):
        bench.shelf.learn(SQL, bench.shelf.worth)
        assert bench.shelf.look(SQL, (1,), FACTORIES) is None
    assert bench.cache.stats().lookups == 0


def test_where_a_look_up_costs_more_than_a_query_the_query_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As among many threads, where each of its system calls waits for the interpreter."""
    plain = SQLiteWatcher.token

    def dear(self: SQLiteWatcher, identity: Any = None) -> Any:
        time.sleep(0.001)
        return plain(self, identity)

    monkeypatch.setattr(SQLiteWatcher, "token", dear)
    values = count()

    def serve(seconds: float, times: int) -> int:
        """How often the cache was asked in so many runs."""
        before = bench.cache.stats().lookups
        for _ in range(times):
            value = next(values) // 2
            bench.shelf.learn(SQL, seconds)
            if isinstance(found := bench.shelf.look(SQL, (value,), FACTORIES), Ticket):
                found.keep([("a",)], None)
        return bench.cache.stats().lookups - before

    cost = 20 * bench.shelf.worth
    assert serve(cost, 500) > 50
    assert serve(cost, 500) < 20


def test_each_parameter_value_type_and_factory_has_its_own_result(bench: Bench) -> None:
    sql = "SELECT typeof(?), ? FROM word"
    plain, rows = bench.reader(), bench.reader(sqlite3.Row)
    for _ in range(5):
        for value in (1, 1.0, True, "1", b"1", None, 0.0, -0.0):
            assert str(plain.ask(sql, (value, value))[0]) == str(
                plain.connection.execute(sql, (value, value)).fetchone()
            )
    assert plain.how == "hit"
    assert rows.warm(sql, (1, 1))[0].keys() == ["typeof(?)", "?"]
    assert type(rows.ask(sql, (1, 1))[0]) is sqlite3.Row
    assert rows.how == "hit"


def test_named_parameters_hit_in_any_order(bench: Bench) -> None:
    sql = "SELECT text FROM word WHERE id > :low AND id < :high"
    reader = bench.reader()
    reader.warm(sql, {"low": 1, "high": 3})
    assert reader.ask(sql, {"high": 3, "low": 1}) == [("b",)]
    assert reader.how == "hit"
    assert reader.ask(sql, {"high": 1, "low": 3}) == []
    assert reader.how != "hit"


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [Word("a"), bytearray(b"a"), memoryview(b"a")])
def test_a_parameter_of_an_unknown_type_is_not_looked_up(bench: Bench, value: Any) -> None:
    reader = bench.reader()
    sql = "SELECT text FROM word WHERE text = ?"
    reader.warm(sql, ("a",))
    assert reader.never_kept(sql, (value,))


def test_factories_that_cannot_be_hashed_are_not_looked_up(bench: Bench) -> None:
    bench.reader().warm(SQL, (1,))
    assert bench.shelf.look(SQL, (1,), [str]) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random() FROM word",
        "SELECT text, CURRENT_TIMESTAMP FROM word",
        "SELECT datetime('now') FROM word",
        "SELECT * FROM pragma_table_info('word')",
        "PRAGMA table_info(word)",
        "SELECT a FROM mine",
        "SELECT a FROM other.theirs",
        "SELECT shout(text) FROM word",
        "SELECT total_changes()",
        "EXPLAIN SELECT * FROM word",
        "/* a */ INSERT INTO audit VALUES ('a') RETURNING note",
        "WITH x AS (SELECT 'b' AS t) INSERT INTO audit SELECT t FROM x RETURNING note",
        "UPDATE language SET name = 'de' RETURNING name",
    ],
)
def test_what_is_no_pure_query_of_this_database_is_never_kept(bench: Bench, sql: str) -> None:
    reader = bench.reader()
    reader.connection.create_function("shout", 1, str.upper, deterministic=True)
    reader.connection.execute("CREATE TEMP TABLE mine (a)")
    reader.connection.execute("ATTACH ':memory:' AS other")
    reader.connection.execute("CREATE TABLE other.theirs (a)")
    assert reader.never_kept(sql)


def test_comments_and_semicolons_do_not_keep_a_query_from_being_kept(bench: Bench) -> None:
    reader = bench.reader()
    sql = "-- the words\n /* of all */ SELECT text FROM word ;  -- done"
    reader.warm(sql)
    reader.ask(sql)
    assert reader.how == "hit"


def test_several_statements_in_one_text_are_never_kept(bench: Bench) -> None:
    sql = "SELECT text FROM word; DELETE FROM word"
    bench.shelf.learn(sql, 1.0)
    bench.shelf.learn(sql, 1.0)
    assert bench.shelf.look(sql, (), FACTORIES) is None
    assert bench.writer.execute("SELECT count(*) FROM word").fetchone() == (3,)


def test_a_row_factory_that_makes_mutable_rows_is_never_kept(bench: Bench) -> None:
    reader = bench.reader(lambda cursor, row: list(row))
    assert reader.never_kept(SQL, (1,))
    assert bench.cache.stats().refused > 0


def test_a_text_factory_that_makes_mutable_values_is_never_kept(bench: Bench) -> None:
    reader = bench.reader()
    reader.connection.text_factory = bytearray
    assert reader.never_kept(SQL, (1,))


def test_a_caller_cannot_alter_what_the_next_one_gets(bench: Bench) -> None:
    reader = bench.reader()
    expected = list(reader.warm(SQL, (1,)))
    reader.ask(SQL, (1,)).clear()
    assert reader.ask(SQL, (1,)) == expected
    answer = bench.shelf.look(SQL, (1,), FACTORIES, reader.identity)
    assert isinstance(answer, Kept)
    with pytest.raises(AttributeError):
        answer.rows = ()  # type: ignore[misc]


def test_a_result_that_is_too_large_is_not_kept_and_not_tried_again_soon(bench: Bench) -> None:
    bench.restart(max_result=64 * 10)
    reader = bench.reader()
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n"
    reader.ask(sql, (50,))
    ticket = bench.shelf.look(sql, (50,), FACTORIES, reader.identity)
    assert isinstance(ticket, Ticket)
    assert ticket.max_rows == 10
    assert ticket.rows is None
    assert not ticket.keep([(1,)] * 11, None)
    assert bench.shelf.look(sql, (50,), FACTORIES, reader.identity) is None
    bytes_too_many = "SELECT zeroblob(?) FROM word"
    assert reader.never_kept(bytes_too_many, (10_000,))


def test_the_cache_stays_within_its_entries_and_bytes(bench: Bench) -> None:
    bench.restart(max_entries=5, max_bytes=20_000)
    reader = bench.reader()
    for number in range(20):
        reader.warm(SQL, (number,))
        assert bench.cache.stats().entries <= 5
    for number in range(20):
        reader.ask("SELECT zeroblob(?) FROM word LIMIT 1", (5000 + number,))
        reader.ask("SELECT zeroblob(?) FROM word LIMIT 1", (5000 + number,))
        reader.ask("SELECT zeroblob(?) FROM word LIMIT 1", (5000 + number,))
        assert bench.cache.stats().bytes <= 20_000
    assert bench.cache.stats().evictions >= 15


def test_an_entry_does_not_outlive_its_time(bench: Bench) -> None:
    bench.restart(ttl=60)
    reader = bench.reader()
    reader.warm(SQL, (1,))
    bench.clock.now += 59
    reader.ask(SQL, (1,))
    assert reader.how == "hit"
    bench.clock.now += 2
    reader.ask(SQL, (1,))
    assert reader.how == "kept"
    assert bench.cache.stats().expirations == 1


def test_a_clock_running_backward_expires_nothing(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    bench.clock.now -= 500
    reader.ask(SQL, (1,))
    assert reader.how == "hit"


def test_bypass_serves_and_keeps_nothing_inside_it(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    before = bench.cache.stats().lookups
    with bench.cache.bypass():
        reader.ask(SQL, (1,))
        assert reader.how == "ran"
    assert bench.cache.stats().lookups == before
    reader.ask(SQL, (1,))
    assert reader.how == "hit"


def test_bypass_is_of_this_cache_and_this_context_alone(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    answers: list[Any] = []
    with Cache().bypass():
        reader.ask(SQL, (1,))
        assert reader.how == "hit"
    with bench.cache.bypass():
        thread = threading.Thread(
            target=lambda: answers.append(bench.shelf.look(SQL, (1,), FACTORIES, reader.identity))
        )
        thread.start()
        thread.join()
    assert isinstance(answers[0], Kept)


def test_invalidate_drops_what_was_read_from_a_table_or_view(bench: Bench) -> None:
    reader = bench.reader()
    for sql in ("SELECT text FROM word", "SELECT text FROM shown", "SELECT name FROM language"):
        reader.warm(sql)
    assert bench.cache.invalidate("Shown") == 1
    assert bench.cache.invalidate("WORD", "nowhere") == 1
    assert bench.cache.stats().entries == 1
    assert bench.cache.invalidate() == 0
    reader.ask("SELECT name FROM language")
    assert reader.how == "hit"


def test_what_was_being_read_when_the_cache_was_cleared_is_not_kept(bench: Bench) -> None:
    reader = bench.reader()
    reader.ask(SQL, (2,))
    reader.ask(SQL, (2,), between=bench.cache.clear)
    assert reader.how == "refused"


def test_clear_drops_everything_and_says_how_much(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    reader.warm(SQL, (2,))
    assert bench.cache.clear() == 2
    stats = bench.cache.stats()
    assert (stats.entries, stats.bytes, stats.invalidations) == (0, 0, 2)
    reader.ask(SQL, (1,))
    assert reader.how != "hit"


def test_two_databases_share_one_bound_and_nothing_else(bench: Bench) -> None:
    other_path = bench.path.with_name("other.db")
    with closing(sqlite3.connect(other_path)) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO word VALUES (9, 'other')")
        connection.commit()
    first = bench.reader()
    first.warm(SQL, (1,))
    shelf = bench.cache.shelf("other", SQLiteWatcher(other_path))
    second = type(first)(other_path, shelf, bench.clock)
    try:
        assert second.warm(SQL, (1,)) == [("other",)]
        second.connection.execute("DELETE FROM word")
        assert second.ask(SQL, (1,)) == []
        first.ask(SQL, (1,))
        assert first.how == "hit"
        assert ("cache_invalidated", {"database": "other", "entries": 1}) in bench.signals
    finally:
        second.connection.close()


def test_asked_twice_for_a_shelf_it_is_the_same_one(bench: Bench) -> None:
    assert bench.cache.shelf("default", bench.watcher) is bench.shelf


def test_figures_count_only_what_could_be_kept(bench: Bench) -> None:
    assert bench.cache.stats().hit_ratio is None
    reader = bench.reader()
    for _ in range(5):
        reader.ask("SELECT random() FROM word")
    assert bench.cache.stats().lookups == 0
    for _ in range(10):
        reader.ask(SQL, (1,))  # learned, kept, then eight hits
    stats = bench.cache.stats()
    assert (stats.hits, stats.misses, stats.fills, stats.entries) == (8, 1, 1, 1)
    assert stats.hit_ratio == pytest.approx(8 / 9)
    assert (stats.max_entries, stats.max_bytes, stats.max_result, stats.ttl) == (
        1000,
        64 << 20,
        1 << 20,
        3600,
    )
    assert stats.bytes > 0
    assert CacheStats().hit_ratio is None


def test_hits_misses_and_invalidations_are_told_without_literals(bench: Bench) -> None:
    reader = bench.reader()
    sql = "SELECT text FROM word WHERE text <> 'secret'"
    reader.warm(sql)
    reader.ask(sql)
    bench.writer.execute("DELETE FROM word")
    reader.ask(sql)
    assert bench.names() == ["cache_miss", "cache_hit", "cache_invalidated", "cache_miss"]
    assert "secret" not in str(bench.signals)
