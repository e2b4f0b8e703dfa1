"""Which statements earn their look-ups, and how soon: by what they cost, what they save, and whose place they take."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from flask_dbopt.cache.admission import SURE, WORTH
from flask_dbopt.cache.cache import Ticket

if TYPE_CHECKING:
    from conftest import Bench

SQL = "SELECT text FROM word WHERE id >= ? ORDER BY id"
FACTORIES = (None, str)
CHEAP, DEAR, SLOW = 5e-6, 300e-6, 50e-3
assert CHEAP < WORTH < DEAR < SURE < SLOW


def calls_of(look: Any, *arguments: object) -> list[str]:
    """The functions of ours that are called by it."""
    called: list[str] = []

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call" and "flask_dbopt" in frame.f_code.co_filename:
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert look(*arguments) is None
    finally:
        sys.setprofile(before)
    return called


@pytest.mark.parametrize("sql", [SQL, "SELECT * FROM word WHERE id >= :low AND text <> 'x'"])
def test_a_slow_query_is_a_hit_from_its_third_run(bench: Bench, sql: str) -> None:
    bench.clock.cost = SLOW
    assert bench.reader().ways(sql, (1,) if sql is SQL else {"low": 1}) == ["ran", "kept", "hit", "hit"]


def test_so_is_a_slow_query_that_has_no_values_at_all(bench: Bench) -> None:
    bench.clock.cost = SLOW
    assert bench.reader().ways("SELECT count(*) FROM word") == ["ran", "kept", "hit", "hit"]


def test_other_values_of_a_slow_statement_hit_at_their_second_run(bench: Bench) -> None:
    bench.clock.cost = SLOW
    reader = bench.reader()
    reader.warm(SQL, (1,))
    assert reader.ways(SQL, (2,), times=2) == ["kept", "hit"]


def test_text_with_values_in_it_takes_one_run_more(bench: Bench) -> None:
    bench.clock.cost = SLOW
    sql = "SELECT text FROM word WHERE text <> 'who?'"
    assert bench.reader().ways(sql) == ["ran", "ran", "kept", "hit"]


def test_a_query_that_is_not_that_slow_must_show_that_it_repeats(bench: Bench) -> None:
    bench.clock.cost = DEAR
    reader = bench.reader()
    assert reader.ways(SQL, (1,), times=5) == ["ran", "ran", "ran", "kept", "hit"]
    for number in range(100):
        reader.ask(SQL, (100 + number,))
        assert reader.how == "ran"
    assert bench.cache.stats().entries == 1


def test_what_was_kept_is_kept_anew_after_a_change_however_long_it_was_served(bench: Bench) -> None:
    bench.clock.cost = DEAR
    reader = bench.reader()
    reader.ways(SQL, (1,), times=4)
    for number in range(3):  # so long that it is forgotten who asked for what
        bench.clock.now += 301
        reader.ask(SQL, (2 + number,))
    assert reader.ways(SQL, (1,), times=1) == ["hit"]
    bench.writer.execute("UPDATE word SET text = 'z' WHERE id = 1")
    assert reader.ways(SQL, (1,), times=2) == ["kept", "hit"]


def test_a_cold_first_run_does_not_make_a_cheap_statement_worthy(bench: Bench) -> None:
    reader = bench.reader()
    bench.clock.cost = DEAR
    reader.ask(SQL, (1,))
    bench.clock.cost = CHEAP
    for number in range(50):
        reader.ask(SQL, (number % 3,))
    assert bench.cache.stats().lookups == 0


@pytest.mark.parametrize("first", [[SLOW], [DEAR, DEAR]])
def test_a_cheap_statement_that_slipped_in_is_soon_out_and_then_costs_one_probe(
    bench: Bench, first: list[float]
) -> None:
    reader = bench.reader()
    for cost in first:
        bench.clock.cost = cost
        reader.ask(SQL, (1,))
    bench.clock.cost = CHEAP
    for number in range(10):
        reader.ask(SQL, (number,))
        assert reader.how != "kept"
    lookups = bench.cache.stats().lookups
    assert 1 <= lookups <= 10
    assert calls_of(bench.shelf.look, SQL, (1,), FACTORIES, reader.identity) == ["look"]
    for number in range(100):
        reader.ask(SQL, (number,))
    assert bench.cache.stats().lookups == lookups


def test_slow_runs_now_and_then_bring_a_cheap_statement_back_ever_more_seldom(bench: Bench) -> None:
    reader = bench.reader()
    lookups = []
    for number in range(13_000):
        if number in (6000, 12_999):
            lookups.append(bench.cache.stats().lookups)
        bench.clock.cost = DEAR if number % 100 < 2 else CHEAP  # a busy machine, twice in a hundred runs
        reader.ask(SQL, (number,))
    assert lookups[0] < 0.1 * 6000
    assert lookups[1] - lookups[0] < 0.05 * 7000


def test_slow_values_among_many_cheap_ones_are_served(bench: Bench) -> None:
    reader = bench.reader()
    ways = []
    for number in range(1000):
        if number % 20 == 0:
            bench.clock.cost = SLOW
            reader.ask(SQL, (number // 20 % 3,))
            ways.append(reader.how)
        else:
            bench.clock.cost = CHEAP
            reader.ask(SQL, (1000 + number,))
    assert set(ways[15:]) == {"hit"}


def test_a_slow_statement_stays_although_cheap_values_are_asked_far_more_often(bench: Bench) -> None:
    reader = bench.reader()
    bench.clock.cost = SLOW
    reader.warm(SQL, (1,))
    bench.clock.cost = CHEAP
    for number in range(3000):
        reader.ask(SQL, (1 if number % 300 == 0 else 10 + number,))
        assert (reader.how == "hit") == (number % 300 == 0)


def test_a_result_that_is_slow_to_fetch_counts_as_slow(bench: Bench) -> None:
    bench.shelf.learn(SQL, CHEAP)
    assert bench.shelf.look(SQL, (1,), FACTORIES) is None
    bench.shelf.learn(SQL, SLOW, CHEAP)
    assert isinstance(bench.shelf.look(SQL, (1,), FACTORIES), Ticket)


def test_so_does_one_whose_execution_alone_was_not_slow_enough(bench: Bench) -> None:
    bench.shelf.learn(SQL, DEAR)
    assert bench.shelf.look(SQL, (1,), FACTORIES) is None
    bench.shelf.learn(SQL, SLOW, DEAR)
    assert isinstance(bench.shelf.look(SQL, (1,), FACTORIES), Ticket)


def test_a_run_told_in_two_parts_is_seen_once(bench: Bench) -> None:
    bench.shelf.learn(SQL, DEAR)
    bench.shelf.learn(SQL, DEAR + CHEAP, DEAR)
    bench.shelf.look(SQL, (1,), FACTORIES)
    assert bench.cache.stats().lookups == 0


def test_quick_execution_does_not_demote_what_is_slow_to_fetch(bench: Bench) -> None:
    bench.shelf.learn(SQL, SLOW)
    for number in range(200):
        bench.shelf.learn(SQL, CHEAP)
        bench.shelf.learn(SQL, SLOW, CHEAP)
        bench.shelf.look(SQL, (number,), FACTORIES)
    assert bench.cache.stats().lookups == 200


def test_time_between_the_look_up_and_the_run_is_no_cost_of_the_query(bench: Bench) -> None:
    bench.clock.cost = SLOW
    reader = bench.reader()
    reader.ask(SQL, (1,))
    ticket = reader.look(SQL, (1,))
    assert isinstance(ticket, Ticket)
    bench.clock.spent += 1.0
    ticket.begin()
    bench.clock.spent += CHEAP
    assert not ticket.keep([("a",)], None)
    assert bench.cache.stats().refused == 1


def test_a_scan_of_one_off_queries_over_a_full_cache_evicts_nothing(bench: Bench) -> None:
    bench.restart(max_entries=10)
    bench.clock.cost = SLOW
    reader = bench.reader()
    for number in range(10):
        reader.warm(SQL, (number,))
    for number in range(500):
        reader.ask(SQL, (1000 + number,))
        assert reader.how == "ran"
    assert bench.cache.stats().evictions == 0
    for number in range(10):
        reader.ask(SQL, (number,))
        assert reader.how == "hit"


def test_a_scan_that_filled_the_cache_makes_room_for_what_repeats(bench: Bench) -> None:
    bench.restart(max_entries=10)
    bench.clock.cost = SLOW
    reader = bench.reader()
    for number in range(4):
        reader.warm(SQL, (number,))
    for number in range(500):
        reader.ask(SQL, (1000 + number,))
    for number in range(4, 10):
        assert reader.ways(SQL, (number,), times=3) == ["ran", "kept", "hit"]
    for number in range(10):
        reader.ask(SQL, (number,))
        assert reader.how == "hit"


def test_results_that_are_read_at_the_same_time_do_not_fight_for_the_last_place(bench: Bench) -> None:
    bench.restart(max_entries=3)
    bench.clock.cost = SLOW
    reader = bench.reader()
    reader.warm(SQL, (1,))
    reader.warm(SQL, (2,))
    one_offs = [reader.look(SQL, (10 + number,)) for number in range(3)]
    kept = []
    for ticket in one_offs:
        assert isinstance(ticket, Ticket)
        ticket.begin()
        bench.clock.run()
        kept.append(ticket.keep([("a",)], None))
    assert kept == [True, False, False]
    assert bench.cache.stats().evictions == 0


def test_a_result_on_trial_that_does_not_fit_into_the_rest_of_the_cache_evicts_nothing(bench: Bench) -> None:
    bench.restart(max_bytes=20_000)
    bench.clock.cost = SLOW
    reader = bench.reader()
    for number in range(5):
        reader.warm("SELECT zeroblob(?) FROM word LIMIT 1", (1000 + number,))
    before = bench.cache.stats()
    reader.ask("SELECT zeroblob(?) FROM word LIMIT 1", (6000,))
    assert reader.how == "refused"
    assert bench.cache.stats().entries == before.entries
    assert bench.cache.stats().evictions == 0
    reader.ask("SELECT zeroblob(?) FROM word LIMIT 1", (6000,))
    assert reader.how == "kept"  # it repeats, so others may go for it


def test_a_statement_whose_results_are_too_large_is_not_read_ahead_for_each_new_value(bench: Bench) -> None:
    bench.restart(max_result=640)
    bench.clock.cost = SLOW
    reader = bench.reader()
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n"
    assert reader.ways(sql, (50,), times=2) == ["ran", "refused"]
    for number in range(51, 60):
        assert reader.look(sql, (number,)) is None


def test_a_result_that_was_kept_for_its_cold_start_is_found_out_while_it_is_served(bench: Bench) -> None:
    reader = bench.reader()
    bench.clock.cost = DEAR
    while reader.how != "hit":
        reader.ask(SQL, (1,))
    bench.clock.cost = CHEAP
    assert "refused" in reader.ways(SQL, (1,), times=6)  # one of the hits was run again instead
    reader.ways(SQL, (1,), times=20)
    assert calls_of(bench.shelf.look, SQL, (1,), FACTORIES) == ["look"]


def test_a_result_that_is_worth_it_passes_its_proofs(bench: Bench) -> None:
    reader = bench.reader()
    bench.clock.cost = DEAR
    ways = reader.ways(SQL, (1,), times=200)
    assert ways.count("hit") > 180
    assert "refused" not in ways
