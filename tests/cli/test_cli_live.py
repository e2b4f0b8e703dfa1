"""The live screen on a real terminal (a pty, read by a terminal emulator): it fits, obeys keys, and leaves no trace."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

APP = """
import sqlite3
from flask import Flask
from flask_dbopt import DBOptimizer

def create_app():
    app = Flask("shop", instance_path=r"{folder}/instance")
    app.config["DBOPT_DATABASE"] = r"{folder}/app.db"
    app.config["DBOPT_BACKUP_ENABLED"] = False
    DBOptimizer(app)
    return app
"""
MONITOR = [sys.executable, "-m", "flask", "--app", "shop:create_app", "db-opt", "monitor"]
SECONDS = 30.0


class Terminal:
    """A command on a terminal of a size that may change."""

    def __init__(self, folder: Path, width: int, height: int, command: list[str], *, mute: bool = False) -> None:
        self.main, self._side = pty.openpty()
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.resize(width, height)
        self.before = termios.tcgetattr(self._side)
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        side = self._side
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            preexec_fn=lambda: _settle(side, mute),
        )

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def press(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The screen as soon as it is as wanted."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([self.main], [], [], 0.05)[0]:
                got = os.read(self.main, 65_536)
                self.written += got
                self.stream.feed(got)
            elif holds(self.screen.display):
                return list(self.screen.display)
        raise AssertionError("\n".join(self.screen.display))

    def shows(self, words: str) -> list[str]:
        return self.until(lambda lines: words in "\n".join(lines))

    def ended(self) -> int:
        """How it ended, with everything read that it wrote."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.main], [], [], 0.05)[0]:
                self.written += os.read(self.main, 65_536)
        while select.select([self.main], [], [], 0.1)[0]:
            self.written += os.read(self.main, 65_536)
        return self.process.wait(1)

    def is_as_before(self) -> bool:
        """Whether keys, cursor and screen are those of the shell again."""
        return (
            termios.tcgetattr(self._side) == self.before
            and self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h") > -1
            and self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l") > -1
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait(5)
        os.close(self.main)
        os.close(self._side)


def _settle(side: int, mute: bool) -> None:
    """In the child: this is its terminal. ``mute``: for what it writes alone."""
    os.login_tty(os.dup(side))
    if mute:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


@pytest.fixture
def opened(tmp_path, database) -> Iterator[Callable[..., Terminal]]:
    (tmp_path / "shop.py").write_text(APP.format(folder=tmp_path))
    made: list[Terminal] = []

    def begin(width: int, height: int, *options: str, command: list[str] | None = None, mute: bool = False) -> Terminal:
        made.append(Terminal(tmp_path, width, height, command or [*MONITOR, *options], mute=mute))
        return made[-1]

    yield begin
    for terminal in made:
        terminal.close()


def test_it_fits_every_size_it_is_given(opened):
    terminal = opened(80, 24, "--interval", "0.2")
    for width, height in ((80, 24), (132, 43), (40, 12), (20, 6)):
        terminal.resize(width, height)
        lines = terminal.until(
            lambda lines, height=height: (
                "Flask-DBOpt" in lines[0] and "quit" in lines[height - 1] and len(lines) == height
            )
        )
        assert "requests" in lines[1]
        assert sum("Flask-DBOpt" in line for line in lines) == 1
    terminal.press("q")
    assert terminal.ended() == 0
    assert terminal.is_as_before()


def test_it_obeys_keys(opened):
    terminal = opened(100, 24, "--interval", "0.2", "--sort", "mean")
    terminal.shows("Queries by mean time")
    terminal.press("s")
    terminal.shows("Queries by p95")
    terminal.press("p")
    terminal.shows("PAUSED")
    terminal.press("\x1b[A")  # an arrow means nothing, and q is not in it
    terminal.press("w")
    terminal.shows("last 60 min")
    terminal.press("p")
    terminal.shows("every 0.2 s")
    terminal.press("Q")
    assert terminal.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_however_it_ends_the_terminal_is_as_it_was(opened, number, code):
    terminal = opened(80, 24, "--interval", "0.2")
    terminal.shows("Queries by")
    if number == signal.SIGINT:
        terminal.press("\x03")
    else:
        terminal.process.send_signal(number)
    assert terminal.ended() == code
    assert terminal.is_as_before()


def test_where_nobody_can_type_it_is_only_looked_at(opened):
    terminal = opened(80, 24, "--interval", "0.2", mute=True)
    terminal.shows("Queries by")
    terminal.screen.reset()
    terminal.shows("Queries by")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 0


def test_it_may_be_left_for_a_while(opened):
    """In a shell: only one that controls jobs can stop a process and bring it back."""
    shell = opened(80, 24, command=["bash", "--norc", "-i"])
    shell.press(f"PS1='$ '; {sys.executable} -m flask --app shop:create_app db-opt monitor\n")
    shell.shows("Queries by")
    shell.press("\x1a")
    shell.shows("Stopped")
    shell.press("clear; stty -a | tr -d '\\n'\n")
    assert " -icanon" not in "\n".join(shell.shows(" icanon"))
    shell.press("clear; fg\n")
    shell.shows("Queries by")
    prompts = shell.written.count(b"$ ")
    shell.press("q")
    shell.until(lambda _: shell.written.count(b"$ ") > prompts)
    shell.press("echo it ended with $?; exit\n")
    assert shell.ended() == 0
    assert b"it ended with 0" in shell.written


def test_without_a_terminal_it_prints_one_picture_after_another(tmp_path, database):
    (tmp_path / "shop.py").write_text(APP.format(folder=tmp_path))
    command = [*MONITOR, "--interval", "0.2"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        heads = []
        for line in process.stdout:
            assert "\x1b" not in line
            heads += [line] if line.startswith("Flask-DBOpt") else []
            if len(heads) == 3:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
