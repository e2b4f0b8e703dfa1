"""The housekeeper: tasks at their times, on one thread that comes late and goes in time."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from flask_dbopt.housekeeper import Housekeeper
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def keeper(clock: Clock) -> Iterator[Housekeeper]:
    keeper = Housekeeper("test", clock)
    yield keeper
    assert keeper.stop()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dbopt-")]


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_a_task_runs_at_its_interval_and_gets_the_time(keeper: Housekeeper) -> None:
    times: list[float] = []
    keeper.every(2, times.append, "sweep")
    for now in (1000, 1001.9, 1002, 1003, 1004, 1004.5):
        keeper.run_due(now)
    assert times == [1002, 1004]


def test_it_says_how_long_it_may_rest(keeper: Housekeeper) -> None:
    keeper.every(2, lambda now: None, "often")
    keeper.every(30, lambda now: None, "seldom")
    assert keeper.run_due(1000.5) == 1.5
    assert keeper.run_due(1002) == 2


def test_a_first_run_can_be_sooner(keeper: Housekeeper, clock: Clock) -> None:
    times: list[float] = []
    keeper.every(300, times.append, "lease", first_in=0)
    keeper.run_due()
    clock.now += 299
    keeper.run_due()
    clock.now += 1
    keeper.run_due()
    assert times == [1000, 1300]


def test_a_missed_task_runs_once_and_not_once_for_each_miss(keeper: Housekeeper) -> None:
    times: list[float] = []
    keeper.every(2, times.append, "sweep")
    keeper.run_due(5000)
    keeper.run_due(5001)
    keeper.run_due(5002)
    assert times == [5000, 5002]


def test_when_the_clock_goes_back_a_task_waits_one_interval_and_not_for_the_old_time(
    keeper: Housekeeper,
) -> None:
    times: list[float] = []
    keeper.every(2, times.append, "sweep")
    keeper.run_due(1002)
    assert keeper.run_due(10) == 2
    keeper.run_due(12)
    assert times == [1002, 12]


def test_the_same_name_replaces_the_task(keeper: Housekeeper) -> None:
    old: list[float] = []
    new: list[float] = []
    keeper.every(2, old.append, "sweep")
    keeper.every(2, new.append, "sweep")
    keeper.run_due(1002)
    assert (old, new) == ([], [1002])


def test_a_failing_task_is_logged_once_kept_and_holds_up_no_other(
    keeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flask_dbopt")
    times: list[float] = []

    def fail_twice(now: float) -> None:
        if now < 1006:
            raise OSError("the disk is full")

    keeper.every(2, fail_twice, "flush")
    keeper.every(2, times.append, "sweep")
    for now in (1002, 1004, 1006, 1008):
        keeper.run_due(now)
    assert times == [1002, 1004, 1006, 1008]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "flush" in caplog.text
    assert "the disk is full" in caplog.text
    assert "works again" in caplog.text


def test_a_turn_within_a_turn_runs_nothing(keeper: Housekeeper) -> None:
    times: list[float] = []

    def nested(now: float) -> None:
        times.append(now)
        keeper.run_due(now + 100)

    keeper.every(2, nested, "nested")
    keeper.run_due(1002)
    assert times == [1002]


def test_nothing_starts_before_the_first_wake_and_many_wakes_start_one_thread(keeper: Housekeeper) -> None:
    before = len(threads())
    assert not keeper.running
    wakers = [threading.Thread(target=keeper.wake) for _ in range(8)]
    for waker in wakers:
        waker.start()
    for waker in wakers:
        waker.join()
    keeper.wake()
    assert keeper.running
    assert len(threads()) == before + 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "dbopt-test")


def test_the_thread_runs_what_is_due_also_what_was_added_after_it_began() -> None:
    keeper = Housekeeper("test")
    ran = threading.Event()
    keeper.wake()
    keeper.every(60, lambda now: ran.set(), "late", first_in=0)
    assert ran.wait(10)
    assert keeper.stop()


def test_a_still_clock_makes_no_busy_loop(keeper: Housekeeper) -> None:
    looks: list[float] = []
    ticks = Clock(1000.0)
    keeper._clock = lambda: looks.append(1.0) or ticks.now  # type: ignore[func-returns-value]
    keeper.every(0.001, lambda now: None, "sweep")
    keeper.wake()
    time.sleep(0.3)
    assert 1 < len(looks) < 60


def test_stop_ends_the_thread_and_a_later_wake_starts_none(keeper: Housekeeper) -> None:
    keeper.wake()
    assert keeper.stop(timeout=5)
    assert not keeper.running
    keeper.wake()
    assert not keeper.running
    assert keeper.stop()


def test_stop_does_not_wait_longer_than_allowed_for_a_task_that_hangs() -> None:
    keeper = Housekeeper("test")
    began, finish = threading.Event(), threading.Event()
    after: list[float] = []

    def hang(now: float) -> None:
        began.set()
        finish.wait(30)

    keeper.every(60, hang, "hang", first_in=0)
    keeper.every(60, after.append, "after", first_in=0)
    keeper.wake()
    assert began.wait(10)
    start = time.monotonic()
    assert not keeper.stop(timeout=0.1)
    assert time.monotonic() - start < 5
    finish.set()
    assert keeper.stop(timeout=10)
    assert after == []


def test_a_task_may_stop_its_own_housekeeper() -> None:
    keeper = Housekeeper("test")
    answers: list[bool] = []
    keeper.every(60, lambda now: answers.append(keeper.stop()), "last", first_in=0)
    keeper.wake()
    assert eventually(lambda: answers == [True])
    assert eventually(lambda: not keeper.running)


def test_a_task_that_wants_to_exit_does_not_end_the_housekeeping(keeper: Housekeeper) -> None:
    times: list[float] = []
    keeper.every(2, lambda now: sys.exit("enough"), "quit")
    keeper.every(2, times.append, "sweep")
    keeper.run_due(1002)
    keeper.run_due(1004)
    assert times == [1002, 1004]


def test_where_no_thread_can_be_started_the_request_goes_on(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        keeper.wake()
    assert not keeper.running
    keeper.wake()
    assert keeper.running


def test_a_dropped_housekeeper_takes_its_thread_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_dbopt.housekeeper._LONGEST", 0.05)
    keeper = Housekeeper("dropped")
    keeper.every(1, lambda now, own=keeper: None, "cycle")  # type: ignore[misc]
    keeper.wake()
    gone = weakref.ref(keeper)
    del keeper
    gc.collect()
    assert eventually(lambda: gc.collect() >= 0 and gone() is None)
    assert eventually(lambda: "dbopt-dropped" not in threads())


FORKED = """
import os, sys, threading
from flask_dbopt.housekeeper import Housekeeper

keeper = Housekeeper("forked")
ran = threading.Event()
keeper.every(0.01, lambda now: ran.set(), "tick")
keeper.wake()
assert ran.wait(10)
keeper._turn.acquire()  # as if the fork came in the middle of a task
child = os.fork()
if child == 0:
    keeper.abandon()
    ran.clear()
    assert not keeper.running
    keeper.wake()
    fine = keeper.running and ran.wait(10) and keeper.stop()
    os._exit(0 if fine else 1)
_, status = os.waitpid(child, 0)
keeper._turn.release()
assert keeper.running
assert keeper.stop()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_after_a_fork_the_child_starts_its_own_thread_with_the_same_tasks() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_although_its_housekeeper_was_never_stopped() -> None:
    script = """
import time
from flask_dbopt.housekeeper import Housekeeper
keeper = Housekeeper("endless")
keeper.every(0.01, lambda now: time.sleep(60), "sleep")
keeper.wake()
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
