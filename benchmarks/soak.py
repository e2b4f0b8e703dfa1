"""Runs an app hard for minutes and says whether memory, descriptors or threads grow: `python -m benchmarks.soak`."""

from __future__ import annotations

import argparse
import gc
import logging
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from flask import Flask

from benchmarks.words import POINT, make_app, make_database
from flask_dbopt import DBOptimizer
from flask_dbopt.errors import PoolTimeout

THREADS, CONNECTIONS = 16, 8
#: The part of a run after which everything has its size: caches are full, connections are open.
WARM_UP = 0.3
#: Growth from the warm-up to the end that is not the machine's noise.
MOST_BYTES, MOST_DESCRIPTORS, MOST_THREADS = 8 << 20, 4, 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process has at one moment."""

    seconds: float
    bytes: int
    descriptors: int
    threads: int
    loans: int


@dataclass(frozen=True, slots=True)
class Growth:
    """The largest of the last samples less the largest of the first ones after the warm-up."""

    bytes: int
    descriptors: int
    threads: int

    def faults(self) -> list[str]:
        """What has grown, as sentences."""
        told = []
        if self.bytes > MOST_BYTES:
            told.append(f"memory has grown by {self.bytes / (1 << 20):.1f} MiB")
        if self.descriptors > MOST_DESCRIPTORS:
            told.append(f"there are {self.descriptors} more descriptors")
        if self.threads > MOST_THREADS:
            told.append(f"there are {self.threads} more threads")
        return told


def growth(samples: list[Sample]) -> Growth:
    """Compares a fifth of the samples after the warm-up with the last fifth."""
    warm = samples[int(len(samples) * WARM_UP) :]
    part = max(1, len(warm) // 5)
    first, last = warm[:part], warm[-part:]

    def grown(value: Callable[[Sample], int]) -> int:
        return max(map(value, last)) - max(map(value, first))

    return Growth(
        grown(lambda sample: sample.bytes),
        grown(lambda sample: sample.descriptors),
        grown(lambda sample: sample.threads),
    )


class Borrowers:
    """Threads that do all that borrowers do, the careless ones too."""

    def __init__(self, app: Flask, dbopt: DBOptimizer, seed: int) -> None:
        self._app = app
        self._dbopt = dbopt
        self._seed = seed
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.loans = [0] * THREADS
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        chance = random.Random(self._seed + number)
        deeds = (self._read, self._read, self._read, self._write, self._forget, self._drop, self._leave_open, self._own)
        while not self._stop.is_set():
            deed = chance.choice(deeds)
            try:
                deed(chance)
                self.loans[number] += 1
            except (PoolTimeout, sqlite3.OperationalError) as error:
                if "locked" not in str(error) and not isinstance(error, PoolTimeout):
                    self.failures.append(f"{deed.__name__}: {error!r}")
            except Exception as error:  # noqa: BLE001  # told at the end
                self.failures.append(f"{deed.__name__}: {error!r}")

    def _read(self, chance: random.Random) -> None:
        connection = self._dbopt.connect(check_same_thread=False)
        for _ in range(3):
            connection.execute(POINT, (chance.randrange(1, 100_000),)).fetchone()
        connection.close()

    def _write(self, chance: random.Random) -> None:
        with self._dbopt.transaction() as connection:
            connection.execute(
                "UPDATE word SET text = ? WHERE id = ?", (f"word {chance.random()}", chance.randrange(99))
            )

    def _forget(self, chance: random.Random) -> None:
        """An app context gives back what was forgotten."""
        with self._app.app_context():
            self._dbopt.connection.execute(POINT, (5,)).fetchall()

    def _drop(self, chance: random.Random) -> None:
        self._dbopt.connect().execute(POINT, (7,)).fetchone()

    def _leave_open(self, chance: random.Random) -> None:
        """Half read, in a transaction, of another kind."""
        connection = self._dbopt.connect(isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        half_read = connection.execute("SELECT * FROM word")
        half_read.fetchone()
        connection.close()

    def _own(self, chance: random.Random) -> None:
        """With a state that nobody else may have."""
        connection = self._dbopt.connect()
        connection.create_function("twice", 1, lambda number: number * 2)
        connection.execute("SELECT twice(id) FROM word WHERE id = 3").fetchone()
        connection.close()


def soak(seconds: float, every: float, tell: Callable[[str], object], seed: int = 1) -> tuple[list[Sample], list[str]]:
    """Run for some seconds; the samples, and what went wrong as sentences."""
    process = psutil.Process()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = make_app("soak", folder)
        dbopt = DBOptimizer(
            app, database=make_database(folder), pool_max=CONNECTIONS, pool_timeout=5, cache_max_entries=100
        )
        app.add_url_rule("/", view_func=lambda: str(dbopt.connection.execute(POINT, (9,)).fetchone()[0]))
        app.test_client().get("/")  # the background thread starts with the first request
        borrowers = Borrowers(app, dbopt, seed)
        borrowers.start()
        start = time.monotonic()
        try:
            while (spent := time.monotonic() - start) < seconds:
                time.sleep(min(every, seconds - spent + 0.01))
                gc.collect()
                sample = Sample(
                    time.monotonic() - start,
                    process.memory_info().rss,
                    process.num_fds(),
                    process.num_threads(),
                    sum(borrowers.loans),
                )
                samples.append(sample)
                tell(
                    f"{sample.seconds:6.0f} s  {sample.bytes / (1 << 20):7.1f} MiB  {sample.descriptors:4} descriptors"
                    f"  {sample.threads:3} threads  {sample.loans:9} loans"
                )
        finally:
            borrowers.stop()
        faults = growth(samples).faults() + borrowers.failures[:5]
        gc.collect()
        pool = dbopt.pool
        pool.collect_dropped()
        if pool.lent or len(pool.line.free) != CONNECTIONS or pool.line.waiters:
            faults.append(f"{len(pool.lent)} loans never ended; {len(pool.line.free)} of {CONNECTIONS} places are free")
        if not all(borrowers.loans):
            faults.append(f"{borrowers.loans.count(0)} threads never had a connection")
        dbopt.optimizer.close()
        left = [file.path for file in process.open_files() if file.path.startswith(str(folder))]
        if left:
            faults.append(f"left open: {', '.join(left)}")
    return samples, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=None, help="seconds between samples")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("flask_dbopt").setLevel(logging.CRITICAL)
    every = given.every or max(0.5, given.seconds / 60)
    samples, faults = soak(given.seconds, every, print, given.seed)
    grown = growth(samples)
    print(
        f"\nAfter the warm-up: {grown.bytes / (1 << 20):+.1f} MiB, {grown.descriptors:+} descriptors, "
        f"{grown.threads:+} threads; {samples[-1].loans / samples[-1].seconds:.0f} loans/s"
    )
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
