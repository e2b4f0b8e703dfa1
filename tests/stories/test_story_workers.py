"""The road of the house, end to end: two gunicorn workers, one page, one backup, a clean end."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

Serve = Callable[..., Any]


def until(true: Callable[[], Any], seconds: float = 25.0) -> Any:
    """What ``true`` returns once it is true; the workers flush and take turns at their own pace."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked first", "preloaded"])
def test_two_workers_are_one_app_to_the_page(serve: Serve, options: tuple[str, ...]) -> None:
    server = serve(*options)
    sent = 0
    pids: set[int] = set()
    while len(pids) < 2 or sent < 40:
        pids.add(server.get("/visit")["pid"])
        sent += 1
        assert sent < 2000

    def inserts() -> Any:
        queries = server.get("/_dbopt/api/v1/queries")
        found = [each for each in queries["queries"] if each["query"].startswith("INSERT INTO visit")]
        return queries if found and found[0]["calls"] == sent and queries["workers"] == 2 else None

    queries = until(inserts)
    by_name = {each["query"]: each for each in queries["queries"]}
    assert by_name["INSERT INTO visit VALUES (?)"]["rows"] == sent
    endpoints = {each["endpoint"]: each for each in server.get("/_dbopt/api/v1/overview")["endpoints"]}
    assert endpoints["visit"]["calls"] == sent
    assert server.get("/count")["visits"] == sent
    page = server.get("/_dbopt/queries")
    assert f"/_dbopt/queries/{by_name['INSERT INTO visit VALUES (?)']['id']}" in page
    assert "2 workers" in page
    assert server.stop() == 0


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked first", "preloaded"])
def test_no_thread_or_handle_crosses_a_fork(serve: Serve, options: tuple[str, ...]) -> None:
    server = serve(*options)
    inside = server.workers()
    assert len(inside) == 2
    for pid, seen in inside.items():
        assert not seen["inherited"]
        assert (seen["born_in"] != pid) == bool(options)
        assert sum(name.startswith("dbopt-") for name in seen["threads"]) == 1
    until(lambda: sum(seen["holds_lease"] for seen in server.workers().values()) == 1)


def test_one_backup_is_taken_by_exactly_one_worker(serve: Serve) -> None:
    server = serve(STORY_BACKUP_HOURS="24")
    server.workers()

    def backups() -> Any:
        server.workers()  # workers begin their background work at their first request
        (database,) = server.get("/_dbopt/api/v1/backups")["databases"].values()
        return database["backups"]

    taken = until(backups)
    time.sleep(1)
    taken = backups()
    assert len(taken) == 1
    assert taken[0]["verified_at"] is not None
    assert list((server.folder / "backups" / "default" / "ltx" / "9").glob("*.ltx"))


def test_the_lease_passes_on_when_its_holder_is_killed(serve: Serve) -> None:
    server = serve()

    def holder() -> Any:
        return next((pid for pid, seen in server.workers().items() if seen["holds_lease"]), None)

    first = until(holder)
    psutil.Process(first).send_signal(signal.SIGKILL)
    second = until(lambda: (found := holder()) != first and found)
    assert second != first


def test_the_end_is_clean(serve: Serve) -> None:
    server = serve()
    for _ in range(20):
        server.get("/visit")
    children = psutil.Process(server.process.pid).children()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert not [child for child in children if child.is_running()]
    # Every connection was closed: SQLite takes the WAL back into the file when the last one goes.
    assert [each.name for each in server.folder.glob("story.db*")] == ["story.db"]
    ledger = sqlite3.connect(server.folder / "dbopt" / "ledger.db")
    assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    ledger.close()
