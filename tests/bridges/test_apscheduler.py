"""Scheduled jobs: under the lease only, beside the host's own scheduler, never twice and never skipped."""

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
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask
from flask_apscheduler import APScheduler

from flask_dbopt.bridges import apscheduler as bridge
from flask_dbopt.bridges.apscheduler import Schedule

SECOND = 1 / 3600


class Permit:
    """The lease, as the schedule sees it."""

    def __init__(self, held: bool = True) -> None:
        self.held = held

    def __call__(self) -> bool:
        return self.held


@pytest.fixture
def permit() -> Permit:
    return Permit()


@pytest.fixture
def schedule(permit: Permit) -> Iterator[Schedule]:
    schedule = Schedule("test", permit)
    yield schedule
    assert schedule.stop(timeout=10)


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def schedulers() -> int:
    return sum(thread.name == "APScheduler" for thread in threading.enumerate())


def test_a_job_runs_at_its_first_time_and_again_at_its_interval(schedule: Schedule) -> None:
    runs: list[float] = []
    schedule.add("backup", 0.2 * SECOND, lambda: runs.append(time.time()))
    assert schedule.start()
    assert eventually(lambda: len(runs) >= 3)


def test_without_the_lease_nothing_starts(schedule: Schedule, permit: Permit) -> None:
    permit.held = False
    before = schedulers()
    runs: list[int] = []
    schedule.add("backup", 24, lambda: runs.append(1))
    assert not schedule.start()
    assert not schedule.running
    assert schedule.next_run("backup") is None
    assert schedulers() == before
    permit.held = True
    assert schedule.start()
    assert eventually(lambda: runs == [1])


def test_a_job_that_comes_due_when_the_lease_is_lost_does_not_run(schedule: Schedule, permit: Permit) -> None:
    runs: list[int] = []
    schedule.add("backup", 0.05 * SECOND, lambda: runs.append(1))
    assert schedule.start()
    assert eventually(lambda: bool(runs))
    permit.held = False
    time.sleep(0.1)
    count = len(runs)
    time.sleep(0.3)
    assert len(runs) == count


def test_starting_twice_makes_one_scheduler(schedule: Schedule) -> None:
    before = schedulers()
    schedule.add("backup", 24, lambda: None, 3600)
    assert schedule.start()
    assert schedule.start()
    assert schedulers() == before + 1


def test_the_next_run_is_told_in_unix_seconds(schedule: Schedule) -> None:
    schedule.add("backup", 24, lambda: None, first_in_seconds=3600)
    assert schedule.next_run("backup") is None
    assert schedule.start()
    assert schedule.next_run("backup") == pytest.approx(time.time() + 3600, abs=30)
    assert schedule.next_run("nothing") is None
    assert schedule.stop()
    assert schedule.next_run("backup") is None


def test_after_a_run_the_next_is_an_interval_later(schedule: Schedule) -> None:
    done = threading.Event()
    schedule.add("backup", 24, done.set)
    assert schedule.start()
    assert done.wait(10)
    assert schedule.next_run("backup") == pytest.approx(time.time() + 86400, abs=30)


def test_the_first_run_can_be_reckoned_at_the_start(schedule: Schedule) -> None:
    waits = iter([7200.0, -50.0])
    done = threading.Event()
    schedule.add("backup", 24, done.set, first_in_seconds=lambda: next(waits))
    assert schedule.start()
    assert schedule.next_run("backup") == pytest.approx(time.time() + 7200, abs=30)
    assert schedule.stop()
    assert schedule.start()
    assert done.wait(10)


def test_a_job_added_while_it_runs_replaces_the_one_of_its_name(schedule: Schedule) -> None:
    old: list[int] = []
    done = threading.Event()
    schedule.add("backup", 24, lambda: old.append(1), first_in_seconds=3600)
    assert schedule.start()
    schedule.add("backup", 24, done.set)
    assert done.wait(10)
    assert old == []


def test_a_job_that_fails_is_logged_and_runs_again(schedule: Schedule, caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise OSError("the disk is full")

    schedule.add("backup", 0.1 * SECOND, fail)
    assert schedule.start()
    assert eventually(lambda: len(runs) >= 2)
    failures = [record for record in caplog.records if record.name == "flask_dbopt"]
    assert "backup" in failures[0].getMessage()
    assert "the disk is full" in caplog.text


def test_a_late_job_runs_once_however_many_times_it_missed(schedule: Schedule) -> None:
    schedule.add("backup", 24, lambda: None, first_in_seconds=3600)
    assert schedule.start()
    assert schedule._extension is not None
    job = schedule._extension.get_job("backup")
    assert job.misfire_grace_time is None
    assert job.coalesce
    assert job.max_instances == 1

    runs: list[int] = []
    began, finish = threading.Event(), threading.Event()

    def slow() -> None:
        runs.append(1)
        began.set()
        finish.wait(10)

    schedule.add("slow", 0.1 * SECOND, slow)
    assert began.wait(10)
    logging.getLogger("apscheduler.scheduler").disabled = True  # it warns of each run that was skipped
    try:
        time.sleep(0.5)
        assert runs == [1]
    finally:
        finish.set()
        assert schedule.stop(timeout=10)
        logging.getLogger("apscheduler.scheduler").disabled = False


def test_two_jobs_run_one_after_the_other(schedule: Schedule) -> None:
    at_work: list[int] = []
    most: list[int] = []
    done = [threading.Event(), threading.Event()]

    def job(number: int) -> None:
        at_work.append(number)
        most.append(len(at_work))
        time.sleep(0.1)
        at_work.pop()
        done[number].set()

    schedule.add("one", 24, lambda: job(0))
    schedule.add("two", 24, lambda: job(1))
    assert schedule.start()
    assert all(event.wait(10) for event in done)
    assert most == [1, 1]


def test_stop_is_bounded_by_a_job_that_hangs_and_starts_no_other() -> None:
    schedule = Schedule("test", lambda: True)
    began, finish = threading.Event(), threading.Event()
    after: list[int] = []

    def hang() -> None:
        began.set()
        finish.wait(30)

    schedule.add("hang", 24, hang)
    schedule.add("after", 24, lambda: after.append(1), first_in_seconds=0.05)
    assert schedule.start()
    assert began.wait(10)
    time.sleep(0.2)
    start = time.monotonic()
    assert not schedule.stop(timeout=0.1)
    assert time.monotonic() - start < 5
    finish.set()
    assert schedule.stop(timeout=10)
    time.sleep(0.1)
    assert after == []


def test_a_job_may_stop_its_own_schedule() -> None:
    schedule = Schedule("test", lambda: True)
    answers: list[bool] = []
    schedule.add("last", 24, lambda: answers.append(schedule.stop()))
    assert schedule.start()
    assert eventually(lambda: answers == [True])
    assert not schedule.running


def test_debug_mode_without_a_reloader_does_not_keep_it_from_starting(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    done = threading.Event()
    schedule.add("backup", 24, done.set)
    assert schedule.start()
    assert schedule.running
    assert done.wait(10)


def test_a_server_without_threads_is_told_as_a_problem(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(scheduler: BackgroundScheduler) -> None:
        raise RuntimeError("The scheduler seems to be running under uWSGI, but threads have been disabled.")

    schedule.add("backup", 24, lambda: None, 3600)
    with monkeypatch.context() as patch:
        patch.setattr(BackgroundScheduler, "_check_uwsgi", refuse)
        assert not schedule.start()
    assert "uWSGI" in schedule.problem
    assert not schedule.running
    assert schedule.start()
    assert schedule.problem == ""


@pytest.mark.parametrize("host_first", [True, False])
def test_the_hosts_own_scheduler_keeps_its_jobs_its_api_and_its_place(schedule: Schedule, host_first: bool) -> None:
    ticks: list[int] = []
    app = Flask("host")
    app.config.update(
        SCHEDULER_API_ENABLED=True,
        SCHEDULER_JOBS=[
            {"id": "tick", "func": lambda: ticks.append(1), "trigger": "interval", "hours": 24},
        ],
    )
    host = APScheduler()
    schedule.add("backup", 24, lambda: None, 3600)

    def begin_host() -> None:
        host.init_app(app)
        host.start()

    steps: list[Callable[[], object]] = [begin_host, schedule.start]
    for step in steps if host_first else reversed(steps):
        step()
    try:
        assert app.apscheduler is host  # type: ignore[attr-defined]
        assert [job.id for job in host.get_jobs()] == ["tick"]
        assert schedule._extension is not None
        assert [job.id for job in schedule._extension.get_jobs()] == ["backup"]
        told = app.test_client().get("/scheduler/jobs").get_json()
        assert [job["id"] for job in told] == ["tick"]
        assert schedule.stop()
        assert host.running
    finally:
        host.shutdown(wait=False)


def test_a_schedule_opens_no_page_on_any_app(schedule: Schedule) -> None:
    app = Flask("plain")
    rules = len(list(app.url_map.iter_rules()))
    assert schedule.start()
    assert len(list(app.url_map.iter_rules())) == rules
    assert schedule._extension is not None
    assert not schedule._extension.api_enabled


def test_a_dropped_schedule_takes_its_scheduler_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_LONGEST", 0.05)
    before = schedulers()
    schedule = Schedule("dropped", lambda: True)
    schedule.add("backup", 24, lambda own=schedule: None, 3600)  # type: ignore[misc]
    assert schedule.start()
    gone = weakref.ref(schedule)
    del schedule
    gc.collect()
    assert gone() is None
    assert eventually(lambda: schedulers() == before)


def test_a_job_whose_schedule_is_gone_does_nothing() -> None:
    schedule = Schedule("dropped", lambda: True)
    gone = weakref.ref(schedule)
    del schedule
    gc.collect()
    bridge._run(gone, "backup")


FORKED = """
import os, sys, threading
from flask_dbopt.bridges.apscheduler import Schedule

owner = os.getpid()
runs = threading.Event()
schedule = Schedule("forked", lambda: True)
schedule.add("backup", 24, runs.set)
assert schedule.start() and runs.wait(10)
schedule._lock.acquire()  # as if the fork came in the middle of a start
child = os.fork()
if child == 0:
    schedule.abandon()
    runs.clear()
    assert not schedule.running and schedule.next_run("backup") is None and schedule.stop()
    fine = schedule.start() and runs.wait(10) and schedule.next_run("backup") and schedule.stop()
    os._exit(0 if fine else 1)
_, status = os.waitpid(child, 0)
schedule._lock.release()
assert schedule.running and schedule.next_run("backup")
assert schedule.stop()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_after_a_fork_the_child_has_no_scheduler_until_it_starts_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_although_a_job_is_at_work() -> None:
    script = """
import threading, time
from flask_dbopt.bridges.apscheduler import Schedule
began = threading.Event()
schedule = Schedule("endless", lambda: True)
schedule.add("backup", 24, lambda: (began.set(), time.sleep(60)))
assert schedule.start() and began.wait(10)
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], timeout=50, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 30


def test_the_bridge_costs_nothing_until_a_schedule_starts() -> None:
    script = """
import sys
from flask_dbopt.bridges.apscheduler import Schedule
schedule = Schedule("idle", lambda: False)
schedule.add("backup", 24, print)
assert not schedule.start()
sys.exit(any(name in sys.modules for name in ("flask", "apscheduler", "flask_apscheduler")))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
