"""Workers that come and go: whose figures are there, whose are not, and what is said of it."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from flask_dbopt.monitor import account, ledger

WORKER = Path(__file__).with_name("ledger_worker.py")


def start(path, rounds=100_000):
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(path), str(rounds), "5"], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline() == "flushed\n"
    return worker


def kill(worker):
    worker.kill()
    worker.stdout.read()
    worker.stdout.close()
    worker.wait()


def test_a_worker_that_is_killed_is_told_of_with_what_may_be_lost(build, path, clock):
    worker = start(path)
    kill(worker)
    clock.now = time.time()
    monitor = build()
    assert [each.pid for each in monitor.workers()] == [worker.pid], "its heartbeat is young: it may only be busy"
    assert monitor.lost_workers() == monitor.notices() == []
    clock.now += account.LIVING + 1
    assert monitor.workers() == []
    (lost,) = monitor.lost_workers()
    assert (lost.pid, lost.host) == (worker.pid, socket.gethostname())
    (notice,) = monitor.notices()
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lost.heartbeat))
    assert f"worker {worker.pid} on {lost.host} ended without taking its leave, last heard of at {when}" in notice
    assert f"up to {lost.interval:.1f} s of its figures" in notice
    clock.now += account.LOST_SHOWN
    assert monitor.notices() == []
    assert monitor.lost_workers() == [lost], "kept as history"


def test_a_worker_that_takes_its_leave_is_not_missed_and_its_gauges_go(build, path, clock):
    worker = start(path, rounds=1)
    assert worker.wait(timeout=20) == 0
    worker.stdout.close()
    clock.now = time.time() + 60
    monitor = build()
    assert monitor.workers() == monitor.lost_workers() == monitor.notices() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT ended IS NOT NULL, gauges FROM worker").fetchall() == [(1, "{}")]


def test_a_worker_that_is_only_held_up_is_not_said_to_be_lost(build, path, clock):
    worker = start(path)
    try:
        worker.send_signal(signal.SIGSTOP)
        clock.now = time.time() + 60
        monitor = build()
        assert monitor.workers() == monitor.lost_workers() == []
    finally:
        kill(worker)
    assert [each.pid for each in monitor.lost_workers()] == [worker.pid]


def test_several_lost_workers_share_one_sentence(build, path, clock):
    first, second = start(path), start(path)
    kill(first)
    time.sleep(0.05)
    kill(second)
    clock.now = time.time() + account.LIVING + 1
    monitor = build()
    assert [each.pid for each in monitor.lost_workers()] == [second.pid, first.pid]
    (notice,) = monitor.notices()
    assert notice.startswith(
        f"2 workers ended without taking their leave within a day, the last of them worker {second.pid}"
    )


def test_the_interval_that_may_be_lost_is_the_one_between_flushes(build, clock, serve):
    monitor = build()
    for gap in (2.0, 7.5):
        monitor.sweep(clock.now)
        clock.now += gap
    monitor.sweep(clock.now)
    (worker,) = build().workers()
    assert worker.interval == 7.5


def test_workers_of_other_machines_are_judged_by_their_heartbeat_alone(build, clock, monkeypatch):
    monkeypatch.setattr("flask_dbopt.monitor.monitor.socket.gethostname", lambda: "elsewhere")
    monitor = build()
    monitor.sweep(clock.now)
    monkeypatch.undo()
    clock.now += 60
    (lost,) = build().lost_workers()
    assert (lost.pid, lost.host) == (os.getpid(), "elsewhere")


def test_somebody_elses_process_is_alive_though_it_takes_no_signals(build, clock, monkeypatch):
    def refuse(pid, number):
        raise PermissionError

    build().sweep(clock.now)
    clock.now += 60
    monkeypatch.setattr("flask_dbopt.monitor.account.os.kill", refuse)
    assert build().lost_workers() == []


def test_the_history_of_workers_is_bounded(build, clock, path):
    monitor = build(monitor_retention_days=2)
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:
        rows = [
            *((f"lost{n}", 1, "elsewhere", 0, clock.now - 3600 - n, "{}", 2.0, None) for n in range(1_500)),
            *((f"left{n}", 1, "elsewhere", 0, clock.now - 3600, "{}", 2.0, clock.now - 3600) for n in range(5)),
            ("old", 1, "elsewhere", 0, clock.now - 3 * 86_400, "{}", 2.0, None),
        ]
        connection.executemany("INSERT INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    clock.now += 61
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT id FROM worker")}
    assert len(names) == 1_000
    assert not any(name.startswith("left") for name in names), f"after {ledger.FORGOTTEN} s"
    assert "old" not in names


@pytest.mark.parametrize("gone", ["busy", "unwritable"])
def test_a_worker_that_cannot_write_its_farewell_ends_all_the_same(build, clock, path, gone):
    monitor = build()
    monitor.sweep(clock.now)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        if gone == "busy":
            holder.execute("BEGIN IMMEDIATE")
        else:
            holder.execute("DROP TABLE worker")
        began = time.perf_counter()
        monitor.close()
        assert time.perf_counter() - began < 3
