"""Who may borrow now and who waits: as many places as there may be loans, and a line before them.

A place is taken and given back without a lock as long as nobody waits: a list's ``pop`` and ``append`` are each one
step of the interpreter. Once somebody waits, ``is_calm`` is False and every place that comes back passes the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

#: Seconds the first in line may be overtaken. Handing over costs a thread switch, during which nobody works.
PATIENCE = 0.001
#: Seconds between two places that are handed over; the threads that run go on running in between.
PACE = 0.002
#: Seconds between looks for connections that were dropped without ``close()``, while somebody waits.
LOOK_AGAIN = 0.05


class Waiter:
    """One borrower in line."""

    __slots__ = ("bell", "is_served", "since", "was_woken")

    def __init__(self, since: float) -> None:
        self.since = since
        self.bell = threading.Lock()
        """Locked until there is something to look up for."""
        self.bell.acquire()
        self.is_served = False
        """It was handed a place."""
        self.was_woken = False
        """It was told of a free place, without being given it."""

    def ring(self) -> None:
        """Under the line's lock, so that two never ring at once."""
        if self.bell.locked():
            self.bell.release()


class Line:
    """The places of one pool. All durations in seconds."""

    __slots__ = ("_clock", "_handed_at", "free", "is_calm", "lock", "owed", "waiters")

    def __init__(self, places: int, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.free = [None] * places
        """One None for each free place."""
        self.waiters: deque[Waiter] = deque()
        self.is_calm = True
        """Nobody waits and nothing is owed: a place may be taken from ``free``, and put there, without the lock."""
        self.owed = 0
        """Places to do away with as they come back, after the pool was made smaller."""
        self._handed_at = float("-inf")
        self._clock = clock

    def join(self, now: float, limit: int) -> Waiter | None:
        """Take a place, or line up for one. Raises OverflowError when ``limit`` (0: none) wait already."""
        with self.lock:
            self._serve(now)
            self.is_calm = False  # before looking: whoever gives a place back from here on looks for waiters
            if not (self.waiters and self._is_due(now)) and self._take():
                self._settle()
                return None
            if limit and len(self.waiters) >= limit:
                self._settle()
                raise OverflowError
            waiter = Waiter(now)
            self.waiters.append(waiter)
            return waiter

    def wait(self, waiter: Waiter, timeout: float, look: Callable[[float], object]) -> float | None:
        """Wait until the place is ours: the seconds it took, or None after ``timeout``.

        ``look`` is called now and then with the seconds spent so far, to find places that nobody gives back.
        """
        spent = 0.0  # counted as well, so that a clock that stands still keeps nobody waiting for ever
        try:
            while True:
                with self.lock:
                    pause = max(0.0, min(self._pause(waiter), timeout - spent))
                is_rung = waiter.bell.acquire(timeout=pause)
                if not is_rung and not waiter.is_served:
                    look(spent)
                with self.lock:
                    now = self._clock()
                    spent = max(spent if is_rung else spent + pause, now - waiter.since)
                    if waiter.is_served:
                        return spent
                    if self.waiters[0] is waiter and self._take():
                        self.waiters.popleft()
                        self._serve(now)
                        return spent
                    if spent >= timeout:
                        self._leave(waiter)
                        return None
        except BaseException:  # a signal's, while it waited
            with self.lock:
                self._leave(waiter)
            raise

    def give(self) -> None:
        """A place comes free while somebody waits, or while places are owed."""
        with self.lock:
            self.free.append(None)
            self._serve(self._clock())

    def tend(self) -> None:
        """Somebody lined up in the moment in which a place was put back without a look at the line."""
        with self.lock:
            self._serve(self._clock())

    def resize(self, more: int) -> None:
        """More places, or fewer: those that are taken go as they come back."""
        with self.lock:
            if more > 0:
                paid = min(more, self.owed)
                self.owed -= paid
                self.free.extend([None] * (more - paid))
            else:
                self.owed -= more
            self._serve(self._clock())

    def _serve(self, now: float) -> None:
        """Hand free places to whoever has waited long enough, and wake the first in line if one is left."""
        while self.owed and self._take():
            self.owed -= 1
        while self.waiters and self.free:
            first = self.waiters[0]
            if not self._is_due(now):
                # It may be overtaken still, but must not sleep beside a place that nobody else wants.
                if not first.was_woken:
                    first.was_woken = True
                    first.ring()
                break
            if not self._take():
                break
            self.waiters.popleft()
            self._handed_at = now
            first.is_served = True
            first.ring()
        self._settle()

    def _due_at(self, waiter: Waiter) -> float:
        """When it is to be overtaken no more, once it is the first."""
        return max(waiter.since + PATIENCE, self._handed_at + PACE)

    def _is_due(self, now: float) -> bool:
        return not now < self._due_at(self.waiters[0]) <= now + PACE  # or the clock went back

    def _pause(self, waiter: Waiter) -> float:
        """How long it may sleep: the first in line looks once more when it is due."""
        if self.waiters and self.waiters[0] is waiter:
            left = self._due_at(waiter) - self._clock()
            if 0.0 < left <= PACE:
                return left + 0.0001
        return LOOK_AGAIN

    def _take(self) -> bool:
        try:
            self.free.pop()
        except IndexError:  # as long as it was calm, others took places without the lock
            return False
        return True

    def _leave(self, waiter: Waiter) -> None:
        if waiter.is_served:
            self.free.append(None)
        else:
            self.waiters.remove(waiter)
        self._serve(self._clock())

    def _settle(self) -> None:
        self.is_calm = not self.waiters and not self.owed
