"""``flask db-opt worker``: the scheduled work in a process of its own, for apps that nobody visits."""

from __future__ import annotations

import os
import signal
import threading

from flask_dbopt.cli.target import target
from flask_dbopt.cli.terminal import Screen, at, verb
from flask_dbopt.errors import DBOptError


@verb("worker")
def command(screen: Screen) -> None:
    """Run backups, alert rules and upkeep here, until SIGTERM or Ctrl-C.

    A web worker does this by itself from its first request on. Run this where requests are rare, or where
    the web workers should not.
    """
    optimizer = target().optimizer
    if not optimizer.settings.enabled:
        raise DBOptError("the optimizer is switched off", hint="set DBOPT_ENABLED=1")
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        optimizer.wake()
        screen.line({"worker": os.getpid(), "state": "started", "next_backup": optimizer.next_backup()})
        screen.say(f"Worker {os.getpid()} runs. Next backup: {at(optimizer.next_backup())}. Ctrl-C stops.")
        stop.wait()
    finally:
        optimizer.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    screen.line({"worker": os.getpid(), "state": "stopped"})
    screen.say("Stopped.")
