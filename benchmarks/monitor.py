"""What becomes of records: the cost of folding them, the memory that sums take, how true the quantiles are."""

from __future__ import annotations

import gc
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flask_dbopt.monitor.histogram import Buckets, add, quantiles
from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.monitor.tally import MOST_STATEMENTS, Tally
from flask_dbopt.settings import Settings

REQUESTS = 3_000
STATEMENTS = (
    "SELECT * FROM word WHERE id = ?",
    "SELECT * FROM list WHERE owner = ?",
    "UPDATE word SET uses = uses + 1 WHERE id = ?",
)


def serve(monitor: Monitor, count: int) -> None:
    recorder = monitor.recorder
    for number in range(count):
        cost = recorder.begin(f"page{number % 30}", "GET")
        for each in STATEMENTS:
            recorder.record(each, 0.0001, 1, None, number % 5 == 0, 1.0)
        recorder.end(cost, 200)


def fold() -> None:
    """Off the requests' path, but on the same processor."""
    monitor = Monitor(Settings(), None)
    took = []
    for _ in range(30):
        serve(monitor, REQUESTS)
        start = time.process_time()
        monitor._intake.fold(time.time())
        took.append((time.process_time() - start) / (REQUESTS * len(STATEMENTS)))
    print("\nFolding requests with three statements each, in µs a statement")
    print(f"median {statistics.median(took) * 1e6:.2f}, quickest round {min(took) * 1e6:.2f}")


def latencies() -> Sequence[float]:
    """Real ones: of look-ups, ranges, sorts and commits in a file."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "words.db")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, uses INTEGER)")
        rows = ((f"word {n}", n % 1000) for n in range(50_000))
        connection.executemany("INSERT INTO word (text, uses) VALUES (?, ?)", rows)
        connection.commit()
        chance, taken = random.Random(7), []
        kinds = (
            ("SELECT text FROM word WHERE id = ?", 20_000, 50_000),
            ("SELECT count(*) FROM word WHERE id < ?", 500, 20_000),
            ("SELECT text FROM word WHERE uses = ? ORDER BY text", 100, 1000),
            ("UPDATE word SET uses = uses + 1 WHERE id = ?", 2_000, 50_000),
        )
        work = [(sql, chance.randrange(most)) for sql, count, most in kinds for _ in range(count)]
        chance.shuffle(work)
        for sql, value in work:
            start = time.perf_counter()
            connection.execute(sql, (value,)).fetchall()
            connection.commit()
            taken.append(time.perf_counter() - start)
        connection.close()
    return taken


def truth() -> None:
    """The histogram's quantiles beside the exact ones of the same samples."""
    taken = sorted(latencies())
    buckets: Buckets = {}
    for start in range(0, len(taken), 1000):
        add(buckets, taken[start : start + 1000])
    print(f"\nQuantiles of {len(taken):,} real latencies ({len(buckets)} buckets)")
    print("| rank | exact µs | told µs | off by |")
    print("| ---: | -------: | ------: | -----: |")
    for rank in (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999):
        exact = taken[round(rank * (len(taken) - 1))]
        (told,) = quantiles(buckets, (rank,))
        print(f"| {rank:>4} | {exact * 1e6:>8.1f} | {told * 1e6:>7.1f} | {abs(told / exact - 1):>6.2%} |")


def grow(shapes: int) -> None:
    """In a child process: the memory that so many different statements take, with runs of every length."""
    monitor = Monitor(Settings(), Path(tempfile.mkdtemp()) / "ledger.db")
    serve(monitor, 100)
    monitor.sweep(time.time())
    gc.collect()
    before, chance, now = _resident(), random.Random(7), time.time()
    for number in range(shapes):
        cost = monitor.recorder.begin(f"page{number % 100}", "GET")
        sql = f"SELECT a.id, a.name, b.total FROM items AS a JOIN sums{number} AS b ON b.id = a.id WHERE a.id = ?"
        for _ in range(10):
            monitor.recorder.record(sql, chance.lognormvariate(-7, 1), 1, None, False, 1.0)
        monitor.recorder.end(cost, 200)
        if number % 1000 == 999:
            monitor.sweep(now)
            now += 2
    print(f"{_resident() - before:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before:.1f}")
    monitor.close()


def unswept(shapes: int) -> None:
    """The same with everything in one tally, as while the ledger cannot be written."""
    Tally().statements([["SELECT 1", 0.001, 1, None, False, 0.0, "default"]], "page", time.time(), 1.0)
    gc.collect()
    before, chance, now = _resident(), random.Random(7), time.time()
    tally = Tally()
    for number in range(shapes):
        sql = f"SELECT a.id, a.name, b.total FROM items AS a JOIN sums{number} AS b ON b.id = a.id WHERE a.id = ?"
        records = [[sql, chance.lognormvariate(-7, 1), 1, None, False, 0.0, "default"] for _ in range(10)]
        tally.statements(records, f"page{number % 100}", now, 1.0)
    print(f"{_resident() - before:.1f} {len(tally.shapes)}")


def _resident() -> float:
    """MiB of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def memory() -> None:
    print("\nMemory of a worker for statements of different shapes, 10 runs each, in MiB more than before the first")
    for shapes in (1_000, MOST_STATEMENTS, 3 * MOST_STATEMENTS):
        after, most = _child("grow", shapes).split()
        print(f"{shapes:>6,} shapes, flushed every 2 s:   {after} afterwards, {most} at most")
    for shapes in (MOST_STATEMENTS, 3 * MOST_STATEMENTS):
        after, kept = _child("unswept", shapes).split()
        print(f"{shapes:>6,} shapes, all in one tally:    {after} ({int(kept):,} shapes kept)")


def _child(function: str, shapes: int) -> str:
    code = f"from benchmarks.monitor import {function}; {function}({shapes})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def main() -> None:
    fold()
    truth()
    memory()


if __name__ == "__main__":
    main()
