"""The one background thread: runs each room's small regular tasks, and nothing else."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("flask_dbopt")

Task = Callable[[float], None]

_SHORTEST = 0.05
"""Seconds of rest at least, so that a still or backward clock never makes the thread spin."""
_LONGEST = 5.0
"""Seconds of rest at most, so that the thread of a forgotten optimizer ends soon."""


@dataclass(slots=True)
class _Chore:
    """One regular task, and when it is due."""

    name: str
    seconds: float
    task: Task
    due: float
    failures: int = 0
    """In a row."""


class Housekeeper:
    """Calls tasks at their intervals, late rather than twice, from a daemon thread that a first wake starts.

    A task gets the clock's time. One that raises is logged, stays, and holds up no other. The thread knows
    its housekeeper only weakly: an optimizer that is dropped without ``stop`` takes its thread along.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._chores: dict[str, _Chore] = {}
        self._stopped = False
        self.abandon()

    def every(self, seconds: float, task: Task, name: str, *, first_in: float | None = None) -> None:
        """Call ``task`` every ``seconds``, sooner the first time by ``first_in``. The same name replaces."""
        due = self._clock() + (seconds if first_in is None else min(first_in, seconds))
        chores = dict(self._chores)  # a copy, so that a turn in another thread can go on with its own
        chores[name] = _Chore(name, seconds, task, due)
        self._chores = chores
        self._bell.set()

    def wake(self) -> None:
        """Start the thread unless it runs or was stopped; an attribute test, so call it at every request."""
        if not self._awake:
            self._start()

    @property
    def running(self) -> bool:
        """Whether the thread is at work in this process."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def run_due(self, now: float | None = None) -> float:
        """Run what is due at ``now``, each task once however late; returns the seconds until the next is due.

        Runs nothing while another call of it is under way.
        """
        turn = self._turn
        if turn.acquire(blocking=False):
            try:
                for chore in self._chores.values():
                    self._attend(chore, self._clock() if now is None else now)
            finally:
                turn.release()
        now = self._clock() if now is None else now
        return min((chore.due - now for chore in self._chores.values()), default=_LONGEST)

    def stop(self, timeout: float = 5.0) -> bool:
        """End for good; True when the thread is gone within ``timeout`` seconds. May be repeated."""
        self._stopped = self._awake = True
        self._bell.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def abandon(self) -> None:
        """After a fork, in the child: the thread stayed behind, so new locks, no thread; the tasks remain."""
        self._starting = threading.Lock()
        self._turn = threading.Lock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._awake = self._stopped

    def _start(self) -> None:
        with self._starting:
            if self._awake:
                return
            thread = threading.Thread(
                target=_keep_house,
                args=(weakref.ref(self), self._bell),
                name=f"dbopt-{self.name}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:  # no thread to be had, or the interpreter is going down: the request goes on
                log.debug("the housekeeper of %s could not start", self.name, exc_info=True)
                return
            self._thread, self._awake = thread, True

    def _attend(self, chore: _Chore, now: float) -> None:
        if chore.due - now > chore.seconds:  # the clock went back
            chore.due = now + chore.seconds
        if now < chore.due or (self._stopped and self._thread is threading.current_thread()):
            return
        chore.due = now + chore.seconds
        try:
            chore.task(now)
        except (Exception, SystemExit):
            if not chore.failures:  # only the first of a row: a task every 2 s must not fill the log
                log.exception("the housekeeping task %s of %s failed; it will be tried again", chore.name, self.name)
            chore.failures += 1
        else:
            if chore.failures:
                log.info("the housekeeping task %s of %s works again", chore.name, self.name)
            chore.failures = 0


def _keep_house(housekeeper: weakref.ref[Housekeeper], bell: threading.Event) -> None:
    """The thread's life. It holds no strong reference while it rests."""
    while (keeper := housekeeper()) is not None and not keeper._stopped:
        rest = keeper.run_due()
        del keeper
        bell.wait(min(max(rest, _SHORTEST), _LONGEST))
        bell.clear()
