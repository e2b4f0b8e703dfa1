"""Which line goes where, how it looks, and that the app's own logging does not notice."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import flask_dbopt
from flask_dbopt.logs import Bounds, Logs, _outlet, loggers

TOP = logging.getLogger("flask_dbopt")
POOL = logging.getLogger("flask_dbopt.connection_pool")


class Heard(logging.Handler):
    """A handler of the app's, on the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def heard():
    handler = Heard()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def logs(tmp_path):
    made = Logs(tmp_path, Bounds())
    made.open()
    yield made
    made.close()


def read(logs: Logs, name: str) -> list[str]:
    path = logs.folder / f"{name}.log"
    return path.read_text().splitlines() if path.exists() else []


def test_each_room_has_its_file_and_the_rest_goes_to_monitoring(logs):
    for name in ("connection_pool", "query_metrics", "backup", "monitoring", "admin"):
        logging.getLogger(f"flask_dbopt.{name}").info("about %s", name)
    TOP.warning("about everything")
    logging.getLogger("an_app").warning("not ours")
    for name in ("connection_pool", "query_metrics", "backup"):
        (line,) = read(logs, name)
        assert line.endswith(f" INFO flask_dbopt.{name}: about {name}")
    assert [line.rpartition(": ")[2] for line in read(logs, "monitoring")] == [
        "about monitoring", "about admin", "about everything",
    ]  # fmt: skip


def test_a_record_is_one_line_with_its_time_process_level_and_logger(logs):
    POOL.warning("default: %s", "a\nb\r\x1b[31m\tc\x85\u2028d")
    (line,) = read(logs, "connection_pool")
    head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ WARNING flask_dbopt\.connection_pool: "
    assert re.match(head, line)
    assert re.sub(head, "", line) == r"default: a\nb\r\x1b[31m\tc\x85\u2028d"


def test_a_traceback_is_in_the_line_and_an_endless_message_is_cut(logs):
    try:
        int("two\nlines")
    except ValueError:
        POOL.exception("it failed")
    POOL.info("x" * 100_000)
    first, second = read(logs, "connection_pool")
    assert r"it failed\nTraceback (most recent call last):\n" in first
    assert r"ValueError: invalid literal" in first
    assert 16_000 < len(second) < 17_000


def test_to_the_app_comes_what_came_before_and_no_more(logs, heard):
    POOL.info("routine")
    POOL.warning("worth a look")
    assert heard.texts == ["worth a look"]
    assert len(read(logs, "connection_pool")) == 2
    logging.getLogger().setLevel(logging.INFO)
    try:
        POOL.info("asked for")
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    assert heard.texts == ["worth a look", "asked for"]


def test_a_level_that_the_app_gave_our_loggers_counts_for_both(logs, heard):
    POOL.setLevel(logging.ERROR)
    try:
        POOL.warning("not even this")
        assert heard.texts == read(logs, "connection_pool") == []
        POOL.setLevel(logging.DEBUG)
        POOL.debug("everything")
    finally:
        POOL.setLevel(logging.NOTSET)
    assert heard.texts == ["everything"]
    assert len(read(logs, "connection_pool")) == 1


def test_many_apps_write_a_line_once_and_the_last_one_leaves_nothing_behind(tmp_path, heard):
    def state():
        return [(each.level, each.propagate, each.handlers[:], each.filters[:]) for each in loggers()]

    before = state()
    made = [Logs(tmp_path / "shared", Bounds()) for _ in range(20)] + [Logs(tmp_path / "own", Bounds())]
    for each in made:
        each.open()
        each.open()
    assert len(POOL.filters) == len(before[0][3]) + 1
    POOL.warning("once in each folder")
    assert len(read(made[0], "connection_pool")) == len(read(made[-1], "connection_pool")) == 1
    assert heard.texts == ["once in each folder"]
    for each in made[:19]:
        each.close()
        each.close()
    POOL.warning("twenty less nineteen")
    assert len(read(made[0], "connection_pool")) == 2
    for each in made[19:]:
        each.close()
    assert state() == before
    POOL.warning("nobody is there")
    assert len(read(made[0], "connection_pool")) == 2


def test_a_child_that_was_forked_while_another_thread_changed_the_loggers_goes_on(logs):
    held = threading.Event()

    def change() -> None:
        with _outlet._change:
            held.set()
            time.sleep(1.0)

    other = threading.Thread(target=change)
    other.start()
    held.wait(5)
    child = os.fork()
    if not child:
        signal.alarm(5)
        logs.tend()
        os._exit(0)
    other.join()
    assert os.waitpid(child, 0)[1] == 0


def test_every_logger_of_the_package_is_known():
    named = {
        name
        for path in Path(flask_dbopt.__file__).parent.rglob("*.py")
        for name in re.findall(r'getLogger\("(flask_dbopt[\w.]*)"\)', path.read_text())
    }
    assert named == {logger.name for logger in loggers()}


def test_a_handler_on_our_own_logger_gets_what_it_got_before_too(logs):
    handler = Heard()
    POOL.addHandler(handler)
    try:
        POOL.info("routine")
        POOL.warning("worth a look")
    finally:
        POOL.removeHandler(handler)
    assert handler.texts == ["worth a look"]


def test_a_message_whose_arguments_do_not_fit_breaks_nobody(logs):
    POOL.info("%d connections", "some")
    POOL.info("fine again")
    assert len(read(logs, "connection_pool")) == 1


def test_it_is_said_when_lines_are_lost_or_cannot_come(logs):
    assert logs.notices() == []
    (logs.folder / "backup.log").symlink_to("/dev/full")
    logging.getLogger("flask_dbopt.backup").info("a backup")
    assert logs.notices() == [
        f"backup.log cannot be written (lines lost so far: 1): No space left on device ({logs.folder / 'backup.log'})"
    ]
    POOL.disabled = True
    try:
        assert "has disabled our loggers" in logs.notices()[-1]
    finally:
        POOL.disabled = False


def test_a_level_that_a_later_configuration_took_away_comes_back(logs):
    TOP.setLevel(logging.NOTSET)
    POOL.info("unheard")
    logs.tend()
    POOL.info("heard")
    assert [line.rpartition(": ")[2] for line in read(logs, "connection_pool")] == ["heard"]
