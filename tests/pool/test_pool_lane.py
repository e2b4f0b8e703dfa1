"""The writers' lane: in line inside a process, in turns between processes, and never held by the dead."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.errors import WriterTimeout
from flask_dbopt.lease import file_name
from flask_dbopt.pool.lane import Lane, Turn
from flask_dbopt.pool.writers import MOST_NAMED, OTHERS, Holder, holders_of
from tests.clock import Clock

FILE = (1, 2)


def patiently() -> float:
    return 10.0


@pytest.fixture
def make_lane(tmp_path: Path) -> Iterator[Callable[..., Lane]]:
    made: list[Lane] = []

    def make(**options: Any) -> Lane:
        made.append(Lane("test", tmp_path / "locks", **options))
        return made[-1]

    yield make
    for lane in made:
        if lane.turn is not None:
            lane.leave(lane.turn)
        lane.close()


def in_thread(deed: Callable[[], Any]) -> Any:
    """What ``deed`` returns or raises in another thread."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(deed())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, name="another")
    thread.start()
    thread.join()
    return found[0]


HOLDER = """
import sys, time
from pathlib import Path
from flask_dbopt.pool.lane import Lane
lane = Lane("test", Path(sys.argv[1]))
turn = lane.enter("POST order.create", (1, 2), lambda: 5.0)
print("in", flush=True)
sys.stdin.read()
lane.leave(turn)
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Another process that has the lane, until its input is closed or it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "locks")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def test_one_writer_at_a_time_and_each_gets_its_turn(make_lane):
    lane, inside, seen = make_lane(), [], []

    def write() -> None:
        for _ in range(50):
            turn = lane.enter("writer", FILE, patiently)
            inside.append(1)
            seen.append(len(inside))
            inside.pop()
            lane.leave(turn)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 400


def test_two_optimizers_of_one_process_take_turns_as_well(make_lane):
    first, second = make_lane(), make_lane()
    turn = first.enter("first", FILE, patiently)
    assert isinstance(in_thread(lambda: second.enter("second", FILE, lambda: 0.05)), WriterTimeout)
    first.leave(turn)
    assert isinstance(in_thread(lambda: second.enter("second", FILE, patiently)), Turn)


def test_whoever_stood_in_line_first_comes_first(make_lane):
    lane, order = make_lane(), []
    turn = lane.enter("first", FILE, patiently)

    def write(number: int) -> None:
        mine = lane.enter(f"writer {number}", FILE, patiently)
        order.append(number)
        lane.leave(mine)

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=write, args=(number,)))
        threads[-1].start()
        time.sleep(0.005)  # longer than one may be overtaken
    lane.leave(turn)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_a_timeout_names_the_holder_its_age_and_its_process(make_lane):
    lane = make_lane()
    lane.enter("POST order.create", FILE, patiently)
    told = str(in_thread(lambda: lane.enter("another", FILE, lambda: 0.05)))
    assert told.startswith("database is locked")
    assert f"POST order.create (process {os.getpid()}) has written for 0." in told


def test_a_timeout_between_processes_names_the_holder_too(make_lane, other_process):
    process = other_process()
    with pytest.raises(WriterTimeout, match=rf"POST order.create \(process {process.pid}\) has written for"):
        make_lane().enter("mine", FILE, lambda: 0.05)


def test_a_timeout_is_what_an_app_already_catches():
    assert issubclass(WriterTimeout, sqlite3.OperationalError)
    assert issubclass(WriterTimeout, TimeoutError)
    assert WriterTimeout("x").sqlite_errorname == "SQLITE_BUSY"


def test_who_gave_up_is_no_longer_in_line(make_lane):
    lane = make_lane()
    turn = lane.enter("first", FILE, patiently)
    assert isinstance(in_thread(lambda: lane.enter("second", FILE, lambda: 0.01)), WriterTimeout)
    lane.leave(turn)
    lane.leave(lane.enter("third", FILE, lambda: 0.0))
    assert lane.turn is None


def test_a_thread_never_waits_for_itself(make_lane):
    lane = make_lane()
    lane.enter("POST order.create", FILE, patiently)
    began = time.monotonic()
    with pytest.raises(WriterTimeout, match="another connection of this very thread"):
        lane.enter("POST order.create", FILE, patiently)
    assert time.monotonic() - began < 1


def test_another_process_waits_and_gets_its_turn(make_lane, other_process):
    process = other_process()
    timer = threading.Timer(0.1, process.stdin.close)
    timer.start()
    began = time.monotonic()
    make_lane().enter("mine", FILE, patiently)
    assert 0.05 < time.monotonic() - began < 5
    timer.join()


def test_a_killed_process_leaves_the_lane_free(make_lane, other_process):
    process = other_process()
    process.send_signal(signal.SIGKILL)
    process.wait()
    make_lane().enter("mine", FILE, lambda: 1.0)


def test_other_files_have_other_lanes(make_lane, other_process):
    other_process()
    make_lane().enter("mine", (1, 3), lambda: 0.0)


def test_a_lane_follows_its_database_to_another_file(make_lane, other_process):
    lane = make_lane()
    lane.leave(lane.enter("mine", (1, 3), patiently))
    other_process()
    with pytest.raises(WriterTimeout):
        lane.enter("mine", FILE, lambda: 0.02)
    lane.leave(lane.enter("mine", (1, 3), patiently))


def test_a_turn_ends_with_a_connection_that_vanished(make_lane):
    class Connection:
        pass

    lane, connection = make_lane(), Connection()
    lane.enter("forgetful", FILE, patiently, connection)
    del connection
    gc.collect()
    assert isinstance(in_thread(lambda: lane.enter("next", FILE, patiently)), Turn)


def test_forgotten_turns_are_looked_for_while_somebody_waits(make_lane):
    forgotten: list[Turn] = []
    lane = make_lane(look=lambda: forgotten and lane.leave(forgotten.pop()))
    forgotten.append(lane.enter("forgetful", FILE, patiently))
    assert isinstance(in_thread(lambda: lane.enter("next", FILE, patiently)), Turn)


def test_a_forked_child_holds_nothing_and_takes_nothing_away(make_lane, tmp_path):
    lane = make_lane()
    lane.enter("parent", FILE, patiently)
    ask, answer = os.pipe()
    child = os.fork()
    if not child:
        lane.abandon()
        try:
            lane.enter("child", FILE, lambda: 0.02)
            os.write(answer, b"in")
        except WriterTimeout as error:
            os.write(answer, str(error).encode()[:200])
        finally:
            os._exit(0)
    told = os.read(ask, 200).decode()
    os.waitpid(child, 0)
    os.close(ask)
    os.close(answer)
    assert f"parent (process {os.getpid()})" in told
    assert in_thread(lambda: make_lane().enter("still locked", FILE, lambda: 0.02)).__class__ is WriterTimeout


def test_a_parent_that_dies_leaves_nothing_locked_by_its_children(make_lane, tmp_path):
    ask, answer = os.pipe()
    end, keep = os.pipe()
    parent = os.fork()
    if not parent:
        lane = Lane("test", tmp_path / "locks")
        lane.enter("parent", FILE, patiently)
        if not os.fork():
            lane.abandon()
            os.write(answer, b"x")
            os.close(keep)
            os.read(end, 1)  # lives on until the test ends
            os._exit(0)
        time.sleep(60)
    assert os.read(ask, 1) == b"x"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    make_lane().enter("mine", FILE, lambda: 1.0)
    for descriptor in (ask, answer, end, keep):
        os.close(descriptor)


def test_without_a_folder_for_locks_writers_go_on_without(tmp_path):
    (tmp_path / "locks").write_text("a file in the way")
    lane = Lane("test", tmp_path / "locks")
    lane.leave(lane.enter("mine", FILE, patiently))
    assert str(tmp_path / "locks") in lane.problem


def test_lock_files_that_a_cleaner_took_away_are_made_again(make_lane, tmp_path):
    now = [100.0]
    lane = make_lane(clock=lambda: now[0])
    lane.leave(lane.enter("mine", FILE, patiently))
    (tmp_path / "locks" / file_name(f"file {FILE}", "lane")).unlink()
    now[0] += 2.0
    lane.leave(lane.enter("mine", FILE, patiently))
    assert (tmp_path / "locks" / file_name(f"file {FILE}", "lane")).exists()


def test_a_process_that_waits_is_not_always_overtaken(make_lane, other_process, tmp_path):
    """The other process writes in a loop; without the lock for the next, a sleeper would hardly ever find it free."""
    loop = (
        "import sys\nfrom pathlib import Path\nfrom flask_dbopt.pool.lane import Lane\n"
        "lane = Lane('test', Path(sys.argv[1]))\nprint('in', flush=True)\n"
        "while True:\n    turn = lane.enter('loop', (1, 2), lambda: 5.0)\n    sum(range(5000))\n    lane.leave(turn)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", loop, str(tmp_path / "locks")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        lane = make_lane()
        began = time.monotonic()
        for _ in range(10):
            lane.leave(lane.enter("mine", FILE, patiently))
        assert time.monotonic() - began < 3
    finally:
        process.kill()
        process.communicate()


def test_a_clock_that_stands_still_ends_the_wait_all_the_same(make_lane):
    lane = make_lane(clock=lambda: 7.0)
    lane.enter("first", FILE, patiently)
    assert isinstance(in_thread(lambda: lane.enter("second", FILE, lambda: 0.1)), WriterTimeout)


# --- figures ---


def test_turns_and_who_had_them_are_counted(make_lane):
    clock = Clock(100.0)
    lane = make_lane(clock=clock)
    for who, seconds in (("POST order.create", 0.25), ("POST order.create", 0.5), ("a job", 0.125)):
        turn = lane.enter(who, FILE, patiently)
        assert lane.stats().writers_active == 1
        clock.now += seconds
        lane.leave(turn)
    counters = lane.counters()
    assert (counters["writers_num"], counters["writers_queued"], counters["writers_usage_ms"]) == (3, 0, 875.0)
    assert holders_of(counters, "") == (Holder("POST order.create", 2, 750.0), Holder("a job", 1, 125.0))
    assert lane.stats().gauges() == {"writers_active": 0, "writers_waiting": 0, "writers_wait_max_ms": 0.0}


def test_waits_and_timeouts_are_counted(make_lane):
    lane = make_lane()
    turn = lane.enter("first", FILE, patiently)
    thread = threading.Thread(target=lambda: lane.leave(lane.enter("second", FILE, patiently)))
    thread.start()
    while not lane.stats().writers_waiting:
        time.sleep(0.001)
    assert isinstance(in_thread(lambda: lane.enter("third", FILE, lambda: 0.05)), WriterTimeout)
    lane.leave(turn)
    thread.join()
    stats = lane.stats()
    assert (stats.writers_num, stats.writers_queued, stats.writers_errors) == (2, 1, 1)
    assert stats.writers_wait_ms == stats.writers_wait_max_ms > 50
    assert stats.writers_waiting == stats.writers_active == 0


def test_a_wait_for_another_process_counts_as_well(make_lane, other_process):
    process, lane = other_process(), make_lane()
    with pytest.raises(WriterTimeout):
        lane.enter("mine", FILE, lambda: 0.05)
    threading.Timer(0.1, process.kill).start()
    lane.leave(lane.enter("mine", FILE, patiently))
    stats = lane.stats()
    assert (stats.writers_num, stats.writers_queued, stats.writers_errors) == (1, 1, 1)
    assert holders_of(lane.counters(), "")[0].turns == 1


def test_only_so_many_writers_have_a_name(make_lane):
    lane = make_lane()
    for number in range(MOST_NAMED + 20):
        lane.leave(lane.enter(f"thread {number}", FILE, patiently))
    found = {holder.who: holder.turns for holder in holders_of(lane.counters(), "")}
    assert len(found) == MOST_NAMED + 1
    assert found[OTHERS] == 20


def test_threads_that_the_system_numbers_share_a_name(make_lane):
    lane = make_lane()
    for number in range(3):
        lane.leave(lane.enter(f"Thread-{number} (work)", FILE, patiently))
    assert [(holder.who, holder.turns) for holder in holders_of(lane.counters(), "")] == [("Thread-N (work)", 3)]


def test_a_name_that_is_no_text_is_no_trouble(make_lane):
    lane = make_lane()
    turn = lane.enter("odd \udcff", FILE, patiently)
    assert turn.has_begun
    lane.leave(turn)
    assert [holder.who for holder in holders_of(lane.counters(), "")] == ["odd \\udcff"]


def test_a_forked_child_counts_from_zero(make_lane):
    lane = make_lane()
    lane.leave(lane.enter("parent", FILE, patiently))
    lane.abandon()
    assert lane.stats().writers_num == 0
    assert holders_of(lane.counters(), "") == ()
