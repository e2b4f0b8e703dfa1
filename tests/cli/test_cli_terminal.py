"""On a real terminal: a screen that renews itself, questions that are asked, errors in red."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from io import StringIO

import pytest
from rich.console import Console

from flask_dbopt.cli import terminal

APP = """
from flask import Flask
from flask_dbopt import DBOptimizer
app = Flask(__name__)
DBOptimizer(app, database={database!r})
"""


class Sitting:
    """A person's sitting at a terminal: what runs there, and what it has shown."""

    def __init__(self, process, master):
        self.process, self.master, self.shown = process, master, ""

    def until(self, words, seconds=20.0):
        """Watch until ``words`` are shown."""
        deadline = time.monotonic() + seconds
        while words not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{words!r} was never shown: {self.shown}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.shown += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert words in self.shown, self.shown
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def end(self):
        """Watch until it ends; its exit code."""
        while True:
            try:
                read = os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                read = ""
            if not read:
                return self.process.wait(timeout=20)
            self.shown += read


@pytest.fixture
def at_a_terminal(tmp_path, database):
    """`flask db-opt …` on a terminal of its own."""
    (tmp_path / "words.py").write_text(APP.format(database=str(database)))

    @contextmanager
    def sit(*arguments):
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "flask", "--app", "words", "db-opt", *arguments]
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "60"}
        env.pop("NO_COLOR", None)
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        try:
            yield Sitting(process, master)
        finally:
            process.kill()
            process.wait()
            os.close(master)

    return sit


def test_what_cannot_be_taken_back_is_asked_first(at_a_terminal):
    with at_a_terminal("backup") as sitting:
        assert sitting.end() == 0
    with at_a_terminal("restore", "latest") as sitting:
        sitting.until("[y/N]")
        os.write(sitting.master, b"n\n")
        assert sitting.end() == 2
        assert "stopped" in sitting.shown
    with at_a_terminal("restore", "latest") as sitting:
        sitting.until("[y/N]")
        os.write(sitting.master, b"y\n")
        assert sitting.end() == 0
        assert "Restored" in sitting.shown


def test_checking_many_backups_shows_how_far_it_is(at_a_terminal):
    with at_a_terminal("backup") as sitting:
        assert sitting.end() == 0
        assert "Backing up default" in sitting.shown
    with at_a_terminal("backups", "--verify", "all") as sitting:
        assert sitting.end() == 0
        assert "1/1" in sitting.shown


def test_an_error_is_red(at_a_terminal):
    with at_a_terminal("backup", "--database", "nowhere") as sitting:
        assert sitting.end() == 2
        assert "\x1b[31mError: there is no database 'nowhere'" in sitting.shown


def test_into_a_pipe_the_monitor_writes_a_line_of_json_a_look(tmp_path, database):
    (tmp_path / "words.py").write_text(APP.format(database=str(database)))
    command = [sys.executable, "-m", "flask", "--app", "words", "db-opt", "monitor", "--json", "--interval", "0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        looks = [watching.stdout.readline() for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=20) == 0
    assert all(look.startswith('{"at": ') and look.endswith("}\n") for look in looks)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (terminal.size(None), "–"), (terminal.size(0), "0 B"), (terminal.size(1500), "1.5 kB"),
        (terminal.size(3e12), "3.0 TB"), (terminal.size(3e15), "3,000.0 TB"), (terminal.span(1e8), "1,157 days"),
        (terminal.milliseconds(None), "–"), (terminal.milliseconds(0.421), "0.42 ms"),
        (terminal.milliseconds(31), "31 ms"), (terminal.milliseconds(1200), "1.2 s"), (terminal.span(300), "5 min"),
        (terminal.span(7200), "2 h"), (terminal.span(864_000), "10 days"), (terminal.ago(None, 9.0), "never"),
        (terminal.ago(10.0, 9.0), "just now"), (terminal.ago(1.0, 6401.0), "1.8 h ago"),
        (terminal.share(None), "–"), (terminal.share(0.5), "50.0%"),
        (terminal.number(None), "–"), (terminal.number(1234567), "1,234,567"), (terminal.number(1.25), "1.2"),
        (terminal.at(None), "–"),
    ],
)  # fmt: skip
def test_figures_are_said_as_people_read_them(told, said):
    assert told == said


def test_a_cell_that_is_cut_takes_one_line_of_a_narrow_table_and_leaves_the_others_whole():
    screen = Console(width=40, file=StringIO())
    text = "SELECT id\x1b[2J, word FROM keyword WHERE language = ? AND word LIKE ?"
    screen.print(terminal.table(("Id", "Query"), [("8641d4754dd8", terminal.cut(text))]))
    (line,) = [line for line in screen.file.getvalue().splitlines() if "8641" in line]
    assert line.rstrip() == " 8641d4754dd8   SELECT id·[2J, word FR…"
