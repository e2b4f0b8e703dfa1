"""What is told of a statement beside its sums: its database, its place, its slow runs and its plans."""

import sqlite3
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest

from flask_dbopt.monitor import plans, remarkable
from flask_dbopt.monitor.recorder import PER_REQUEST
from flask_dbopt.monitor.request import Sample
from flask_dbopt.monitor.sums import identify

COUNT = "SELECT count(*) FROM word"


@pytest.fixture
def run_slowly(clock):
    """A run of ``sql`` that took long, with what the cursor catches of it."""

    def run_slowly(
        monitor, sql, seconds=0.3, *, parameters=None, database="default", endpoint="search", stack=("a.py:3",)
    ):
        cost = monitor.recorder.begin(endpoint, "GET")
        record = monitor.recorder.recording(database)(sql, seconds, 7, None, False)
        monitor.recorder.slow.append(Sample(record, endpoint, stack, parameters))
        monitor.recorder.end(cost, 200)
        clock.now += 1

    return run_slowly


# --- whose statement it is ---


def test_the_same_text_in_two_databases_is_two_statements(monitor, clock):
    for database, seconds in (("default", 0.1), ("archive", 0.2), ("archive", 0.4)):
        monitor.recorder.recording(database)(COUNT, seconds, 1, None, False)
    for _ in range(2):  # before and after the flush
        found = {row.database: row for row in monitor.queries()}
        assert {name: row.calls for name, row in found.items()} == {"default": 1, "archive": 2}
        assert found["default"].id == identify(COUNT)
        assert found["archive"].id == identify(COUNT, "archive") != identify(COUNT)
        assert monitor.query(found["archive"].id).max_exec_time == 400
        monitor.sweep(clock.now)


def test_the_workload_of_one_database_is_its_own(monitor, clock):
    for _ in range(2):  # one run is flushed, the other is not
        for database in ("default", "archive"):
            monitor.recorder.recording(database)(f"SELECT {database}", 0.1, 1, None, False)
        assert [row.query for row in monitor.workload(database="archive")] == ["SELECT archive"]
        monitor.sweep(clock.now)
    assert {row.query: (row.calls, row.database) for row in monitor.workload()} == {
        "SELECT default": (2, "default"),
        "SELECT archive": (2, "archive"),
    }
    assert monitor.workload(database="nobody's") == []


def test_a_statement_keeps_the_place_it_was_seen_at_last(build, clock):
    monitor = build()
    monitor.recorder.places[COUNT] = "views.py:10"
    monitor.recorder.record(COUNT, 0.1, 1, None, False)
    assert monitor.queries()[0].place == "views.py:10"
    monitor.sweep(clock.now)
    clock.now += 60
    monitor.recorder.places[COUNT] = "views.py:12"  # the next release
    monitor.recorder.record(COUNT, 0.1, 1, None, False)
    assert monitor.queries()[0].place == "views.py:12"
    monitor.sweep(clock.now)
    assert build().queries()[0].place == "views.py:12"


# --- slow runs ---


def test_a_slow_run_is_kept_with_what_led_to_it(build, clock, run_slowly):
    monitor = build()
    monitor.recorder.places[COUNT] = "views.py:10"
    run_slowly(monitor, COUNT, stack=("views.py:10 in search", "app.py:3 in index"))
    for told in (monitor, build()):
        if told is not monitor:
            monitor.sweep(clock.now)
        (run,) = told.details(identify(COUNT)).slow_runs
        assert (run.time, run.rows, run.error, run.endpoint) == (300, 7, None, "search")
        assert run.place == "views.py:10"
        assert run.stack == ("views.py:10 in search", "app.py:3 in index")
        assert run.parameters is None


def test_the_time_of_a_slow_run_is_that_after_its_last_fetch(monitor, clock):
    record = monitor.recorder.record(COUNT, 0.3, -1, None, False)
    monitor.recorder.slow.append(Sample(record, "", ()))
    monitor.sweep(clock.now)
    assert monitor.details(identify(COUNT)).slow_runs == ()
    record[1], record[2] = 0.9, 40
    del record
    monitor.sweep(clock.now)
    (run,) = monitor.details(identify(COUNT)).slow_runs
    assert (run.time, run.rows) == (900, 40)
    assert monitor.query(identify(COUNT)).calls == 1


def test_a_slow_statement_that_is_held_for_ever_is_kept_after_a_while(monitor, clock):
    kept = monitor.recorder.record(COUNT, 0.3, -1, None, False)
    monitor.recorder.slow.append(Sample(kept, "", ()))
    monitor.sweep(clock.now)
    clock.now += 60
    monitor.sweep(clock.now)
    assert len(monitor.details(identify(COUNT)).slow_runs) == 1


def test_of_one_statement_the_slowest_and_the_newest_runs_are_kept(build, clock, run_slowly):
    monitor = build()
    for seconds in (0.2, 9.0, 0.3, 8.0, 0.4, 0.5, 0.6, 0.7):
        run_slowly(monitor, COUNT, seconds)
        monitor.sweep(clock.now)
    kept = [run.time for run in build().details(identify(COUNT)).slow_runs]
    assert kept == pytest.approx([700, 600, 500, 8000, 9000])


def test_slow_runs_of_many_statements_are_bounded(build, clock, path, run_slowly, monkeypatch):
    monitor = build()
    for number in range(40):
        run_slowly(monitor, f"SELECT a{number}")
        monitor.sweep(clock.now)
    monkeypatch.setattr("flask_dbopt.monitor.schema.KEEP_MOST", _most(25))
    clock.now += 61
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM slow_run").fetchone() == (25,)
    assert monitor.details(identify("SELECT a39")).slow_runs
    assert not monitor.details(identify("SELECT a0")).slow_runs


def _most(count):
    from flask_dbopt.monitor import schema

    return tuple(statement.replace(f"LIMIT {remarkable.MOST_KEPT}", f"LIMIT {count}") for statement in schema.KEEP_MOST)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("schlafen", 3, None), "'schlafen', 3, None"),
        ({"word": "schlafen", "password": "x", "API_key": "y"}, "word='schlafen', password=•••, API_key=•••"),
        ((b"\0" * 2000,), "<2,000 bytes>"),
        (("x" * 5000,), f"'{'x' * 100}'… (5,000 characters)"),
        (tuple(range(60)), ", ".join(map(str, range(50))) + ", and 10 more"),
        (SimpleNamespace(a=1), "namespace(a=1)"),
    ],
)
def test_values_are_kept_only_where_that_is_asked_for_and_short(build, clock, run_slowly, given, shown):
    silent = build(path=None)
    run_slowly(silent, COUNT, parameters=given)
    assert silent.details(identify(COUNT)).slow_runs[0].parameters is None
    telling = build(path=None, monitor_record_params=True)
    run_slowly(telling, COUNT, parameters=given)
    assert telling.details(identify(COUNT)).slow_runs[0].parameters == shown


def test_a_value_that_cannot_be_shown_costs_itself_and_no_more(build, run_slowly):
    class Odd:
        def __repr__(self):
            raise RuntimeError("no")

    monitor = build(path=None, monitor_record_params=True)
    run_slowly(monitor, COUNT, parameters=(Odd(),))
    assert monitor.details(identify(COUNT)).slow_runs[0].parameters == "(not shown: RuntimeError)"


# --- plans ---


class Explained(list):
    """Explains as a database does, and remembers what it was asked."""

    lines = ("reads all 320,000 rows of word",)

    def __call__(self, database, sql):
        self.append((database, sql))
        if isinstance(self.lines, Exception):
            raise self.lines
        return self.lines


@pytest.fixture
def explained():
    return Explained()


def test_the_plan_of_a_slow_statement_is_looked_at_in_the_sweep_and_never_before(build, clock, run_slowly, explained):
    monitor = build()
    monitor.explain_by(explained)
    run_slowly(monitor, "SELECT count(*) FROM word WHERE id = 7", database="archive")
    monitor.queries()
    monitor.flush()
    assert explained == []
    monitor.sweep(clock.now)
    assert explained == [("archive", "SELECT count(*) FROM word WHERE id = ?")], "its shape: no value leaves"
    name = identify("SELECT count(*) FROM word WHERE id = ?", "archive")
    assert [plan.lines for plan in monitor.details(name).plans] == [explained.lines]
    monitor.sweep(clock.now)
    (plan,) = build().details(name).plans
    assert (plan.lines, plan.until) == (explained.lines, None)


def test_a_plan_that_changes_is_told_with_the_time_and_one_that_only_grows_is_not(build, clock, run_slowly, explained):
    monitor = build()
    monitor.explain_by(explained)

    def look():
        run_slowly(monitor, COUNT)
        at = clock.now - 1
        monitor.sweep(clock.now)
        clock.now += plans.AGAIN
        monitor.sweep(clock.now)
        return at

    look()
    explained.lines = ("reads all 330,000 rows of word",)
    look()
    explained.lines = ("finds rows of word by id",)
    changed = look()
    new, old = build().details(identify(COUNT)).plans
    assert (new.lines, new.until) == (("finds rows of word by id",), None)
    assert (old.lines, old.until) == (("reads all 330,000 rows of word",), new.since)
    assert new.since == pytest.approx(changed, abs=1)
    for number in range(20):
        explained.lines = (f"way {'x' * number}",)
        look()
    assert len(build().details(identify(COUNT)).plans) == remarkable.PLANS


def test_a_plan_told_late_does_not_replace_the_newer_one(build, clock, run_slowly, explained):
    late, prompt = build(), build()
    late.explain_by(explained)
    run_slowly(late, COUNT)
    late.sweep(clock.now)  # looked at, and not flushed yet
    clock.now += 5
    newer = Explained()
    newer.lines = ("finds rows of word by id",)
    prompt.explain_by(newer)
    run_slowly(prompt, COUNT)
    prompt.sweep(clock.now)
    prompt.sweep(clock.now)
    late.sweep(clock.now)
    assert [plan.lines for plan in build().details(identify(COUNT)).plans] == [newer.lines]


def test_only_a_few_plans_are_asked_for_in_a_sweep_and_each_only_now_and_then(monitor, clock, run_slowly, explained):
    monitor.explain_by(explained)
    for _ in range(2):
        for number in range(5):
            run_slowly(monitor, f"SELECT a{number}")
    monitor.sweep(clock.now)
    assert len(explained) == plans.PLANS_A_SWEEP
    for _ in range(3):
        monitor.sweep(clock.now)
    assert sorted(sql for _, sql in explained) == [f"SELECT a{number}" for number in range(5)]
    clock.now += plans.AGAIN
    run_slowly(monitor, "SELECT a0")
    monitor.sweep(clock.now)
    assert len(explained) == 6


def test_what_is_no_query_is_never_explained(monitor, clock, run_slowly, explained):
    monitor.explain_by(explained)
    for sql in ("COMMIT", "VACUUM", "CREATE TABLE x (y)", "", "PRAGMA optimize"):
        run_slowly(monitor, sql)
    monitor.sweep(clock.now)
    assert explained == []


def test_a_database_that_cannot_be_asked_leaves_the_slow_run_without_a_plan(monitor, clock, run_slowly, explained):
    explained.lines = sqlite3.OperationalError("database is locked")
    monitor.explain_by(explained)
    run_slowly(monitor, COUNT)
    monitor.sweep(clock.now)
    details = monitor.details(identify(COUNT))
    assert len(details.slow_runs) == 1
    assert details.plans == ()


def test_reset_forgets_slow_runs_plans_and_requests_too(build, clock, run_slowly, explained):
    monitor = build()
    monitor.explain_by(explained)
    run_slowly(monitor, COUNT)
    for _ in range(2):
        monitor.sweep(clock.now)
    assert monitor.requests()
    monitor.reset()
    details = build().details(identify(COUNT))
    assert (details.slow_runs, details.plans, build().requests()) == ((), (), [])


# --- requests ---


def test_an_endpoint_tells_what_its_requests_repeat_and_how_many_transactions_they_end(monitor, serve, clock):
    items = [(f"SELECT * FROM item WHERE id = {n}", 0.001) for n in range(12)]
    prices = [(f"SELECT * FROM price WHERE item = {n}", 0.001) for n in range(12)]
    serve(monitor, "list", *items, *prices, ("COMMIT", 0.002))
    serve(monitor, "list", ("SELECT 1", 0.001), ("SELECT 1", 0.001), ("ROLLBACK TO a", 0.0), ("rollback", 0.0))
    serve(monitor, "list", ("SELECT 1", 0.001))
    for _ in range(2):  # before and after the flush
        (row,) = monitor.endpoints()
        assert (row.calls, row.queries, row.repeated, row.n_plus_one, row.transactions) == (3, 30, 23, 1, 2)
        monitor.sweep(clock.now)


def test_the_requests_worth_a_look_tell_what_they_asked_of_the_database(build, serve, clock):
    monitor = build()
    monitor.recorder.places["SELECT * FROM item WHERE id = ?"] = "items.py:8"
    find = ("SELECT * FROM item WHERE id = ?", 0.002)
    serve(monitor, "quick", ("SELECT 1", 0.001))
    serve(monitor, "list", *[find] * 20, ("SELECT 2", 0.5, 1, None, True), ("COMMIT", 0.01), status=None)
    serve(monitor, "no database")
    for told in (monitor, build()):
        if told is not monitor:
            monitor.sweep(clock.now)
        found = {request.endpoint: request for request in told.requests()}
        assert set(found) == {"quick", "list"}
        request = found["list"]
        assert (request.method, request.status, request.queries) == ("GET", None, 22)
        assert request.database_time == pytest.approx(50), "an answer of the cache takes none of the database's time"
        assert (request.transactions, request.repeated) == (1, 19)
        (group,) = request.n_plus_one
        assert (group.id, group.calls, group.place) == (identify(find[0]), 20, "items.py:8")
        assert group.query == find[0]
        assert found["quick"].n_plus_one == ()
        assert told.requests(clock.now + 1) == []


def test_of_each_endpoint_a_few_requests_are_kept(build, serve, clock):
    monitor = build()
    for number in range(30):
        serve(monitor, "list", *[("SELECT a", 0.001)] * (20 if number % 2 else 2))
        monitor.sweep(clock.now)
        clock.now += 10
    kept = build().requests()
    assert 3 <= len(kept) <= 2 * remarkable.NEWEST + remarkable.SLOWEST
    assert sum(bool(request.n_plus_one) for request in kept) >= remarkable.NEWEST
    assert [request.time for request in kept] == sorted((request.time for request in kept), reverse=True)


def test_a_request_of_any_length_is_one_request_that_repeats_itself(monitor, serve, heard, clock):
    cost = monitor.recorder.begin("export", "GET")
    for number in range(3 * PER_REQUEST):
        monitor.recorder.record(f"SELECT * FROM item WHERE id = {number}", 0.001, 1, None, False)
        if number % PER_REQUEST == 0:
            monitor.sweep(clock.now)
    monitor.recorder.end(cost, 200)
    monitor.sweep(clock.now)
    assert [told["calls"] for told in heard.named("n_plus_one_detected")] == [3 * PER_REQUEST]
    (request,) = monitor.requests()
    assert (request.queries, request.repeated) == (3 * PER_REQUEST, 3 * PER_REQUEST - 1)
    assert request.database_time == pytest.approx(3 * PER_REQUEST)
    (row,) = monitor.endpoints()
    assert (row.calls, row.queries, row.n_plus_one) == (1, 3 * PER_REQUEST, 1)


def test_endless_requests_that_never_end_are_not_followed_for_ever(monitor, clock):
    from flask_dbopt.monitor import repeats

    for number in range(repeats.MOST_PARTS + 20):
        monitor.recorder.begin(f"stream {number}", "GET")
        for _ in range(PER_REQUEST):
            monitor.recorder.record("SELECT 1", 0.001, 1, None, False)
    monitor.sweep(clock.now)
    assert len(monitor._intake._repeats._parts) <= repeats.MOST_PARTS


# --- work outside requests ---


def test_a_job_is_booked_on_its_name_and_is_no_request(monitor, clock):
    with monitor.job("nightly import"):
        monitor.recorder.record("SELECT 1", 0.2, 1, None, False)
    with suppress(ZeroDivisionError), monitor.job("nightly import"):
        monitor.recorder.record("SELECT 1", 0.2, 1, None, False)
        raise ZeroDivisionError
    (row,) = monitor.endpoints()
    assert (row.endpoint, row.calls, row.errors, row.queries) == ("job: nightly import", 2, 1, 2)
    assert monitor.queries()[0].endpoints == ("job: nightly import",)
    assert monitor.overall().calls == 0
    assert sum(point.requests for point in monitor.series(clock.now - 60)) == 0
    assert sum(point.queries for point in monitor.series(clock.now - 60)) == 2


def test_a_job_in_the_midst_of_a_request_leaves_the_requests_own_statements_to_it(monitor):
    cost = monitor.recorder.begin("page", "GET")
    with monitor.job("refresh"):
        monitor.recorder.record("SELECT 1", 0.2, 1, None, False)
    monitor.recorder.record("SELECT a", 0.2, 1, None, False)
    monitor.recorder.end(cost, 200)
    assert {row.endpoint: row.queries for row in monitor.endpoints()} == {"job: refresh": 1, "page": 1}


def test_what_a_command_does_is_booked_on_it_until_it_ends(monitor, clock):
    with monitor.command("import-words"), monitor.command("one inside it"):
        monitor.recorder.record("SELECT 1", 0.2, 1, None, False)
        clock.now += 30
    monitor.recorder.record("SELECT a", 0.2, 1, None, False)
    (row,) = monitor.endpoints()
    assert (row.endpoint, row.calls, row.queries) == ("command: import-words", 1, 1)
    assert row.mean_time == pytest.approx(30_000)
    assert {q.query: q.endpoints for q in monitor.queries()} == {
        "SELECT ?": ("command: import-words",),
        "SELECT a": (),
    }


def test_work_that_piles_up_outside_requests_asks_for_somebody_to_sweep(monitor):
    from flask_dbopt.monitor.recorder import PENDING

    asked = []
    monitor.attend_by(lambda: asked.append(1))
    with monitor.job("a"):
        pass
    assert asked == [1]
    for _ in range(PENDING):
        monitor.recorder.record("SELECT 1", 0.2, 1, None, False)
    assert len(asked) == 2
