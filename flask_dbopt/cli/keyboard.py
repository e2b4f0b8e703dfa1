"""Single keys from a terminal, without Enter; whatever happens, the terminal is left as it was found."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Any, NoReturn

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
#: What arrows, function keys and the like send.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)


class Keyboard:
    """Reads keys inside a ``with`` block. Where nobody types (no terminal) it only waits.

    Ctrl-C interrupts as ever; Ctrl-Z comes as a key, for whoever draws the screen must leave it first.
    """

    def __init__(self) -> None:
        self._terminal: int | None = None
        self._before: list[Any] = []
        self._typed: list[str] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Keyboard:
        for number in _ENDINGS:
            self._handlers[number] = signal.signal(number, _end)
        try:
            terminal = sys.stdin.fileno()
            self._before = termios.tcgetattr(terminal)
        except (OSError, ValueError, termios.error):
            return self
        self._terminal = terminal
        tty.setcbreak(terminal, termios.TCSANOW)
        chosen = termios.tcgetattr(terminal)
        chosen[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(terminal, termios.TCSANOW, chosen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
        self._terminal = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> str:
        """The next key, or "" when none was pressed for so long; keys that send several signs are left out."""
        if self._typed:
            return self._typed.pop(0)
        if self._terminal is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if not ready:
            return ""
        typed = os.read(self._terminal, 64)
        if not typed:  # the terminal is gone
            raise EOFError
        self._typed = list(_SEQUENCE.sub("", typed.decode("latin-1")))
        return self._typed.pop(0) if self._typed else ""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Die as one should of this signal, but by way of every ``finally``."""
    raise SystemExit(128 + number)
