"""What a real cursor tells the cache of its runs, and what it does with a ticket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flask_dbopt.cache.cache import Cache, Kept, Ticket
from flask_dbopt.engines.sqlite.connector import Arguments, SQLiteConnector
from flask_dbopt.engines.sqlite.road import Road
from flask_dbopt.engines.sqlite.tuning import Tuning

if TYPE_CHECKING:
    from conftest import Bench

POINT = "SELECT text FROM word WHERE id = ?"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :last) "
# Some 10 ms, so that no machine takes it for a quick one; in the second, half of that is fetching.
SLOW = NUMBERS + "SELECT count(*) FROM n, word"
MANY = NUMBERS + "SELECT i FROM n ORDER BY i DESC"


class Drive:
    """A connection of ours with a real cache on its road, and what passed there."""

    def __init__(self, bench: Bench, cache: Cache) -> None:
        self.cache = cache
        self.shelf = cache.shelf("default", bench.watcher)
        self.answers: list[type] = []
        self.told: list[tuple[Any, ...]] = []
        road = Road()
        road.look, road.worthy, road.learn = self._look, self.shelf.worthy, self._learn
        road.notable = self.shelf.worth
        self.connector = SQLiteConnector(bench.path, Tuning({}), road)
        self.connection, _ = self.connector.open(Arguments())
        self.connector.lend(self.connection, lambda connection: None)

    def _look(self, *question: Any) -> Any:
        answer = self.shelf.look(*question)
        self.answers.append(type(answer))
        return answer

    def _learn(self, *run: Any) -> None:
        self.told.append(run)
        self.shelf.learn(*run)

    def close(self) -> None:
        self.connector.close(self.connection)
        self.cache.close()


@pytest.fixture
def drive(bench: Bench) -> Iterator[Drive]:
    drive = Drive(bench, Cache(max_result=64_000))
    yield drive
    drive.close()


def test_the_fetching_is_told_as_the_rest_of_a_run_that_was_told_before(drive: Drive) -> None:
    drive.connection.execute(POINT, (1,)).fetchall()
    execution, whole = drive.told
    assert execution[0] == whole[0] == POINT
    assert 0 < execution[1] == whole[2] < whole[1]


def test_a_slow_page_is_a_hit_from_its_third_run(drive: Drive) -> None:
    for _ in range(3):
        assert drive.connection.execute(SLOW, {"last": 40_000}).fetchall() == [(120_000,)]
    assert drive.answers == [Ticket, Kept]  # the first run is of a statement that nobody knows yet
    assert drive.cache.stats().fills == 1


def test_a_result_that_proved_too_large_is_not_read_ahead_again(drive: Drive) -> None:
    expected = [(i,) for i in range(30_000, 0, -1)]
    for _ in range(3):
        assert drive.connection.execute(MANY, {"last": 30_000}).fetchall() == expected
    assert drive.answers == [Ticket, type(None)]
    assert (drive.cache.stats().refused, drive.cache.stats().entries) == (1, 0)
